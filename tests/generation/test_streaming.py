import pytest
import torch
from toys import EOS, pixels, spell

from trocr.generation import GenerationError, Streamer, generate, stream


class Put:
    """Collects what a streamer of the reference gets."""

    def __init__(self) -> None:
        self.values: list[list] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


def test_stream_gives_tokens_step_by_step():
    model = spell([5, 6, EOS], [7, EOS])
    tokens = stream(model, pixels(0, 1), max_new_tokens=9)
    assert next(tokens).tolist() == [5, 7]
    assert len(model.decoder.calls) == 1, "nothing is computed ahead"
    assert [t.tolist() for t in tokens] == [[6, 2], [2, 1]]


def test_stream_checks_before_the_first_token():
    with pytest.raises(GenerationError, match="did you mean 'num_beams'"):
        stream(spell([5, EOS]), pixels(0), num_beam=1)
    with pytest.raises(GenerationError, match="streaming needs num_beams=1, got 2"):
        stream(spell([5, EOS]), pixels(0), num_beams=2)


def test_streamer_object():
    streamer = Put()
    assert isinstance(streamer, Streamer)
    sequences = generate(spell([5, 6, EOS], [7, EOS]), pixels(0, 1), streamer=streamer)
    assert streamer.values == [[[2], [2]], [5, 7], [6, 2], [2, 1]]
    assert streamer.ended == 1
    assert sequences.tolist() == [[2, 5, 6, 2], [2, 7, 2, 1]]


def test_callback():
    got = []
    generate(spell([5, 6, EOS]), pixels(0), streamer=lambda tokens: got.append(tokens.tolist()))
    assert got == [[5], [6], [2]]


def test_streamer_of_the_reference():
    transformers = pytest.importorskip("transformers")

    class Tokenizer:
        def decode(self, ids: list[int], **options) -> str:
            return " ".join(map(str, ids)) + " "

    class Collecting(transformers.TextStreamer):
        text = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.text += text

    streamer = Collecting(Tokenizer())
    generate(spell([5, 6, EOS]), pixels(0), streamer=streamer)
    assert streamer.text.split() == ["2", "5", "6", "2"]


def test_beams_cannot_be_streamed():
    with pytest.raises(GenerationError, match="streaming needs num_beams=1, got 2"):
        generate(spell([5, EOS]), pixels(0), num_beams=2, streamer=Put())
