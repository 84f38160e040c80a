"""timm's encoders: our encoder computes the same from the converted file."""

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from trocr.models import DeiTModel, ViTModel
from weights_conversion.commands.convert import convert
from weights_conversion.commands.source import Hints, find_source
from weights_conversion.configs import DerivationError
from weights_conversion.files import open_weights
from weights_conversion.rename import KeyMapError
from weights_conversion.timm import TIMM

SIZES = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
HINTS = Hints(encoder_heads=2, image_size=(16, 24))
TOLERANCE = 2e-6
"""float32 with the same operations in the same order; the fused matrix may round otherwise than three."""


def random_model(kind, **options):
    torch.manual_seed(0)
    model = kind(**{**SIZES, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name and "weight" in name))
    return model


@pytest.mark.parametrize(
    ("kind", "ours", "options"),
    [
        (VisionTransformer, ViTModel, {}),
        (VisionTransformer, ViTModel, {"qkv_bias": False}),
        (VisionTransformer, ViTModel, {"num_classes": 0, "patch_size": (4, 12), "mlp_ratio": 2.0}),
        (VisionTransformerDistilled, DeiTModel, {}),
    ],
)
def test_converted_encoder_computes_the_same(tmp_path, kind, ours, options) -> None:
    model = random_model(kind, **options)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    report = convert(find_source(str(tmp_path / "vit.pth")), tmp_path / "hf", hints=HINTS)
    assert {key.split(".")[0] for key, _ in report.ignored} <= {"head", "head_dist"}
    encoder = ours.from_pretrained(tmp_path / "hf")
    assert encoder.config.layer_norm_eps == 1e-6
    pixels = torch.rand(3, 3, 16, 24)
    with torch.no_grad():
        expected = model.forward_features(pixels)
        found = encoder(pixels).last_hidden_state
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def test_packing_gives_the_file_back() -> None:
    state = random_model(VisionTransformerDistilled).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    ours = [name for names in TIMM.forward(shapes).values() for name in names]
    packs = {pack.source: pack.targets for pack in TIMM.pack(ours)}
    assert set(packs) == {name for name in shapes if not name.startswith("head")}
    assert packs["blocks.1.attn.qkv.bias"] == tuple(f"blocks.1.self_attn.{part}_proj.bias" for part in "qkv")


def test_variants_with_other_arithmetic_are_refused(tmp_path) -> None:
    model = random_model(VisionTransformer, init_values=0.1)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(KeyMapError, match=r"(?s)unknown .*blocks.\{0,1\}.ls1.gamma"):
        convert(find_source(str(tmp_path / "vit.pth")), tmp_path / "hf", hints=HINTS)


def test_what_the_file_does_not_say_is_asked_for(tmp_path) -> None:
    torch.save(random_model(VisionTransformer).state_dict(), tmp_path / "vit.pth")
    source = find_source(str(tmp_path / "vit.pth"))
    with pytest.raises(DerivationError, match="number of attention heads; add --encoder-heads"):
        convert(source, tmp_path / "hf")
    with pytest.raises(DerivationError, match="form no square; give the size"):
        convert(source, tmp_path / "hf", hints=Hints(encoder_heads=2))


def test_file_is_recognised(tmp_path) -> None:
    torch.save(random_model(VisionTransformer).state_dict(), tmp_path / "vit.pth")
    assert find_source(str(tmp_path / "vit.pth")).dialect.table is TIMM
    with open_weights(tmp_path / "vit.pth") as file:
        assert TIMM.knows(file.shapes) == len(file.shapes)
