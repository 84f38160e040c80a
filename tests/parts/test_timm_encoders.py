"""Encoders from timm: what is taken over computes the same; what has other arithmetic is refused."""

from functools import partial

import pytest
import timm
import torch
from random_parts import SMALL, TOLERANCE, encoder_of, shaken
from safetensors.torch import save_file
from timm.layers import RmsNorm, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock

from trocr.parts import PartsError
from trocr.parts.image_part import from_timm_model, load_image_part

VIT = "vit_tiny_patch16_224"
BEIT = "beit_base_patch16_224"
TOKEN = {"use_rel_pos_bias": False, "global_pool": "token"}


def made(name=VIT, **options):
    return shaken(timm.create_model(name, **{**SMALL, **options}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (VIT, {}),
        (VIT, {"qkv_bias": False}),
        (VIT, {"init_values": 0.1}),
        (VIT, {"no_embed_class": True}),  # DeiT III and FlexiViT
        (VIT, {"pos_embed": "none"}),
        (VIT, {"global_pool": "map"}),
        (VIT, {"global_pool": "avg", "fc_norm": False, "num_classes": 5}),
        ("deit3_small_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        (BEIT, {**TOKEN, "use_abs_pos_emb": True, "init_values": 0.1}),
        (BEIT, {**TOKEN, "use_abs_pos_emb": False, "init_values": None}),
    ],
)
def test_an_encoder_from_timm_computes_the_same(name, options):
    source = made(name, **options)
    part = from_timm_model(source)
    assert part.is_exact
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = encoder_of(part)(pixels).last_hidden_state
        torch.testing.assert_close(found, source.forward_features(pixels), atol=TOLERANCE, rtol=TOLERANCE)


def test_relative_positions_are_left_out_and_named():
    source = made(BEIT, global_pool="token")
    part = from_timm_model(source)
    assert part.losses == ("relative positions, which this encoder has no place for: its outputs differ",)
    assert sum("relative_position_bias" in name for name, _ in part.left_out) == 3
    with torch.no_grad():
        for block in source.blocks:
            block.attn.relative_position_bias_table.zero_()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():  # without them, all else is the same
        found = encoder_of(part)(pixels).last_hidden_state
        torch.testing.assert_close(found, source.forward_features(pixels), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"final_norm": False}])
def test_a_source_without_a_last_norm_of_its_states_is_not_exact(options):
    part = from_timm_model(made(**options))
    assert part.losses == ("its last norm is new: the source has none of its states",)
    assert "norm.weight" not in part.weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"block_fn": ResPostBlock, "init_values": 0.1},
            "has a ResPostBlock as blocks.0, where only Block can",
        ),
        ({"block_fn": ParallelScalingBlock}, "has a ParallelScalingBlock as blocks.0"),
        ({"mlp_layer": SwiGLU}, "has a SwiGLU as blocks.0.mlp, where only Mlp"),
        ({"norm_layer": RmsNorm}, "has a RmsNorm as blocks.0.norm1, where only LayerNorm"),
        ({"act_layer": torch.nn.ReLU}, "has a ReLU as blocks.0.mlp.act, where only GELU"),
        (
            {"act_layer": partial(torch.nn.GELU, approximate="tanh")},
            r"has a GELU that is approximated \(tanh\)",
        ),
        ({"qk_norm": True}, "has a LayerNorm as blocks.0.attn.q_norm"),
        ({"scale_mlp_norm": True}, "has a LayerNorm as blocks.0.mlp.norm"),
        ({"embed_norm_layer": "layernorm"}, "has a LayerNorm as patch_embed.norm"),
        ({"pre_norm": True}, "has a LayerNorm as norm_pre"),
        ({"proj_bias": False}, "has a Linear without bias as blocks.0.attn.proj"),
        ({"reg_tokens": 2}, "has reg_token, which a plain vision transformer has not"),
        ({"class_token": False, "global_pool": "avg"}, "has no cls token"),
    ],
)
def test_other_arithmetic_is_refused(options, message):
    with pytest.raises(PartsError, match=message):
        from_timm_model(timm.create_model(VIT, **{**SMALL, "depth": 1, **options}))


