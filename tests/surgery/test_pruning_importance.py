"""How much heads and units matter, measured on lines, and what goes by it."""

from pathlib import Path

import pytest
import torch
from drawn import SHIPPED, processor
from families import difference, labels
from proofs import logits, look, pixels
from pruned import EQUAL, attentions, silence_heads, silence_units
from torch import Tensor, nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.data.sources import open_source
from trocr.surgery.importance import head_importance, line_batches, unit_importance
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning import prune_heads, prune_units
from trocr.training.batches import Batch


def line_losses(model: nn.Module, made: Tensor, wanted: Tensor) -> Tensor:
    """Each line's mean loss by the model's own forward, one line at a time."""
    pairs = zip(made.split(1), wanted.split(1), strict=True)
    return torch.stack([model(pixel_values=image, labels=row).loss for image, row in pairs])


def test_importance_is_the_change_of_the_loss(pair_of):
    """Against finite differences: the columns that read a head or unit, times 1 + h and 1 - h."""
    model = pair_of("learned").fresh().double()
    made, wanted = pixels(model, 3).double(), labels(3, 8)
    heads, units = (measure(model, [(made, wanted)]) for measure in (head_importance, unit_importance))
    checks = [
        ("decoder.blocks.0.cross_attn", "out_proj", 2, heads),
        ("encoder.blocks.1.self_attn", "out_proj", 0, heads),
    ]
    checks += [("encoder.blocks.0.mlp", "fc2", 5, units), ("decoder.blocks.1.mlp", "fc2", 17, units)]
    for name, leaf, number, found in checks:
        weight = getattr(model.get_submodule(name), leaf).weight
        width = weight.shape[1] // len(found[name])
        columns = slice(number * width, (number + 1) * width)
        kept, losses = weight.detach().clone(), []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                weight[:, columns] = kept[:, columns] * (1 + step)
                losses.append(line_losses(model, made, wanted))
            weight.copy_(kept)
        expected = ((losses[0] - losses[1]) / 2e-5).abs().mean()
        assert float(found[name][number]) == pytest.approx(float(expected), rel=1e-3), name


def test_importance_does_not_depend_on_the_batches(pair_of):
    model = pair_of("learned").fresh()
    made, wanted = pixels(model, 4), labels(4, 8)
    whole = head_importance(model, [{"pixel_values": made, "labels": wanted}])
    rows = [
        Batch(pixel_values=i, labels=t, texts=(), names=())
        for i, t in zip(made.split(1), wanted.split(1), strict=True)
    ]
    single = head_importance(model, [*rows, (made[:1], torch.full((1, 3), -100))])
    assert list(whole) == list(attentions(model))
    for name, values in whole.items():
        torch.testing.assert_close(values, single[name], rtol=1e-4, atol=1e-6)
    lengths = head_importance(model, rows, normalise=True)
    assert all(float(values.norm()) == pytest.approx(1, rel=1e-5) for values in lengths.values())
    assert torch.equal(
        lengths["encoder.blocks.0.self_attn"].argsort(), whole["encoder.blocks.0.self_attn"].argsort()
    )


