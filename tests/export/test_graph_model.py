"""Graphs of plain tensors read as the model does, for every family, whoever runs them."""

import pytest
import torch
from exported import as_graphs, make_model
from families import FAMILIES, PAD, START, ids, images

from trocr.export.errors import ExportedModelError
from trocr.export.graph_model import GraphCache
from trocr.surgery.pruning import prune_heads, prune_units

SAME = 1e-5
"""Largest difference of scores: plain products in another order."""

OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "all beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5},
    "samples": {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "penalties": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "num_beams": 2},
}


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param


def pair(model_of, family):
    model = model_of(family)
    return model, as_graphs(model)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_same_tokens(model_of, family, options):
    model, exported = pair(model_of, family)
    pixels = images(FAMILIES[family], 5)
    for count in (1, 5):
        wanted = model.generate(pixels[:count], max_new_tokens=9, **options)
        assert torch.equal(exported.generate(pixels[:count], max_new_tokens=9, **options), wanted)
    assert len({tuple(row) for row in wanted.tolist()}) > 1 or family == "projection"  # which repeats itself


def test_many_rows_that_end_at_different_times(model_of):
    model, exported = pair(model_of, "learned")
    pixels = images(FAMILIES["learned"], 24)
    ends = model.generate(pixels, max_new_tokens=8)[:, 8].unique().tolist()
    for beams in (1, 2):
        options = {"max_new_tokens": 30, "eos_token_id": ends, "pad_token_id": PAD, "num_beams": beams}
        wanted = model.generate(pixels, **options)
        lengths = wanted.ne(PAD).sum(dim=1)
        assert int(lengths.min()) < int(lengths.max()), "all rows end together: nothing is dropped"
        assert torch.equal(exported.generate(pixels, **options), wanted)


def test_blocks_of_different_sizes(tmp_path):
    """Heads and units pruned block by block: keys and values differ in shape."""
    model = make_model("learned", tmp_path / "model")
    prune_heads(model, heads={"decoder.blocks.0.self_attn": [1], "decoder.blocks.1.cross_attn": [0, 2]})
    prune_units(model, units={"decoder.blocks.1.mlp": list(range(10))})
    exported = as_graphs(model)
    assert exported.decoder.layers == ((3, 12), (4, 12))
    pixels = images(FAMILIES["learned"], 3)
    for beams in (1, 3):
        wanted = model.generate(pixels, num_beams=beams, max_new_tokens=9)
        assert torch.equal(exported.generate(pixels, num_beams=beams, max_new_tokens=9), wanted)


def test_states_and_memory(model_of, family):
    model, exported = pair(model_of, family)
    pixels = images(FAMILIES[family], 2)
    encoded = exported.encode(pixels)
    with torch.no_grad():
        reference = model.encode(pixels)
        memory = model.memory(reference)
    assert torch.allclose(encoded.last_hidden_state, reference.last_hidden_state, atol=SAME)
    assert torch.allclose(exported.memory(encoded), memory, atol=SAME)


def test_a_prefix_with_padding_at_the_left(model_of, family):
    model, exported = pair(model_of, family)
    pixels = images(FAMILIES[family], 2)
    prefix = torch.tensor([[START, 7, 8, 9], [PAD, PAD, START, 9]])
    mask = prefix.ne(PAD).long()
    options = {"decoder_input_ids": prefix, "decoder_attention_mask": mask, "max_new_tokens": 6}
    for beams in (1, 3):
        wanted = model.generate(pixels, num_beams=beams, **options)
        assert torch.equal(exported.generate(pixels, num_beams=beams, **options), wanted)


