"""Sizes: parameters are all there, multiply-adds are those that PyTorch counts."""

import dataclasses
import json

import pytest
import torch
from inspected import FAMILIES, make_model
from torch.utils.flop_counter import FlopCounterMode

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel
from trocr.hub import PRETRAINED
from trocr.inspect import measure_sizes
from trocr.surgery.patterns import SurgeryError

ON_META = ("microsoft/trocr-base-handwritten", "microsoft/trocr-small-printed")


PRUNED = "pruned"
"""The first family with other heads and units in each block."""


def load(name: str) -> VisionEncoderDecoderModel:
    if name == PRUNED:
        config = make_model("learned").config
        encoder = [{"num_heads": 1, "intermediate_size": 40}, {"num_heads": 2, "intermediate_size": 7}]
        decoder = [
            {"self_attn_heads": 3, "cross_attn_heads": 1, "ffn_dim": 5},
            {"self_attn_heads": 2, "cross_attn_heads": 3, "ffn_dim": 56},
        ]
        parts = {
            "encoder": dataclasses.replace(config.encoder, block_shapes=tuple(encoder)),
            "decoder": dataclasses.replace(config.decoder, block_shapes=tuple(decoder)),
        }
        return VisionEncoderDecoderModel(dataclasses.replace(config, **parts)).eval()
    if name in FAMILIES:
        return make_model(name)
    if name == "tiny-printed":
        return VisionEncoderDecoderModel.from_pretrained(PRETRAINED / name)
    with torch.device("meta"):
        return VisionEncoderDecoderModel(OFFICIAL_MODELS[name].config).eval()


def counted(model: VisionEncoderDecoderModel, tokens: int) -> tuple[dict[str, int], dict[str, int], int]:
    """Multiply-adds that PyTorch counts: by module for an image and for the last token, all for the line."""
    model.set_attention("eager")  # with gradients on: without, layers take ways that PyTorch does not count
    device = model.device
    pixels = torch.zeros(1, 3, *model.config.encoder.image_hw, device=device)
    one = torch.full((1, 1), 4, device=device)
    with FlopCounterMode(display=False, depth=9) as image:
        memory = model.memory(model.encode(pixels))
    whole, cache = image.get_total_flops(), None
    for _ in range(tokens):
        with FlopCounterMode(display=False, depth=9) as step:
            out = model.decoder(
                input_ids=one, encoder_hidden_states=memory, past_key_values=cache, use_cache=True
            )
        cache = out.past_key_values
        whole += step.get_total_flops()
    by_module = []
    for counter in (image, step):
        flops = counter.get_flop_counts()
        by_module.append({name: sum(found.values()) // 2 for name, found in flops.items()})
    return by_module[0], by_module[1], whole // 2


@pytest.mark.parametrize("name", [*FAMILIES, PRUNED, "tiny-printed", *ON_META])
def test_multiply_adds_are_those_that_pytorch_counts(name):
    model = load(name)
    tokens = 3
    sizes = measure_sizes(model, tokens=tokens)
    image, token, line = counted(model, tokens)
    total = sizes.total
    cross = sum(row.image_macs for row in sizes.rows if row.name.endswith(".cross_attn"))
    assert (
        total.image_macs - cross == image["Global"]
    )  # what is counted with the image is computed by the first step
    assert total.token_macs == token["Global"]
    assert total.line_macs == line
    kinds = {"encoder": type(model.encoder).__name__, "decoder": type(model.decoder).__name__}
    for row in sizes.rows:
        part, _, rest = row.name.partition(".")
        if part in kinds and ".blocks." in row.name:
            found = (image if part == "encoder" else token).get(f"{kinds[part]}.{rest}", 0)
            assert (row.image_macs if part == "encoder" else row.token_macs) == found, row.name


@pytest.mark.parametrize("name", [*FAMILIES, PRUNED, "tiny-printed", *ON_META])
def test_every_parameter_is_counted_once(name):
    model = load(name)
    sizes = measure_sizes(model)
    assert sizes.total.parameters == model.num_parameters()
    assert sizes.total.bytes == 4 * model.num_parameters()
    half = measure_sizes(model.to(torch.bfloat16))
    assert half.total.bytes == 2 * model.num_parameters()
    for part in ("encoder", "decoder", "decoder.blocks.1"):
        own = {id(p): p.numel() for p in model.get_submodule(part).parameters()}
        assert sizes.part(part).parameters == sum(own.values())


def test_the_line_is_its_tokens_together():
    model = make_model("learned")
    for tokens in (1, 7, 30):
        steps = [measure_sizes(model, tokens=t).total for t in range(1, tokens + 1)]
        assert steps[-1].line_macs == steps[0].image_macs + sum(step.token_macs for step in steps)


def test_table_and_values():
    sizes = measure_sizes(load("tiny-printed"), tokens=20)
    table = sizes.table().splitlines()
    rows = {row.split("  ")[0]: row.split()[-5:] for row in table[:-1]}
    assert rows["encoder.blocks.*.mlp x 6"] == ["3,153,408", "12.03", "380.63", "0.00", "380.63"]
    assert rows["total"][0] == f"{sizes.total.parameters:,}"
    assert table[-1].startswith("Millions of multiply-adds: for an image (121 encoder tokens), for token 20 ")
    values = json.loads(json.dumps(sizes.to_dict()))
    assert sum(row["line_macs"] for row in values["rows"]) == values["total"]["line_macs"]


def test_errors():
    model = make_model("learned")
    for tokens in (0, 31):
        with pytest.raises(SurgeryError, match=f"tokens is {tokens}, expected 1 to 30"):
            measure_sizes(model, tokens=tokens)
    assert measure_sizes(model).tokens == 30
    with pytest.raises(SurgeryError, match=r"'decoder\.blocks\.2' is no module of this table"):
        measure_sizes(model).part("decoder.blocks.2")
