import io
import math
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trocr import (
    ImageError,
    Line,
    Reader,
    RobertaTokenizer,
    TokenizerError,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
)
from trocr.generation import transition_scores
from trocr.hub import PRETRAINED, HubError
from trocr.line import token_texts
from trocr.reader import ReaderError, check_tokenizer
from trocr.reading.images import without_padding
from trocr.reading.scores import token_log_probs

LOG_PROB_TOLERANCE = 1e-4
"""Step by step with a cache, or all tokens at once: other orders of summation in float32."""


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(device="cpu")


@pytest.fixture(scope="module")
def labels(repo) -> dict[str, str]:
    rows = (repo / "examples" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    return {str(repo / "examples" / name): text for name, text in (row.split("\t") for row in rows)}


def test_reads_the_examples(reader, labels):
    lines = list(reader.read(labels))
    assert [line.text for line in lines] == list(labels.values())
    assert [line.source for line in lines] == list(labels)
    assert all(line.finished and 0.8 < line.score < 1 for line in lines)


def test_reads_the_examples_with_beams(reader, labels):
    assert [line.text for line in reader.read(labels, num_beams=4)] == list(labels.values())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_change_the_text(reader, labels, batch_size):
    assert [line.text for line in reader.read(labels, batch_size=batch_size)] == list(labels.values())


def test_any_form_of_an_image(reader, labels):
    path, text = next(item for item in labels.items() if item[0].endswith("book.png"))
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    data = Path(path).read_bytes()
    forms = [path, data, io.BytesIO(data), image, np.asarray(image), torch.tensor(np.asarray(image))]
    for form in forms:
        assert [line.text for line in reader.read(form)] == [text]
    lines = list(reader.read(form for form in forms[:1] + forms[3:]))
    assert [line.text for line in lines] == [text] * 4
    assert [line.source for line in lines] == [path, "images[1]", "images[2]", "images[3]"]
    assert [line.text for line in reader.read(np.stack([image, image]))] == [text] * 2


def test_nothing_to_read(reader):
    assert list(reader.read([])) == []


def test_tokens_add_up_to_text_and_score(reader, labels):
    for line in reader.read(labels):
        assert "".join(token.text for token in line.tokens) == line.text
        assert line.tokens[-1].id == 2
        mean = sum(token.logprob for token in line.tokens) / len(line.tokens)
        assert line.score == pytest.approx(math.exp(mean))
        assert all(token.logprob <= 0 for token in line.tokens)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_log_probabilities_are_those_of_the_search(reader, labels, num_beams):
    """Against the logits of the steps, which generation keeps by another way."""
    pixels = reader.processor(list(labels), return_tensors="pt").pixel_values
    options = {"return_dict_in_generate": True, "output_logits": True, "num_beams": num_beams}
    out = reader.model.generate(pixels, **options)
    wanted = transition_scores(out.sequences, out.logits, out.beam_indices, normalize_logits=True)
    lines = list(reader.read(labels, num_beams=num_beams))
    for line, ids, row in zip(lines, out.sequences[:, 1:].tolist(), wanted.tolist(), strict=True):
        count = len(line.tokens)
        assert [token.id for token in line.tokens] == ids[:count]
        assert [token.logprob for token in line.tokens] == pytest.approx(row[:count], abs=LOG_PROB_TOLERANCE)


def test_log_probabilities_ignore_generation_options(reader, labels, monkeypatch):
    plain = list(reader.read(labels))
    options = reader.model.generation_config.update(repetition_penalty=1.01, renormalize_logits=True)
    monkeypatch.setattr(reader.model, "generation_config", options)
    for one, other in zip(plain, reader.read(labels), strict=True):
        assert one.text == other.text
        logprobs = [token.logprob for token in other.tokens]
        assert [token.logprob for token in one.tokens] == pytest.approx(logprobs, abs=LOG_PROB_TOLERANCE)


@torch.inference_mode()
def test_log_probabilities_in_small_pieces(reader, labels, monkeypatch):
    pixels = reader.processor(list(labels), return_tensors="pt").pixel_values
    memory = reader.model.memory(reader.model.encode(pixels))
    ids = torch.randint(3, 500, (len(labels), 9))
    whole = token_log_probs(reader.model, memory, ids)
    monkeypatch.setattr("trocr.reading.scores.SCORING_BYTES", 1)
    torch.testing.assert_close(
        token_log_probs(reader.model, memory, ids), whole, rtol=0, atol=LOG_PROB_TOLERANCE
    )


def test_a_cut_text_says_so(reader, labels):
    path, text = next(iter(labels.items()))
    (line,) = reader.read(path, max_new_tokens=4)
    assert not line.finished
    assert len(line.tokens) == 4
    assert text.startswith(line.text)
    assert "".join(token.text for token in line.tokens) == line.text


def test_a_checkpoint_that_asks_for_beams_and_results(reader, labels, monkeypatch):
    options = reader.model.generation_config.update(num_beams=3, num_return_sequences=3)
    monkeypatch.setattr(reader.model, "generation_config", options)
    assert [line.text for line in reader.read(labels)] == list(labels.values())


def test_bad_image_is_raised_after_the_lines_before(reader, labels, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image at all")
    paths = [*list(labels)[:2], bad, *list(labels)[2:]]
    got = []
    with pytest.raises(ImageError, match=r"bad\.png: not an image"):
        got.extend(line.text for line in reader.read(paths))
    assert got == list(labels.values())[:2]


def test_bad_images_can_be_left_out(reader, labels, tmp_path):
    first, second = list(labels)[:2]
    errors = []
    images = [tmp_path / "none.png", first, np.zeros((0, 4), np.uint8), b"", second]
    lines = list(reader.read(images, batch_size=2, on_error=lambda *args: errors.append(args)))
    assert [line.source for line in lines] == [first, second]
    assert [source for source, _ in errors] == [str(tmp_path / "none.png"), "images[2]", "images[3]"]
    assert all(str(error).startswith(source) for source, error in errors)


def test_a_list_in_the_list(reader, labels):
    first, second = list(labels)[:2]
    with pytest.raises(ImageError, match=r"images\[1\]: 2 images in one; expected a flat list"):
        list(reader.read([first, [first, second]]))


def test_images_are_taken_as_they_are_needed(reader):
    """Memory is flat: the images of three batches at most are alive, however many there are."""
    alive = most = 0

    def gone():
        nonlocal alive
        alive -= 1

    def images():
        nonlocal alive, most
        for _ in range(24):
            image = np.full((32, 40), 255, np.uint8)
            weakref.finalize(image, gone)
            alive += 1
            most = max(most, alive)
            yield image
            del image

    for _ in reader.read(images(), batch_size=2, max_new_tokens=2):
        pass
    assert 2 <= most <= 6
    assert alive == 0


def test_stopping_early_leaves_no_thread(reader, labels):
    lines = reader.read(list(labels) * 3, batch_size=2)
    assert isinstance(next(lines), Line)
    lines.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trocr-images")]


@pytest.mark.parametrize("name", ["batch_size", "num_beams"])
def test_counts_are_checked_at_once(reader, name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        reader.read([], **{name: 0})


def test_line_as_plain_values(reader, labels):
    path = next(iter(labels))
    (line,) = reader.read(path)
    plain = line.to_dict()
    assert list(plain) == ["path", "text", "score", "finished", "tokens"]
    assert plain["path"] == path
    assert plain["tokens"][-1].keys() == {"id", "text", "logprob"}


def test_a_loaded_model(reader, labels):
    twin = Reader(reader.model, reader.processor)
    assert twin.model is reader.model
    assert [line.text for line in twin.read(labels)] == list(labels.values())
    with pytest.raises(ReaderError, match="needs its processor too"):
        Reader(reader.model)


def test_lower_precision(labels):
    reader = Reader(device="cpu", dtype="bfloat16")
    assert reader.model.dtype == torch.bfloat16
    assert [line.text for line in reader.read(labels)] == list(labels.values())
    with pytest.raises(ReaderError, match=r"is read as it is, on cpu in torch\.bfloat16: leave device"):
        Reader(reader.model, reader.processor, dtype="float32")
    plain = VisionEncoderDecoderModel.from_pretrained("tiny-printed", dtype="bfloat16")
    assert Reader(plain, reader.processor, dtype="float32").model.dtype == torch.float32


@pytest.mark.gpu
def test_reads_on_a_gpu(labels):
    for dtype in ("float32", "float16", "bfloat16"):
        reader = Reader(dtype=dtype)
        assert reader.model.device.type == "cuda"
        for num_beams in (1, 4):
            assert [line.text for line in reader.read(labels, num_beams=num_beams)] == list(labels.values())


def test_processor_from_elsewhere(labels, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(PRETRAINED / "tiny-printed" / name)
    reader = Reader(tmp_path, "tiny-printed", device="cpu")
    assert [line.text for line in reader.read(labels)] == list(labels.values())


def test_devices(monkeypatch):
    with pytest.raises(ReaderError, match="device 'gpu' is unknown, expected cpu, cuda or cuda:N"):
        Reader(device="gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ReaderError, match="device 'cuda:1': this machine has 1 CUDA devices"):
        Reader(device="cuda:1")


def test_unknown_model():
    with pytest.raises(HubError, match="no directory 'tiny'"):
        Reader("tiny")


def test_a_tokenizer_of_another_model(reader):
    tokenizer = RobertaTokenizer.from_pretrained(PRETRAINED / "tiny-printed")
    check_tokenizer(tokenizer, reader.model)
    tokenizer.add_tokens([f"more{i}" for i in range(100)])
    processor = TrOCRProcessor(reader.processor.image_processor, tokenizer)
    with pytest.raises(TokenizerError, match=r"613 tokens and the model's vocabulary 520 .* comes from"):
        Reader(reader.model, processor)


def test_a_tokenizer_with_other_special_tokens(reader, monkeypatch):
    options = reader.model.generation_config.update(eos_token_id=[7, 8], pad_token_id=9)
    monkeypatch.setattr(reader.model, "generation_config", options)
    with pytest.raises(
        TokenizerError, match=r"its end token is 2 and the model's \(7, 8\); its padding token is 1 and .* 9"
    ):
        check_tokenizer(reader.processor.tokenizer, reader.model)


@pytest.mark.parametrize("text", ["café", "naïve 日本 👍🏽!", "", " two  spaces", "a�b"])
def test_token_texts_keep_characters_whole(reader, text):
    tokenizer = reader.processor.tokenizer
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    parts = token_texts(tokenizer, ids, text)
    assert len(parts) == len(ids)
    assert "".join(parts) == text
    assert parts[-1] == ""


def test_token_texts_where_decoding_cleans_up(reader):
    """Clean-up removes a space that an earlier token had: the parts still add up."""

    class Cleaning:
        def decode(self, ids, skip_special_tokens):
            return "".join("ab ,"[id] for id in ids).replace(" ,", ",")

    assert token_texts(Cleaning(), [0, 2, 3, 1], "a,b") == ["a", "", ",", "b"]


def test_native_width_reads_the_examples_and_encodes_less(reader, labels, monkeypatch):
    widths = []
    encoder = reader.model.encoder
    cut = encoder.cut
    monkeypatch.setattr(encoder, "cut", lambda pixels: (widths.append(pixels.shape[3]), cut(pixels))[1])
    assert [line.text for line in reader.read(labels, native_width=True, batch_size=1)] == list(
        labels.values()
    )
    full = reader.model.config.encoder.image_hw[1]
    assert all(width % 8 == 0 and width <= full for width in widths)
    assert min(widths) < full / 2
    assert [line.text for line in reader.read(labels, native_width=True)] == list(labels.values())


def test_padding_is_cut_where_all_images_are_flat():
    pixels = torch.full((2, 1, 2, 32), 0.5)
    assert without_padding(pixels, multiple=8).shape == (2, 1, 2, 8)
    pixels[1, 0, 1, 9] = 0.0
    assert without_padding(pixels, multiple=8).shape == (2, 1, 2, 16)
    pixels[0, 0, 0, 15] = 0.0
    assert torch.equal(without_padding(pixels, multiple=8), pixels[..., :24])
    pixels[0, 0, 0, 30] = 0.0
    assert torch.equal(without_padding(pixels, multiple=8), pixels)


def test_native_width_needs_a_processor_that_pads(reader):
    squeezing = TrOCRProcessor.from_pretrained(PRETRAINED / "tiny-printed", pad_to_aspect_ratio=False)
    with pytest.raises(ReaderError, match="native_width is for processors that pad lines"):
        Reader(reader.model, squeezing).read("a.png", native_width=True)
