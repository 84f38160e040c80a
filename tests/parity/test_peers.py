"""The encoder against timm, which shares no code with the reference implementation."""

from functools import partial

import pytest
import timm
import torch
from families import STAGE_TOLERANCE, difference, randomise
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from trocr import DeiTConfig, DeiTModel, ViTConfig, ViTModel
from weights_conversion.timm import TIMM

EPSILON = 1e-12
"""Of the releases on the Hub; timm's own is 1e-6, and is not in the tensors."""

SHAPE = {"img_size": 48, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
CONFIG = {
    "image_size": 48,
    "patch_size": 16,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}


def load_timm(model: nn.Module, peer: nn.Module) -> None:
    """Fill ours with a timm model's tensors, by the production key table."""
    state = peer.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    plan = TIMM.plan(shapes, expected, origin="timm")
    model.load_state_dict({move.target: move.take(state[move.source]) for move in plan.items})


def build(kind: str, qkv_bias: bool) -> tuple[nn.Module, nn.Module]:
    norm = partial(nn.LayerNorm, eps=EPSILON)
    peer_class = VisionTransformerDistilled if kind == "deit" else VisionTransformer
    peer = peer_class(**SHAPE, qkv_bias=qkv_bias, norm_layer=norm)
    randomise(peer, seed=3)
    config = (DeiTConfig if kind == "deit" else ViTConfig)(
        **CONFIG, qkv_bias=qkv_bias, layer_norm_eps=EPSILON
    )
    ours = (DeiTModel if kind == "deit" else ViTModel)(config, add_pooling_layer=False)
    load_timm(ours, peer)
    return peer.eval(), ours.eval()


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["no_bias", "bias"])
@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_tokens_and_gradients(kind: str, qkv_bias: bool) -> None:
    peer, ours = build(kind, qkv_bias)
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    blocks: list[torch.Tensor] = []
    for block in peer.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
    expected, found = peer.forward_features(pixels), ours(pixels, output_hidden_states=True)
    assert difference(expected, found.last_hidden_state) <= STAGE_TOLERANCE
    for one, other in zip(blocks, found.hidden_states[1:], strict=True):
        assert difference(one, other) <= STAGE_TOLERANCE
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5))
    (expected * weight).sum().backward()
    (found.last_hidden_state * weight).sum().backward()
    grads = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    names = TIMM.forward(grads)
    own = {name: p.grad for name, p in ours.named_parameters()}
    assert {target for targets in names.values() for target in targets} == set(own)
    for name, targets in names.items():
        joined = torch.cat([own[target] for target in targets]) if len(targets) > 1 else own[targets[0]]
        assert difference(grads[name], joined) <= STAGE_TOLERANCE, name


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_epsilon_is_the_only_difference_to_the_original(kind: str) -> None:
    """With timm's own epsilon the outputs differ measurably on flat images, and little on others."""
    peer, ours = build(kind, False)
    for module in peer.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = difference(peer.forward_features(pixels), ours(pixels).last_hidden_state)
    assert 0 < found < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("vit_base_patch16_384", {"qkv_bias": False}, {"hidden_size": 768, "num_attention_heads": 12}),
        ("vit_large_patch16_384", {"qkv_bias": False}, {"hidden_size": 1024, "num_attention_heads": 16}),
        (
            "deit_small_distilled_patch16_224",
            {"img_size": 384},
            {"hidden_size": 384, "num_attention_heads": 6},
        ),
    ],
)
def test_full_size_names_and_shapes(name: str, options: dict, config: dict) -> None:
    """timm's models of the three sizes have the tensors of our encoders."""
    cls, config_class = (DeiTModel, DeiTConfig) if "deit" in name else (ViTModel, ViTConfig)
    with torch.device("meta"):
        peer = timm.create_model(name, num_classes=0, **options)
        depth = len(peer.blocks)
        ours = cls(
            config_class(
                **config,
                num_hidden_layers=depth,
                intermediate_size=4 * config["hidden_size"],
                image_size=384,
                qkv_bias="deit" in name,
            ),
            add_pooling_layer=False,
        )
    shapes = {n: tuple(t.shape) for n, t in peer.state_dict().items()}
    expected = {n: tuple(p.shape) for n, p in ours.named_parameters()}
    plan = TIMM.plan(shapes, expected, origin=name)
    assert {move.target for move in plan.items} == set(expected)
