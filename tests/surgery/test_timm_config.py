import ast
import dataclasses
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm_cases import config_of, reader_of

import trocr
from trocr import Reader
from trocr.config import VisionEncoderDecoderConfig
from trocr.config_read import ConfigError
from trocr.config_timm import TimmConfig
from trocr.timm_backbone import BackboneError, create_backbone, measure
from trocr.timm_model import TimmModel


def test_a_configuration_tells_what_is_wrong():
    good = config_of("vit").to_dict()
    assert TimmConfig.from_dict(good) == config_of("vit")
    extra = {"num_classes": 2, "label_names": ["a"], "pretrained_cfg": {"tag": "x"}}  # of transformers
    assert TimmConfig.from_dict({**good, **extra}) == config_of("vit")
    for change, message in (
        ({"architecture": ""}, "must be a name of timm.list_models"),
        ({"hidden_size": 0}, "hidden_size=0 must be above 0"),
        ({"image_size": 32}, r"image_size=\(32, 32\) contradicts img_size=\[64, 96\]"),
        ({"num_channels": 1}, "num_channels=1 contradicts in_chans=3"),
        ({"model_args": {"num_classes": 3}}, "must not hold 'num_classes'"),
        ({"model_args": {"norm_layer": torch.nn.LayerNorm}}, "must be an object of JSON values"),
        ({"position_embeddings": "rotary"}, "must be one of none, learned"),
        ({"hidden_sizes": 3}, "unknown key 'hidden_sizes'"),
    ):
        with pytest.raises(ConfigError, match=message):
            TimmConfig.from_dict({**good, **change})
    with pytest.raises(ConfigError, match=r"hidden_size missing; .*timm:NAME"):
        TimmConfig.from_dict({"model_type": "timm_wrapper", "architecture": "resnet18"})
    with pytest.raises(ConfigError, match="TimmModel needs a TimmConfig"):
        TimmModel(reader_of("vit").config.decoder)
    whole = reader_of("vit").config.to_dict()
    whole["encoder"]["model_type"] = "swin"
    with pytest.raises(ConfigError, match="expected one of deit, timm_wrapper, vit"):
        VisionEncoderDecoderConfig.from_dict(whole)


def test_what_timm_cannot_make_is_told(monkeypatch):
    config = config_of("convnext")
    with pytest.raises(ConfigError, match="no model 'convnext_ato', did you mean 'convnext_atto'"):
        TimmModel(dataclasses.replace(config, architecture="convnext_ato"))
    with pytest.raises(ConfigError, match=r"hidden_size=17 must be the width of the features .*, 16"):
        TimmModel(dataclasses.replace(config, hidden_size=17))
    with pytest.raises(BackboneError, match=r"cannot make convnext_atto with .*'dephts'"):
        create_backbone("convnext_atto", {"dephts": [1]})
    with pytest.raises(BackboneError, match="does not take images of 32 x 96 pixels"):
        measure("vit_tiny_patch16_224", {"img_size": [64, 96]}, image_hw=(32, 96), channels=3)
    with pytest.raises(BackboneError, match=r"30 x 96 pixels .* not a multiple of the patch .*, 16 x 16"):
        measure("vit_tiny_patch16_224", {"img_size": [30, 96]}, image_hw=(30, 96), channels=3)
    monkeypatch.setattr(timm, "__version__", "1.0.9")
    with pytest.raises(
        BackboneError, match=r"timm 1\.0\.9 cannot make models on the meta device; .*>=1\.0\.22"
    ):
        create_backbone("resnet18", {})
    monkeypatch.setattr(timm, "__version__", "1.1.0.dev0")
    with pytest.raises(BackboneError, match="gives list, expected one map of features"):
        measure("crossvit_9_240", {}, image_hw=(240, 240), channels=3)


def test_timm_is_imported_only_for_such_models(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # its import fails from here on
    reader = Reader("tiny-printed")
    assert next(iter(reader.read(Image.new("L", (60, 30), 200), max_new_tokens=2))).tokens
    assert config_of("vit").to_dict()["architecture"] == "vit_tiny_patch16_224"
    with pytest.raises(BackboneError, match="timm is not installed; pip install timm"):
        create_backbone("resnet18", {})
    package = sys.modules["trocr"].__path__[0]
    for path in trocr_modules(package):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(item.split(".")[0] == "timm" for item in names), f"{path} imports timm at its top"


def trocr_modules(package):
    found = sorted(Path(package).rglob("*.py"))
    assert Path(trocr.__file__) in found
    return found
