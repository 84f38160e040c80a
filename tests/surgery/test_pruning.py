"""Heads and units taken out: what is left computes what the whole computes without them."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from drawn import SHIPPED, drawn_lines, processor, small_model
from families import Pair, difference, images, labels
from proofs import assert_works, logits, look, pixels
from torch import Tensor, nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.data.sources import open_source
from trocr.nn.attention import Attention
from trocr.nn.mlp import MLP
from trocr.surgery.adapters import add_adapter
from trocr.surgery.importance import head_importance, line_batches, unit_importance
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning import prune_heads, prune_units
from trocr.surgery.recipe import apply_recipe, read_recipe
from trocr.training.batches import Batch

EQUAL = 1e-6
"""Largest difference between a head that is gone and one that counts zero times, relative to the largest
logit: shorter sums are added up in another order."""

HEADS = {"encoder.blocks.0.self_attn": [1], "decoder.blocks.*.cross_attn": [0], "decoder.blocks.1.*": [3]}
UNITS = {"encoder.blocks.1.mlp": range(0, 64, 3), "decoder.*": [0, 5, 63]}


def attentions(model: nn.Module) -> dict[str, Attention]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Attention)}


def feed_forwards(model: nn.Module) -> dict[str, MLP]:
    return {name: part for name, part in model.named_modules() if isinstance(part, MLP)}


@torch.no_grad()
def silence_heads(model: nn.Module, heads: dict[str, list[int]]) -> None:
    for name, numbers in heads.items():
        part = attentions(model)[name]
        for head in numbers:
            part.out_proj.weight[:, head * part.head_dim : (head + 1) * part.head_dim] = 0


@torch.no_grad()
def silence_units(model: nn.Module, units: dict[str, list[int]]) -> None:
    for name, numbers in units.items():
        feed_forwards(model)[name].fc2.weight[:, list(numbers)] = 0


# ---- what is computed ----


def test_a_head_that_is_gone_counts_zero_times(pair: Pair):
    model, silent = pair.fresh(), pair.fresh()
    prune_heads(model, HEADS)
    gone = {"encoder.blocks.0.self_attn": [1], "decoder.blocks.0.cross_attn": [0]}
    gone |= {"decoder.blocks.1.cross_attn": [0, 3], "decoder.blocks.1.self_attn": [3]}
    silence_heads(silent, gone)
    made = images(pair.family, 2)
    assert difference(logits(silent, made), logits(model, made)) < EQUAL
    assert difference(logits(pair.ours, made), logits(model, made)) > 1e-3


def test_a_unit_that_is_gone_counts_zero_times(pair: Pair):
    model, silent = pair.fresh(), pair.fresh()
    prune_units(model, UNITS)
    gone = {"encoder.blocks.1.mlp": list(range(0, 64, 3))}
    gone |= {f"decoder.blocks.{n}.mlp": [0, 5, 63] for n in (0, 1)}
    silence_units(silent, gone)
    made = images(pair.family, 2)
    assert difference(logits(silent, made), logits(model, made)) < EQUAL
    assert difference(logits(pair.ours, made), logits(model, made)) > 1e-3


def test_what_stays_is_the_old_rows_bit_by_bit(pair_of):
    pair = pair_of("unilm")
    model = pair.fresh()
    prune_heads(model, {"decoder.blocks.0.cross_attn": [1, 2]})
    prune_units(model, {"encoder.blocks.0.mlp": [0, 1, 2]})
    old, new = dict(pair.ours.named_parameters()), dict(model.named_parameters())
    rows = [*range(6), *range(18, 24)]  # heads of 6
    changed = {}
    for leaf in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            name = f"decoder.blocks.0.cross_attn.{leaf}.{kind}"
            changed[name] = old[name][rows]
    changed["decoder.blocks.0.cross_attn.out_proj.weight"] = old[
        "decoder.blocks.0.cross_attn.out_proj.weight"
    ][:, rows]
    for kind in ("weight", "bias"):
        changed[f"encoder.blocks.0.mlp.fc1.{kind}"] = old[f"encoder.blocks.0.mlp.fc1.{kind}"][3:]
    changed["encoder.blocks.0.mlp.fc2.weight"] = old["encoder.blocks.0.mlp.fc2.weight"][:, 3:]
    assert all(torch.equal(new[name], changed.get(name, old[name])) for name in old)
    assert {name for name in old if new[name].shape != old[name].shape} == set(changed)


def test_taking_nothing_changes_nothing(pair_of):
    model = pair_of("learned").fresh()
    before, parts = look(model), attentions(model)
    flat = {name: torch.ones(part.num_heads) for name, part in parts.items()}
    units = {name: torch.ones(64) for name in feed_forwards(model)}
    for found in (
        prune_heads(model, {"*": []}),
        prune_heads(model, share=0.0, importance=flat),
        prune_heads(model, keep_heads=99, importance=flat),
        prune_units(model, share=0, importance=units),
        prune_units(model, keep_units=64, importance=units),
    ):
        assert found.counts() == {"kept": len(list(model.parameters()))}
        assert found.notes == ()
    assert look(model) == before


# ---- what it is afterwards ----


def test_pruned_models_work(pair: Pair, tmp_path: Path):
    model = pair.fresh()
    found = prune_heads(model, HEADS)
    assert found.notes[-1].startswith("transformers cannot load this checkpoint")
    prune_units(model, {"decoder.blocks.0.mlp": [1, 2]})
    shapes = model.config.decoder.block_shapes
    assert [(s.self_attn_heads, s.cross_attn_heads, s.ffn_dim) for s in shapes] == [(4, 3, 62), (3, 2, 64)]
    assert model.config.decoder.decoder_attention_heads == 4
    assert model.config.encoder.shapes[0].num_heads == 1
    assert_works(model, tmp_path, in_reference=False)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["encoder"]["block_shapes"] == [
        {"num_heads": 1, "intermediate_size": 64},
        {"num_heads": 2, "intermediate_size": 64},
    ]


def test_as_many_units_everywhere_are_an_ordinary_model(pair: Pair, tmp_path: Path):
    model = pair.fresh()
    taken = {"encoder.blocks.0.mlp": range(24), "encoder.blocks.1.mlp": range(40, 64), "decoder.*": [7]}
    assert not any("transformers" in note for note in prune_units(model, taken).notes)
    assert model.config.encoder.intermediate_size == 40
    assert model.config.decoder.decoder_ffn_dim == 63
    assert_works(model, tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert "block_shapes" not in written


def test_modes_flags_and_precision_stay(pair_of):
    model = pair_of("learned").fresh().bfloat16().train()
    model.decoder.blocks[0].eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("cross_attn" in name)
    modes = [part.training for part in model.modules()]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    prune_heads(model, {"decoder.*": [1]})
    prune_units(model, {"*": [1]})
    assert [part.training for part in model.modules()] == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tied = model.decoder
    assert tied.output_projection.weight is tied.embed_tokens.weight


def test_the_report_names_every_tensor_that_changed(pair_of):
    model = pair_of("learned").fresh()
    found = prune_heads(model, {"decoder.blocks.0.self_attn": [0, 3]})
    assert [
        (change.name.rpartition("self_attn.")[2], change.before, change.shape) for change in found.changes
    ] == [
        ("q_proj.weight", (48, 48), (24, 48)),
        ("q_proj.bias", (48,), (24,)),
        ("k_proj.weight", (48, 48), (24, 48)),
        ("k_proj.bias", (48,), (24,)),
        ("v_proj.weight", (48, 48), (24, 48)),
        ("v_proj.bias", (48,), (24,)),
        ("out_proj.weight", (48, 48), (48, 24)),
    ]
    assert {change.action for change in found.changes} == {"sliced"}
    assert found.notes[0] == "decoder.blocks.0.self_attn: 2 of 4 heads stay: 1, 2"
    assert found.numbers["heads_before"] == 20
    assert found.numbers["heads"] == 18
    assert found.numbers["parameters_before"] - found.numbers["parameters"] == 3 * (24 * 48 + 24) + 48 * 24


# ---- importance ----


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


def test_masks(pair_of):
    left, right = pair_of("learned").fresh(), pair_of("learned").fresh()
    prune_heads(left, {"decoder.blocks.0.*": torch.tensor([False, True, False, True])})
    prune_heads(
        right,
        {"decoder.blocks.0.self_attn": [1], "decoder.blocks.0.cross_attn": [3, 1], "decoder.*.0.self*": (3,)},
    )
    made = pixels(left)
    assert torch.equal(logits(left, made), logits(right, made))


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (prune_heads, {}, "nothing given, expected one of heads, share, keep_heads"),
        (
            prune_units,
            {"share": 0.5, "keep_units": 3},
            "share and keep_units given, expected one of units, share",
        ),
        (prune_heads, {"heads": {"*.cross_at": [0]}}, r"'\*.cross_at' matches no attention of a block"),
        (prune_units, {"units": {"decoder": [0]}}, "'decoder' matches no feed-forward part of a block"),
        (prune_heads, {"heads": {}}, "expected a mapping of names or patterns"),
        (prune_heads, {"heads": [0]}, "expected a mapping of names or patterns"),
        (
            prune_heads,
            {"heads": {"decoder.*": [4]}},
            "self_attn: heads 4 is not there, they are numbered 0 to 3",
        ),
        (prune_heads, {"heads": {"decoder.*": [-1]}}, "heads -1 is not there"),
        (prune_heads, {"heads": {"decoder.*": [1.0]}}, "heads 1.0 is not there"),
        (prune_heads, {"heads": {"decoder.*": 1}}, "heads 1, expected a list of numbers or a mask"),
        (prune_units, {"units": {"*": [True]}}, "a mask of 1 was given, there are 64"),
        (
            prune_heads,
            {"heads": {"*": [1], "encoder.*": [0]}},
            "encoder.blocks.0.self_attn would lose all its heads",
        ),
        (prune_units, {"units": {"*": [True] * 64}}, "would lose all its units; one must stay"),
        (prune_heads, {"share": 0.5}, "importance is missing: give what head_importance measures, or data"),
        (prune_heads, {"share": 0.1, "data": "lines"}, "or the processor that makes images of the data"),
        (prune_heads, {"share": 1.0, "importance": {}}, "share=1.0, expected a number from 0 to below 1"),
        (prune_heads, {"share": "1", "importance": {}}, "share='1', expected a number"),
        (prune_heads, {"share": 0.9, "importance": {}}, "0.9 of 20 heads is 18; at most 14 can go"),
        (
            prune_units,
            {"share": 0.1, "importance": {}},
            "nothing for encoder.blocks.0.mlp; measure it with unit_imp",
        ),
        (prune_units, {"keep_units": 0, "importance": {}}, "keep_units=0, expected a whole number above 0"),
        (prune_units, {"keep_units": 1.5, "importance": {}}, "keep_units=1.5, expected a whole number"),
        (
            prune_heads,
            {"keep_heads": 1, "modules": "encoder.*", "importance": {"encoder.blocks.0.self_attn": [1.0]}},
            r"has shape \(1,\), expected 2 finite numbers",
        ),
        (
            prune_heads,
            {
                "keep_heads": 1,
                "modules": "encoder.blocks.0*",
                "importance": {"encoder.blocks.0.self_attn": [1.0, float("nan")]},
            },
            "expected 2 finite numbers",
        ),
        (prune_heads, {"share": 0.1, "modules": "enc", "importance": {}}, "'enc' matches no attention"),
        (prune_heads, {"heads": {"*": [0]}, "data": "x"}, "data given, but heads names what goes"),
        (prune_heads, {"heads": {"*": [0]}, "importance": {}}, "importance given, but heads names what goes"),
        (prune_heads, {"share": 0.1, "data": "x", "max_lines": 0}, "max_lines=0, expected a whole number"),
    ],
)
def test_what_cannot_be_is_refused(pair_of, function, options, message):
    model = pair_of("learned").fresh()
    before = look(model)
    with pytest.raises(SurgeryError, match=message):
        function(model, **options)
    assert look(model) == before


def test_an_adapter_is_refused(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model)
    before = look(model)
    for function in (prune_heads, prune_units):
        with pytest.raises(SurgeryError, match="have an adapter"):
            function(model, {"*": [0]})
    assert look(model) == before


# ---- on lines ----


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    records = drawn_lines(6)
    for record in records:
        record.open().save(folder / record.name)
    rows = [f"{record.name}\t{record.text}" for record in records]
    (folder / "damaged.png").write_bytes(b"no image")
    (folder / "labels.tsv").write_text("\n".join([*rows, "damaged.png\ttext"]) + "\n")
    return folder


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


def test_commands_and_recipes(lines: Path, tmp_path: Path):
    model, folder = small_model(), tmp_path / "model"
    model.save_pretrained(folder)
    processor().save_pretrained(folder)

    def run(*arguments: str):
        return CliRunner().invoke(main, ["surgery", *arguments], catch_exceptions=False)

    source = ("--data", str(lines), "--lines", "3")
    heads = run(
        "prune-heads", str(folder), f"{folder}-h", "--share", "0.25", *source, "--modules", "decoder.*"
    )
    assert heads.exit_code == 0, heads.output
    assert "prune_heads:" in heads.output
    assert "heads_before 8" in heads.output
    assert "heads 6" in heads.output
    units = run("prune-units", f"{folder}-h", f"{folder}-u", "--units", "40", *source)
    assert units.exit_code == 0, units.output
    config = VisionEncoderDecoderModel.from_pretrained(f"{folder}-u").config
    assert config.encoder.intermediate_size == 40
    assert config.encoder.block_shapes is None
    assert sum(s.self_attn_heads + s.cross_attn_heads for s in config.decoder.block_shapes) == 6
    named = run(
        "prune-units", str(folder), f"{folder}-n", "--unit", "decoder.*=0,2-3", "--unit", "encoder.*=63"
    )
    assert named.exit_code == 0, named.output
    config = VisionEncoderDecoderModel.from_pretrained(f"{folder}-n").config
    assert (config.encoder.intermediate_size, config.decoder.decoder_ffn_dim) == (63, 61)
    wrong = run("prune-heads", str(folder), f"{folder}-x", "--head", "decoder.*")
    assert wrong.exit_code == 2
    assert "'decoder.*', expected PATTERN=numbers such as 0,2,4-6" in wrong.output
    wrong = run("prune-heads", str(folder), f"{folder}-x", "--share", "0.5")
    assert wrong.exit_code == 1
    assert "importance is missing" in wrong.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""[[operation]]
name = "prune_heads"
heads = {{"decoder.blocks.0.*" = [1]}}
[[operation]]
name = "prune_units"
keep_units = 50
data = "{lines}"
"""
    )
    reports = apply_recipe(model, read_recipe(recipe), processor=processor())
    assert [found.operation for found in reports] == ["prune_heads", "prune_units"]
    assert model.config.decoder.shapes[0].self_attn_heads == 1
    assert model.config.decoder.shapes[1].ffn_dim == 50


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