def test_blocks_that_differ_are_refused():
    model = timm.create_model(VIT, **SMALL)
    model.blocks[1].norm2.eps = 1e-3
    with pytest.raises(PartsError, match=r"several epsilons in its norms \(1e-06, 0.001\)"):
        from_timm_model(model)


def test_a_hybrid_is_refused_before_its_weights_are_looked_for(monkeypatch):
    create = timm.create_model

    def small(name, **options):
        assert not options.get("pretrained")
        return create(name, embed_dim=32, depth=1, num_heads=2, img_size=64)

    monkeypatch.setattr(timm, "create_model", small)
    with pytest.raises(PartsError, match="timm:vit_tiny_r_s16_p8_224 has a HybridEmbed as patch_embed"):
        load_image_part("timm:vit_tiny_r_s16_p8_224")


def test_other_kinds_names_and_tags_are_refused():
    with pytest.raises(PartsError, match="is a ResNet; expected a ViT, DeiT or BEiT"):
        from_timm_model(timm.create_model("resnet18"))
    with pytest.raises(PartsError, match="timm has no model 'vit_tiny_no_such_model'"):
        load_image_part("timm:vit_tiny_no_such_model")
    with pytest.raises(
        PartsError, match=r"Invalid pretrained tag .*list_pretrained\('vit_tiny_patch16_224'\)"
    ):
        load_image_part(f"timm:{VIT}.nosuch")
    with pytest.raises(PartsError, match="a file of weights is for an encoder of timm"):
        load_image_part("tiny-printed", weights="x.safetensors")


@pytest.mark.parametrize(
    "failure", [ConnectionError("no route\nto host"), RuntimeError("the client is closed")]
)
def test_weights_that_cannot_be_fetched_can_be_given(monkeypatch, failure):
    create = timm.create_model

    def offline(name, *, pretrained, **options):
        if pretrained:
            raise failure
        return create(name, **SMALL)

    monkeypatch.setattr(timm, "create_model", offline)
    reason = str(failure).splitlines()[0]
    with pytest.raises(PartsError, match=rf"cannot be fetched \({reason}\); give a file of them"):
        load_image_part(f"timm:{VIT}")


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load a state dict as the weights of a small model that is called VIT."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **{**SMALL, **options}))

    def read(state):
        file = tmp_path / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
        return load_image_part(f"timm:{VIT}", weights=file)

    return read


def test_a_file_with_heads_gives_the_encoder_and_names_the_heads(load):
    source = made(num_classes=7)
    state = source.state_dict() | {"head_dist.weight": torch.zeros(7, 32), "fc_norm.bias": torch.zeros(32)}
    part = load({name: tensor.half() for name, tensor in state.items()})
    assert part.is_exact
    assert {name for name, _ in part.left_out} == {
        "head.weight",
        "head.bias",
        "head_dist.weight",
        "fc_norm.bias",
    }
    assert part.weights["blocks.1.mlp.fc1.weight"].dtype == torch.float32
    torch.testing.assert_close(
        part.weights["blocks.1.mlp.fc1.weight"], source.blocks[1].mlp.fc1.weight, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_values": 0.1}, "blocks.0.ls1.gamma, .* and 3 more are there, and the model has none"),
        ({"reg_tokens": 1, "no_embed_class": True}, "reg_token are there, and the model has none"),
        ({"qkv_bias": False}, "blocks.0.attn.qkv.bias, .* are missing"),
        ({"img_size": 64}, r"pos_embed is \(1, 65, 32\) instead of \(1, 17, 32\)"),
        ({"global_pool": "avg"}, "norm.weight, norm.bias are missing"),
        ({"depth": 4}, "blocks.3.attn.proj.bias, .* and 9 more are there"),
    ],
)
def test_a_file_of_another_architecture_is_refused(load, options, message):
    with pytest.raises(PartsError, match=f"weights.safetensors: not the weights of {VIT}: {message}"):
        load(made(**options).state_dict())


def test_relative_positions_that_the_named_model_lacks_are_refused(load):
    table = {"blocks.0.attn.relative_position_bias_table": torch.zeros(3, 4)}
    with pytest.raises(PartsError, match="relative_position_bias_table are there, and the model has none"):
        load(made().state_dict() | table)
