"""Blocks kept, dropped, repeated and reordered."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from drawn import SHIPPED
from families import FAMILIES, Pair, images, make_pair
from proofs import assert_works, logits, look, pixels

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cache import DecoderCache
from trocr.cli import main
from trocr.config import TrOCRConfig
from trocr.reader import Reader
from trocr.surgery.adapters import add_adapter, merge_adapter, unmerge_adapter
from trocr.surgery.depth import drop_blocks, keep_blocks
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning import prune_heads, prune_units

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of five and four blocks."""
    family = FAMILIES["learned"].changed({"num_hidden_layers": 5}, {"decoder_layers": 4})
    return make_pair(family, tmp_path_factory.mktemp("deep"))


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_keeping_all_changes_nothing(pair: Pair, stack: str):
    model = pair.fresh()
    before = look(model)
    for found in (keep_blocks(model, "all", stack=stack), drop_blocks(model, [], stack=stack)):
        assert found.counts() == {"kept": len(list(model.parameters()))}
    assert look(model) == before
    assert torch.equal(logits(model, images(pair.family, 2)), logits(pair.ours, images(pair.family, 2)))


@pytest.mark.parametrize(
    ("stack", "blocks"),
    [("encoder", [1, 0]), ("decoder", "1"), ("decoder", "0,0-1")],
)
def test_a_changed_model_still_works(pair: Pair, stack: str, blocks: str | list[int], tmp_path: Path):
    model = pair.fresh()
    keep_blocks(model, blocks, stack=stack)
    assert_works(model, tmp_path)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_the_kept_blocks_are_the_old_ones_in_order(deep: Pair, stack: str):
    model, order = deep.fresh(), [3, 1, 1, 2]
    old = list(getattr(model, stack).blocks)
    keep_blocks(model, order, stack=stack)
    new = list(getattr(model, stack).blocks)
    for block, number in zip(new, order, strict=True):
        for (name, left), (_, right) in zip(
            block.named_parameters(), old[number].named_parameters(), strict=True
        ):
            assert torch.equal(left, right), name
    assert new[0] is old[3]
    assert new[1] is old[1]
    assert new[3] is old[2]
    # what the model computes is what these blocks compute, one after another
    x = torch.randn(2, 5, 48 if stack == "decoder" else 32)
    hidden = x
    for number in order:
        hidden = old[number](hidden)[0]
    found = x
    for block in new:
        found = block(found)[0]
    assert torch.equal(hidden, found)


def test_dropping_equals_skipping(deep: Pair):
    """Dropped blocks change exactly what follows them: the states before are the same bits."""
    model, whole = deep.fresh(), deep.ours
    drop_blocks(model, "2-3", stack="encoder")
    made = images(deep.family, 2)
    with torch.no_grad():
        old = whole.encode(made, output_hidden_states=True).hidden_states
        new = model.encode(made, output_hidden_states=True).hidden_states
    assert len(old) == 6
    assert len(new) == 4
    assert all(torch.equal(new[n], old[n]) for n in range(3))
    assert torch.equal(new[3], whole.encoder.blocks[4](old[2])[0])
    assert model.config.encoder.num_hidden_layers == 3
    assert model.config.decoder == whole.config.decoder


def test_repeated_blocks_train_apart(deep: Pair):
    model = deep.fresh()
    keep_blocks(model, "0,0-1", stack="decoder")
    first, second = (model.decoder.blocks[n].mlp.fc1.weight for n in (0, 1))
    assert first is not second
    assert torch.equal(first, second)
    with torch.no_grad():
        first.add_(1)
    assert not torch.equal(first, second)


def test_modes_and_flags_stay(deep: Pair):
    model = deep.fresh().bfloat16().train()
    model.gradient_checkpointing_enable()
    model.encoder.blocks[1].eval()
    model.encoder.blocks[1].mlp.fc1.weight.requires_grad_(False)
    keep_blocks(model, "1,0,1", stack="encoder")
    blocks = model.encoder.blocks
    assert [block.training for block in blocks] == [False, True, False]
    assert [block.mlp.fc1.weight.requires_grad for block in blocks] == [False, True, False]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.is_gradient_checkpointing
    assert blocks.training
    tied = model.decoder
    assert tied.output_projection.weight is tied.embed_tokens.weight


def test_the_report_says_what_went_where(deep: Pair):
    model = deep.fresh()
    names = dict(model.named_parameters())
    each = len(list(model.decoder.blocks[0].parameters()))
    found = keep_blocks(model, "2,1,1", stack="decoder")
    assert found.counts() == {
        "kept": len(names) - 3 * each,
        "moved": each,
        "carried": each,
        "removed": 2 * each,
    }
    by_name = {(change.name, change.action): change for change in found.changes}
    assert by_name["decoder.blocks.0.mlp.fc1.bias", "moved"].source == "decoder.blocks.2.mlp.fc1.bias"
    assert by_name["decoder.blocks.2.mlp.fc1.bias", "carried"].source == "decoder.blocks.1.mlp.fc1.bias"
    assert ("decoder.blocks.3.mlp.fc1.bias", "removed") in by_name
    assert not any(change.name.startswith("decoder.blocks.1.") for change in found.changes)
    assert "the decoder now has its old blocks 2, 1, 1, in this order" in found.text()
    assert found.numbers["blocks_before"] == 4
    assert found.numbers["blocks"] == 3
    assert found.numbers["parameters"] == model.num_parameters() < found.numbers["parameters_before"]


