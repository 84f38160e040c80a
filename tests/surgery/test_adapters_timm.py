"""Adapters in an encoder of timm: layers that it calls get one, those that it goes around do not."""

import pytest
import torch
from adapted import MERGED, adapted_linears, disturb, equal, parameters
from families import FAMILIES, difference, hf_config, ids

from trocr import TrOCRForCausalLM, VisionEncoderDecoderModel
from trocr.config import TrOCRConfig
from trocr.config_timm import TimmConfig
from trocr.surgery.adapters import add_adapter, load_adapter, merge_adapter, remove_adapter, save_adapter
from trocr.surgery.freezing import freeze_depth
from trocr.surgery.patterns import SurgeryError
from trocr.timm_model import TimmModel

pytest.importorskip("timm")


def model_with(architecture: str, **args) -> VisionEncoderDecoderModel:
    """A tiny decoder on a tiny backbone of timm."""
    torch.manual_seed(0)
    config = TimmConfig(architecture=architecture, hidden_size=32, image_size=32, model_args=args)
    values = hf_config(FAMILIES["learned"]).to_dict()["decoder"]
    decoder = TrOCRForCausalLM(TrOCRConfig.from_dict(values))
    return VisionEncoderDecoderModel(encoder=TimmModel(config), decoder=decoder).eval()


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": ""}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 32, 32, generator=random)
    return model(pixel_values=pixels, decoder_input_ids=ids(2, 5)).logits


def test_a_vision_transformer(tmp_path):
    model = model_with("vit_tiny_patch16_224", **VIT)
    model.train()
    model.encoder.backbone.blocks[1].eval()
    modes = {name: part.training for name, part in model.named_modules()}
    add_adapter(model, modules=["encoder.backbone.blocks.*", "*_attn.[qv]_proj"], also_train="*.cls_token")
    assert len(adapted_linears(model)) == 2 * 4 + 2 * 4
    assert modes.items() <= {name: part.training for name, part in model.named_modules()}.items()
    model.eval()
    disturb(model)
    expected = logits(model)
    save_adapter(model, tmp_path)
    other = model_with("vit_tiny_patch16_224", **VIT)
    base = parameters(other)
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), expected)
    merge_adapter(other)
    assert difference(expected, logits(other)) < MERGED
    remove_adapter(other)
    assert equal(parameters(other), base)


def test_layers_that_timm_goes_around_are_passed_over():
    args = {**VIT, "use_abs_pos_emb": True, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": False}
    model = model_with("beit_base_patch16_224", **args)
    report = add_adapter(model, modules="encoder.backbone.blocks.*")
    around = [f"encoder.backbone.blocks.{i}.attn.qkv is passed over: reading never calls it" for i in (0, 1)]
    assert list(report.notes) == around
    assert len(adapted_linears(model)) == 2 * 3
    with pytest.raises(SurgeryError, match=r"attn\.qkv is passed over"):
        add_adapter(model_with("beit_base_patch16_224", **args), modules="*.qkv")


def test_depth_is_not_known_here():
    model = model_with("vit_tiny_patch16_224", **VIT)
    for depth in (0, 1):
        with pytest.raises(
            SurgeryError, match=r"the encoder is a TimmModel, which has no blocks that are known"
        ):
            freeze_depth(model, encoder=depth)