def test_measuring_leaves_no_trace(pair_of):
    model = pair_of("learned").fresh().train()
    model.decoder.blocks[0].eval()
    before, made = look(model), pixels(model)
    with torch.no_grad():
        head_importance(model, [(made, labels(2, 6))])
    with pytest.raises(SurgeryError, match="labels range from 5 to 700"):
        unit_importance(model, [(made, torch.tensor([[5, 700], [6, -100]]))])
    with pytest.raises(SurgeryError, match="a batch is a int, expected pixel_values and labels"):
        unit_importance(model, [5])
    with pytest.raises(SurgeryError, match="no line with a text"):
        unit_importance(model, [(made, torch.full((2, 4), -100))])
    assert look(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_head_without_effect_matters_nothing_and_goes_first(pair_of):
    pair = pair_of("learned")
    model = pair.fresh()
    silence_heads(model, {"encoder.blocks.1.self_attn": [0], "decoder.blocks.0.self_attn": [2]})
    silence_units(model, {"decoder.blocks.1.mlp": [9, 30]})
    made = pixels(model)
    expected, batches = logits(model, made), [(made, labels(2, 8))]
    found = prune_heads(model, share=0.1, importance=head_importance(model, batches))
    assert found.notes[:2] == (
        "encoder.blocks.1.self_attn: 1 of 2 heads stay: 1",
        "decoder.blocks.0.self_attn: 3 of 4 heads stay: 0, 1, 3",
    )
    found = prune_units(model, share=2 / 256, importance=unit_importance(model, batches))
    assert found.notes[0] == "decoder.blocks.1.mlp: 62 of 64 units stay"
    assert difference(expected, logits(model, made)) < EQUAL


def test_a_share_goes_least_important_first_and_one_stays(pair_of):
    model = pair_of("learned").fresh()
    parts = attentions(model)
    scores = {
        name: torch.arange(part.num_heads) + 10.0 * place for place, (name, part) in enumerate(parts.items())
    }
    prune_heads(model, share=0.25, importance=scores)  # 5 of 20; the encoder's two attentions have two each
    assert [part.num_heads for part in parts.values()] == [1, 1, 1, 4, 4, 4]
    model = pair_of("learned").fresh()
    prune_heads(model, share=0.5, modules="decoder.*.cross_attn", importance=scores)
    assert [part.num_heads for part in attentions(model).values()] == [2, 2, 4, 1, 4, 3]
    model = pair_of("learned").fresh()
    prune_heads(model, keep_heads=2, importance=scores)
    assert [part.num_heads for part in attentions(model).values()] == [2] * 6
    assert model.config.decoder.shapes[0].cross_attn_heads == 2
    old = pair_of("learned").ours.decoder.blocks[0].cross_attn
    assert torch.equal(model.decoder.blocks[0].cross_attn.q_proj.weight, old.q_proj.weight[24:])


def test_lines_are_spread_over_a_source_and_damaged_ones_left_out(lines: Path):
    source = open_source(lines)
    batches = list(line_batches(source, processor(), batch_size=4))
    assert [len(made) for made, _ in batches] == [4, 2]
    assert batches[0][0].shape == (4, 3, 32, 640)
    (single,) = line_batches(source, processor(), max_lines=2, max_tokens=3)
    texts = [processor().tokenizer.decode([i for i in row.tolist() if i >= 0]) for row in single[1]]
    assert single[1].shape[1] <= 3
    for record, text in zip((source[0], source[3]), texts, strict=True):
        assert record.text.startswith(text.strip())
        assert text


def test_units_of_the_shipped_reader_that_matter_least_can_go(lines: Path):
    """A measured choice changes the outputs less than the opposite one."""
    changes = []
    for sign in (1, -1):
        model = VisionEncoderDecoderModel.from_pretrained(SHIPPED)
        shipped = TrOCRProcessor.from_pretrained(SHIPPED)
        batches = list(line_batches(open_source(lines), shipped, max_lines=3))
        made = batches[0][0]
        before = logits(model, made)
        measured = unit_importance(model, batches)
        prune_units(model, share=0.1, importance={name: sign * values for name, values in measured.items()})
        changes.append(difference(before, logits(model, made)))
    assert changes[0] * 2 < changes[1]


def test_an_encoder_of_timm_is_left_alone():
    pytest.importorskip("timm")
    from test_adapters_timm import VIT, model_with

    model = model_with("vit_tiny_patch16_224", **VIT)
    made, wanted = torch.randn(2, 3, 32, 32), labels(2, 6)
    measured = head_importance(model, [(made, wanted)])
    assert all(name.startswith("decoder.") for name in measured)
    before = model.encoder.config
    prune_heads(model, share=0.25, importance=measured)
    assert model.config.encoder is before
    assert sum(s.self_attn_heads + s.cross_attn_heads for s in model.config.decoder.shapes) == 12