def test_a_cache_of_before_is_refused(deep: Pair):
    model = deep.fresh()
    drop_blocks(model, "last:1", stack="decoder")
    with pytest.raises(ValueError, match="the cache is for 4 blocks, the decoder has 3"):
        model(
            pixels(model),
            decoder_input_ids=torch.full((2, 1), 2),
            past_key_values=DecoderCache(4),
            use_cache=True,
        )


def test_shapes_of_blocks_go_with_them(deep: Pair, tmp_path: Path):
    model = deep.fresh()
    prune_heads(model, {"decoder.blocks.1.cross_attn": [0, 2], "decoder.blocks.2.self_attn": [1]})
    prune_units(model, {"decoder.blocks.2.mlp": range(10)})
    keep_blocks(model, "2,2,1", stack="decoder")
    shapes = model.config.decoder.block_shapes
    assert [(s.self_attn_heads, s.cross_attn_heads, s.ffn_dim) for s in shapes] == [
        (3, 4, 54),
        (3, 4, 54),
        (4, 2, 64),
    ]
    assert_works(model, tmp_path / "pruned", in_reference=False)
    assert drop_blocks(model, "0,1", stack="decoder").notes[-1].startswith("transformers cannot load")


def test_where_the_rest_is_whole_again_the_ordinary_fields_are_enough(deep: Pair, tmp_path: Path):
    model = deep.fresh()
    prune_heads(model, {"decoder.blocks.1.cross_attn": [0, 2]})
    prune_units(model, {"decoder.blocks.[02].mlp": range(10)})
    keep_blocks(model, "0,2", stack="decoder")
    assert model.config.decoder.block_shapes is None
    assert model.config.decoder.decoder_ffn_dim == 54
    assert_works(model, tmp_path)


@pytest.mark.parametrize(
    ("function", "blocks", "stack", "message"),
    [
        (
            keep_blocks,
            "last:9",
            "decoder",
            "'last:9' are not among the 2 of the stack, which are numbered 0 to 1",
        ),
        (keep_blocks, [2], "encoder", r"\[2\] are not among the 2 of the stack"),
        (keep_blocks, [], "encoder", "are not among"),
        (keep_blocks, [0.5], "encoder", "must be a description such as last:2, or whole numbers"),
        (keep_blocks, 1, "encoder", "must be a description"),
        (keep_blocks, "most", "encoder", "must be all, last:N"),
        (keep_blocks, "all", "projection", "stack='projection' is unknown, expected one of encoder, decoder"),
        (drop_blocks, "all", "decoder", "'all' are all 2 of the decoder; at least one must stay"),
        (drop_blocks, "", "decoder", "must be all, last:N"),
        (drop_blocks, [5], "encoder", "are not among the 2"),
    ],
)
def test_what_cannot_be_is_refused(pair_of, function, blocks, stack, message):
    model = pair_of("learned").fresh()
    before = look(model)
    with pytest.raises(SurgeryError, match=message):
        function(model, blocks, stack=stack)
    assert look(model) == before


def test_an_adapter_is_refused(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model, modules="decoder.*.q_proj")
    before = look(model)
    with pytest.raises(SurgeryError, match=r"4 layers have an adapter \(.*\), .*; merge it first"):
        keep_blocks(model, "1", stack="decoder")
    assert look(model) == before


def test_a_merged_adapter_is_forgotten(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model, modules="decoder.*.q_proj")
    merge_adapter(model)
    assert "can no longer be taken out" not in keep_blocks(model, "all", stack="decoder").text()
    found = keep_blocks(model, "1", stack="decoder")
    assert "the adapter that was merged can no longer be taken out" in found.text()
    with pytest.raises(SurgeryError):
        unmerge_adapter(model)


def run(*arguments: str):
    return CliRunner().invoke(main, ["surgery", *arguments], catch_exceptions=False)


def test_commands(deep: Pair, tmp_path: Path):
    folder = tmp_path / "model"
    deep.fresh().save_pretrained(folder)
    TrOCRProcessor.from_pretrained(SHIPPED).save_pretrained(folder)
    kept, rest = str(tmp_path / "kept"), str(tmp_path / "rest")
    done = run(
        "keep-blocks", str(folder), kept, "--stack", "decoder", "--blocks", "last:2", "--json", f"{kept}.json"
    )
    assert done.exit_code == 0, done.output
    assert "the decoder now has its old blocks 2, 3, in this order" in done.output
    assert json.loads(Path(f"{kept}.json").read_text())["counts"]["removed"] == 2 * 26
    assert run("drop-blocks", kept, rest, "--stack", "encoder", "--blocks", "0,2").exit_code == 0
    config = VisionEncoderDecoderModel.from_pretrained(rest).config
    assert config.encoder.num_hidden_layers == 3
    assert isinstance(config.decoder, TrOCRConfig)
    assert config.decoder.decoder_layers == 2
    refused = run("drop-blocks", kept, rest + "2", "--stack", "decoder", "--blocks", "7")
    assert refused.exit_code == 1
    assert "'7' are not among the 2 of the stack" in refused.output
    assert not Path(rest + "2").exists()


def test_the_shipped_reader_reads_on_without_a_block():
    model, processor = (
        VisionEncoderDecoderModel.from_pretrained(SHIPPED),
        TrOCRProcessor.from_pretrained(SHIPPED),
    )
    drop_blocks(model, "4", stack="encoder")
    (line,) = Reader(model, processor).read(EXAMPLES / "heading.jpg")
    assert line.text == "Annual Report 1987"