def test_scores_in_one_pass_and_step_by_step(model_of, family):
    model, exported = pair(model_of, family)
    tokens = ids(4, 7)
    with torch.no_grad():
        memory = model.memory(model.encode(images(FAMILIES[family], 2)))  # two rows for each image
        wanted = model.decoder(input_ids=tokens, encoder_hidden_states=memory).logits
    whole = exported.decoder(input_ids=tokens, encoder_hidden_states=memory, use_cache=False)
    assert whole.past_key_values is None
    assert torch.allclose(whole.logits, wanted, atol=SAME)
    out = exported.decoder(input_ids=tokens[:, :3], encoder_hidden_states=memory, use_cache=True)
    parts = [out.logits]
    for start, end in ((3, 4), (4, 7)):
        out = exported.decoder(
            input_ids=tokens[:, start:end], past_key_values=out.past_key_values, use_cache=True
        )
        parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, dim=1), wanted, atol=SAME)
    last = exported.decoder(input_ids=tokens, encoder_hidden_states=memory, logits_to_keep=1).logits
    assert last.shape == (4, 1, wanted.shape[2])


def test_narrower_images(model_of):
    model, exported = pair(model_of, "non_square")
    pixels = images(FAMILIES["non_square"], 2)
    for width in (4, 12, 27):
        narrow = pixels[..., :width]
        with torch.no_grad():
            wanted = model.encode(narrow, crop_pos_encoding=True).last_hidden_state
        found = exported.encode(narrow, crop_pos_encoding=True).last_hidden_state
        assert torch.allclose(found, wanted, atol=SAME)
    with pytest.raises(ExportedModelError, match=r"expected \(images, 3, 32, 64\).*crop_pos_encoding=True"):
        exported.encode(narrow)


def test_a_cache_is_cut_and_reordered():
    past = [torch.arange(24.0).view(3, 2, 2, 2) for _ in range(2)]
    cache = GraphCache(list(past), [torch.arange(3.0).view(3, 1, 1, 1)])
    cache.select(torch.tensor([2, 0]))
    assert torch.equal(cache.past[0], past[0][[2, 0]])
    cache.keep_images(torch.tensor([1]))
    assert cache.cross[0].flatten().tolist() == [1.0]
    assert cache.get_seq_length() == 2
    cache.truncate(1)
    assert cache.length == 1
    assert torch.equal(cache.past[1], past[1][[2, 0], :, :1])
    with pytest.raises(ExportedModelError, match="holds 1 tokens and cannot be cut to 2"):
        cache.truncate(2)


def test_what_graphs_cannot_do_is_said(model_of):
    _, exported = pair(model_of, "learned")
    pixels = images(FAMILIES["learned"], 2)
    tokens = ids(2, 3)
    memory = exported.memory(exported.encode(pixels))
    with pytest.raises(ExportedModelError, match="no output_attentions"):
        exported.encode(pixels, output_attentions=True)
    with pytest.raises(ExportedModelError, match="no interpolate_pos_encoding"):
        exported.encode(pixels, interpolate_pos_encoding=True)
    with pytest.raises(ExportedModelError, match="gives no attentions"):
        exported.generate(
            encoder_outputs=exported.encode(pixels), output_attentions=True, return_dict_in_generate=True
        )
    with pytest.raises(ExportedModelError, match="encoder_hidden_states is missing"):
        exported.decoder(input_ids=tokens)
    with pytest.raises(ExportedModelError, match="is a dict, expected the cache"):
        exported.decoder(input_ids=tokens, past_key_values={})
    with pytest.raises(ExportedModelError, match="3 rows of tokens for 2 images"):
        exported.decoder(input_ids=ids(3, 2), encoder_hidden_states=memory)
    with pytest.raises(ExportedModelError, match="41 tokens are more than the 40 positions"):
        exported.decoder(input_ids=ids(2, 41), encoder_hidden_states=memory)
    with pytest.raises(ExportedModelError, match=r"attention_mask has shape \(2, 2\), expected \(2, 3\)"):
        exported.decoder(input_ids=tokens, encoder_hidden_states=memory, attention_mask=torch.ones(2, 2))
    with pytest.raises(IndexError, match=r"token ids from 2 to 99.*ids 0 to 98"):
        exported.decoder(input_ids=torch.tensor([[2, 99]]), encoder_hidden_states=memory[:1])
