"""Backbones of timm: their attention, rollout through it, and their sizes module by module."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_inspect_timm import CONVOLUTIONS, TRANSFORMER, build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trocr.config_timm import TimmConfig
from trocr.inspect import attention_maps, attention_rollout, capture, list_taps, measure_sizes, patch
from trocr.surgery.adapters import add_adapter
from trocr.surgery.patterns import SurgeryError

from inspected import make_model  # isort: skip

WINDOWS = TimmConfig(
    architecture="swin_tiny_patch4_window7_224",
    hidden_size=64,
    image_size=(32, 64),
    model_args={
        "global_pool": "",
        "img_size": [32, 64],
        "window_size": 4,
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 2],
    },
)
CLASS_ATTENTION = TimmConfig(
    architecture="cait_xxs24_224",
    hidden_size=32,
    image_size=(32, 64),
    model_args={
        "global_pool": "",
        "img_size": [32, 64],
        "embed_dim": 32,
        "depth": 1,
        "depth_token_only": 1,
        "num_heads": 2,
    },
)
ROUNDING = 1e-5


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90), dtype=np.uint8))


def test_attention_of_timm_is_captured_though_it_is_fused(picture):
    model, processor = build(TRANSFORMER)
    pixels = processor(picture, return_tensors="pt").pixel_values
    attention = model.encoder.backbone.blocks[1].attn
    fused = attention.fused_attn
    taps = {tap.name: tap for tap in list_taps(model)}
    name = "encoder.backbone.blocks.1.attn.attn_drop"
    assert (taps[name].kind, taps[name].shape) == ("probs", "(..., queries, keys)")
    with torch.no_grad():
        plain = model.encode(pixels).last_hidden_state
        with capture(model, [name, "encoder.backbone.blocks.1.norm1"]) as captured:
            assert attention.fused_attn is False
            opened = model.encode(pixels).last_hidden_state
        assert attention.fused_attn is fused
        assert torch.equal(model.encode(pixels).last_hidden_state, plain)
        (x,) = captured["encoder.backbone.blocks.1.norm1"]
        q, k, _ = attention.qkv(x).unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)  # each (1, H, S, K)
        expected = (q @ k.transpose(-2, -1) / 8).softmax(dim=-1)
        assert torch.allclose(captured[name][0], expected, atol=ROUNDING)
        assert torch.allclose(opened, plain, atol=ROUNDING)
        with patch(model, {name: lambda probs: torch.full_like(probs, 1 / 9)}):
            assert not torch.allclose(model.encode(pixels).last_hidden_state, plain, atol=1e-3)


def test_rollout_goes_through_a_transformer_of_timm(picture):
    model, processor = build(TRANSFORMER)
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    plain = attention_maps(model, processor, picture, **options)
    rolled = attention_maps(model, processor, picture, rollout=True, **options)
    with torch.no_grad(), capture(model, "encoder.*attn_drop") as captured:
        model.encode(processor(picture, return_tensors="pt").pixel_values)
    mixture = attention_rollout([calls[0] for calls in captured.values()])[0].numpy()
    before = np.concatenate((plain.prefix[:, 0], plain.maps[:, 0].reshape(4, -1)), axis=1)
    after = np.concatenate((rolled.prefix[:, 0], rolled.maps[:, 0].reshape(4, -1)), axis=1)
    assert np.allclose(after, before @ mixture, atol=ROUNDING)
    assert np.allclose(after.sum(axis=1), 1, atol=ROUNDING)
    assert not np.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (CONVOLUTIONS, "rollout needs the attentions of the encoder, and TimmModel gives none"),
        (
            WINDOWS,
            r"among all 32 states .* backbone\.layers\.0\.blocks\.0\.attn\.attn_drop gives \(8, 2, 16, 16\)",
        ),
        (CLASS_ATTENTION, r"among all 9 states .* backbone\.blocks\.0\.attn\.attn_drop gives \(1, 2, 8, 8\)"),
    ],
    ids=lambda value: getattr(value, "architecture", ""),
)
def test_rollout_needs_attention_among_all_states(encoder, message, picture):
    model, processor = build(encoder)
    with pytest.raises(SurgeryError, match=message):
        attention_maps(model, processor, picture, rollout=True, max_new_tokens=2)


@pytest.mark.parametrize(
    "encoder", [TRANSFORMER, CONVOLUTIONS, WINDOWS, CLASS_ATTENTION], ids=lambda c: c.architecture
)
def test_sizes_of_a_backbone_are_told_module_by_module(encoder):
    model, _ = build(encoder)
    sizes = measure_sizes(model, tokens=3)
    pixels = torch.zeros(1, 3, *encoder.image_hw)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.encode(pixels)
    assert sizes.part("encoder").image_macs == counter.get_total_flops() // 2
    assert sizes.total.parameters == model.num_parameters()
    assert all(row.image_macs >= 0 for row in sizes.rows)
    counts = counter.get_flop_counts()
    root = type(model.encoder).__name__
    shown = [row for row in sizes.rows if row.name.startswith("encoder.backbone.")]
    assert len(shown) > 4
    for row in shown:
        inside = [other for other in sizes.rows if other.name.startswith(f"{row.name}.")]
        found = counts.get(row.name.replace("encoder", root, 1), {})
        assert row.image_macs + sum(o.image_macs for o in inside) == sum(found.values()) // 2, row.name


def test_blocks_of_a_backbone_share_rows_of_the_table():
    model, _ = build(TRANSFORMER)
    with torch.inference_mode():
        table = measure_sizes(model, tokens=3).table().splitlines()
    assert any(line.startswith("encoder.backbone.blocks.*.attn x 2 ") for line in table)
    assert any(line.startswith("encoder.backbone.blocks.*.mlp x 2 ") for line in table)


def test_measuring_leaves_a_model_in_training_as_it_was():
    model, _ = build(CONVOLUTIONS)
    model.train()
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_sizes(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_cost_what_pytorch_counts(kind):
    model = make_model("learned")
    add_adapter(model, modules=["*_proj", "*.fc1"], kind=kind, rank=3)
    sizes = measure_sizes(model, tokens=2)
    model.set_attention("eager")
    one = torch.full((1, 1), 4)
    with FlopCounterMode(display=False) as counter:
        memory, cache = model.memory(model.encode(torch.zeros(1, 3, 32, 32))), None
        for _ in range(2):
            out = model.decoder(
                input_ids=one, encoder_hidden_states=memory, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
    assert sizes.total.line_macs == counter.get_total_flops() // 2
    assert sizes.total.parameters == model.num_parameters()
