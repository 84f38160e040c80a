"""Rules for all that is below a module, whose names stay."""

import pytest

from weights_conversion.hf import HF, HF_TIMM
from weights_conversion.rename import KeyMapError, Table

NAMES = ("pos_embed", "blocks.0.norm1.weight", "layer1.0.bn1.num_batches_tracked", "blocks.0.attn.proj.bias")


def test_names_below_stay_in_both_directions():
    keys = [f"encoder.timm_model.{name}" for name in NAMES]
    ours = [f"encoder.backbone.{name}" for name in NAMES]
    assert HF.forward(keys) == {key: (name,) for key, name in zip(keys, ours, strict=True)}
    assert HF.invert(ours) == dict(zip(ours, keys, strict=True))
    assert HF.knows(keys) == len(keys)
    shapes = {f"timm_model.{name}": (3,) for name in NAMES} | {"positions.weight": (2, 3)}
    expected = {key.replace("timm_model", "backbone"): shape for key, shape in shapes.items()}
    plan = HF_TIMM.plan(shapes, expected, origin="file")
    assert {move.target: move.source for move in plan.items} == {
        key.replace("timm_model", "backbone"): key for key in shapes
    }
    assert {pack.source for pack in HF_TIMM.pack(expected)} == set(shapes)


def test_other_modules_are_not_below():
    assert HF_TIMM.matches("timm_model") == []
    assert HF_TIMM.matches("timm_models.conv.weight") == []
    assert HF_TIMM.source_of("backbones.conv.weight") is None
    with pytest.raises(KeyMapError, match=r"missing[\s\S]*timm_model\.conv\.weight"):
        HF_TIMM.plan({}, {"backbone.conv.weight": (1,)}, origin="file")


def test_two_rules_for_one_name_are_told():
    table = Table({"a.*": "b.*", "a.c": "d"})
    with pytest.raises(KeyMapError, match="matched by several rules"):
        table.plan({"a.c.weight": (1,)}, {"b.c.weight": (1,)}, origin="file")
