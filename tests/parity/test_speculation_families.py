"""Greedy search with a draft, on every family and on the shipped reader: the tokens of plain greedy search.

Scores of several positions at once are rounded in another order than those of one: log-probabilities may
differ in the last digits, tokens only where two scores are that close.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import EOS, FAMILIES, PAD, VOCAB_SIZE, images, make_hf

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.generation import ModelDraft, NGramDraft, generate, stream

ROUNDING = 2e-4
"""Largest difference of log-probabilities, of logits up to 20."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all positions": {"max_length": 41, "min_length": 41},
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "max_new_tokens": 20},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": EOS, "max_length": 9},
    "pads welcome": {"sequence_bias": [[[PAD], 6.0]], "max_new_tokens": 14},
    "prefix": {"decoder_input_ids": torch.tensor([[2, 5, 9]] * 5), "max_new_tokens": 12},
    "one token": {"max_new_tokens": 1},
}


def drafts(pair: Any, plain: torch.Tensor) -> dict[str, Any]:
    """Drafts that are always right, mostly right, seldom right and wrong."""
    learnt = NGramDraft(order=3, num_tokens=3, min_share=0.0)
    for row in plain[:3, 1:].tolist():
        learnt.learn(row)
    noisy = pair.fresh()
    with torch.no_grad():
        noisy.decoder.embed_tokens.weight.add_(torch.randn(noisy.decoder.embed_tokens.weight.shape) * 0.05)
    return {
        "itself": ModelDraft(pair.ours, num_tokens=5, min_prob=0.0),
        "its decoder": ModelDraft(pair.ours, num_tokens=3, min_prob=0.0, shares_encoder=True),
        "noisy": ModelDraft(noisy, num_tokens=4, min_prob=0.0),
        "n-grams": learnt,
    }


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("rows", [1, 5])
def test_tokens_are_those_of_greedy_search(pair, name, rows):
    options = {"return_dict_in_generate": True, "max_new_tokens": 24, **OPTIONS[name]}
    if "max_length" in options:
        del options["max_new_tokens"]
    if "decoder_input_ids" in options:
        options["decoder_input_ids"] = options["decoder_input_ids"][:rows]
    pixel_values = images(pair.family, rows)
    torch.manual_seed(0)
    plain = generate(pair.ours, pixel_values, **options)
    for kind, draft in drafts(pair, plain.sequences).items():
        found = generate(pair.ours, pixel_values, draft=draft, **options)
        assert torch.equal(found.sequences, plain.sequences), kind
        assert torch.equal(found.finished, plain.finished), kind
        torch.testing.assert_close(found.token_log_probs, plain.token_log_probs, rtol=0, atol=ROUNDING)
        assert found.past_key_values.length == plain.past_key_values.length
        if kind == "itself" and name == "plain" and rows == 1:
            assert draft.counts.accepted == draft.counts.guessed > 0


def test_a_draft_saves_calls(pair):
    draft = ModelDraft(pair.ours, num_tokens=5, min_prob=0.0)
    found = generate(pair.ours, images(pair.family, 1), draft=draft, max_new_tokens=24, min_length=25)
    assert found.shape == (1, 25)
    assert draft.counts.calls <= 5
    streamed = list(stream(pair.ours, images(pair.family, 1), draft=draft, max_new_tokens=24, min_length=25))
    assert torch.equal(torch.stack(streamed, dim=1), found[:, 1:])


def test_a_decoder_alone_with_padding_at_the_left(pair):
    ids = torch.tensor([[PAD, PAD, 5, 9], [2, 6, 7, 8]])
    memory = pair.ours.memory(pair.ours.encode(images(pair.family, 2)))
    inputs = {"input_ids": ids, "encoder_hidden_states": memory, "max_new_tokens": 15}
    plain = generate(pair.ours.decoder, **inputs)
    draft = ModelDraft(pair.ours.decoder, min_prob=0.0)
    assert torch.equal(generate(pair.ours.decoder, draft=draft, **inputs), plain)
    assert draft.counts.calls < plain.shape[1] - 4


def test_encoder_states_of_another_width(pair_of):
    narrow, wide = pair_of("projection"), pair_of("learned")
    draft = ModelDraft(wide.ours, shares_encoder=True)
    with pytest.raises(ValueError, match="reads encoder states of width 32, those of the model have 40"):
        generate(narrow.ours, images(narrow.family, 1), draft=draft)
    pixel_values = images(narrow.family, 2)
    with_own = generate(narrow.ours, pixel_values, draft=wide.ours, max_new_tokens=9)
    assert torch.equal(with_own, generate(narrow.ours, pixel_values, max_new_tokens=9))


def test_a_draft_with_fewer_positions(tmp_path, pair_of):
    pair = pair_of("learned")
    make_hf(FAMILIES["learned"].changed(decoder={"max_position_embeddings": 10})).save_pretrained(tmp_path)
    small = ModelDraft(VisionEncoderDecoderModel.from_pretrained(tmp_path), min_prob=0.0)
    pixel_values = images(pair.family, 1)
    options = {"max_length": 41, "min_length": 41}
    expected = generate(pair.ours, pixel_values, **options)
    assert torch.equal(generate(pair.ours, pixel_values, draft=small, **options), expected)
    assert small.model.config.decoder.vocab_size == VOCAB_SIZE


def test_the_shipped_reader_with_every_draft(repo: Path):
    folder = repo / "examples"
    processor = TrOCRProcessor.from_pretrained("tiny-printed")
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed", device="cpu")
    lines = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()]
    pixel_values = processor([folder / name for name, _ in lines], return_tensors="pt").pixel_values
    encoded = model.encode(pixel_values)
    plain = generate(model, encoder_outputs=encoded, return_dict_in_generate=True)
    half = NGramDraft.from_texts([text for _, text in lines[::2]], processor.tokenizer, min_share=0.3)
    for draft in (half, ModelDraft(model, shares_encoder=True, min_prob=0.9)):
        for rows in ([0], [3], [0, 1, 2, 3, 4, 5, 6, 7]):
            states = type(encoded)(last_hidden_state=encoded.last_hidden_state[rows])
            found = generate(model, encoder_outputs=states, draft=draft, return_dict_in_generate=True)
            length = found.sequences.shape[1]
            assert torch.equal(found.sequences, plain.sequences[rows, :length])
            expected = plain.token_log_probs[rows, : length - 1]
            torch.testing.assert_close(found.token_log_probs, expected, rtol=0, atol=ROUNDING)
        assert draft.counts.accepted > 0
