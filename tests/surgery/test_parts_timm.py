import dataclasses

import pytest
import timm
import torch
from parts_cases import IMAGE_HW, SMALL_VIT, assert_untouched, check_whole, fresh, pixels_of, state
from safetensors.torch import save_file
from torch import nn

from trocr.surgery.parts import replace_encoder
from trocr.surgery.patterns import SurgeryError
from trocr.timm_model import TimmModel

# ---- timm ----


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:vit_tiny_patch16_224", {"model_args": SMALL_VIT}),
        ("timm:test_resnet", {"projection": True}),
        ("timm:test_efficientnet", {"image_size": [32, 128]}),
    ],
)
def test_a_backbone_of_timm(name, options, tmp_path):
    model, processor = fresh()
    tokenizer = processor.tokenizer
    random = torch.random.get_rng_state()
    report = replace_encoder(model, name, processor=processor, **options)
    assert torch.equal(random, torch.random.get_rng_state())
    assert isinstance(model.encoder, TimmModel)
    image_hw = tuple(options.get("image_size", IMAGE_HW))
    assert model.config.encoder.image_hw == image_hw
    assert processor.image_processor.size == {"height": image_hw[0], "width": image_hw[1]}
    told = timm.get_pretrained_cfg(name.removeprefix("timm:"))
    assert processor.image_processor.image_mean == pytest.approx(told.mean)
    assert processor.image_processor.image_std == pytest.approx(told.std)
    assert processor.image_processor.pad_to_aspect_ratio
    assert processor.tokenizer is tokenizer
    assert report.numbers["states"] == model.encode(pixels_of(model)).last_hidden_state.shape[1]
    check_whole(model, processor, report, tmp_path)
    again, its_processor = fresh()
    replace_encoder(again, name, processor=its_processor, **options)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in _parameters(model).items())


def _parameters(model):
    return {key: parameter.detach() for key, parameter in model.named_parameters()}


def test_positions_and_seeds_are_chosen():
    model, processor = fresh()
    replace_encoder(model, "timm:test_resnet", processor=processor, positions="none")
    assert isinstance(model.encoder.positions, nn.Identity)
    first = model.encoder.backbone.conv1[0].weight.clone()
    replace_encoder(model, "timm:test_resnet", processor=processor, seed=1)
    assert not torch.equal(model.encoder.backbone.conv1[0].weight, first)
    table = model.encoder.positions.weight
    assert table.shape == (20, 96)
    assert abs(float(table.detach().std()) / 0.02 - 1) < 0.1
    grey = model.config.encoder.num_channels
    assert grey == 3


def test_grey_images_give_a_grey_backbone(tmp_path):
    model, processor = fresh()
    processor.image_processor = dataclasses.replace(
        processor.image_processor, image_mean=[0.5], image_std=[0.5]
    )
    report = replace_encoder(model, "timm:test_resnet", processor=processor)
    assert model.config.encoder.num_channels == 1
    assert model.config.encoder.model_args["in_chans"] == 1
    assert processor.image_processor.image_mean == pytest.approx((0.5,))
    check_whole(model, processor, report, tmp_path)


def _weights(name, file, change=lambda state: state, **model_args):
    torch.manual_seed(9)
    peer = timm.create_model(name, **model_args)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    peer.eval()
    save_file(change({key: value.contiguous() for key, value in peer.state_dict().items()}), file)
    return peer


@torch.no_grad()
def test_weights_of_a_file(tmp_path):
    file = tmp_path / "weights.safetensors"
    peer = _weights("test_resnet", file)  # with its classifier
    model, processor = fresh()
    report = replace_encoder(model, "timm:test_resnet", processor=processor, weights=file)
    assert torch.equal(model.encoder.backbone(pixels_of(model)), peer.forward_features(pixels_of(model)))
    assert "state_dict" not in model.encoder.backbone.pretrained_cfg
    actions = {change.name: change.action for change in report.changes}
    assert actions["encoder.positions.weight"] == "new"
    assert actions["encoder.backbone.conv1.0.weight"] == "carried"
    check_whole(model, processor, report, tmp_path / "out")


@torch.no_grad()
def test_weights_of_a_file_are_fitted_to_size_and_names(tmp_path):
    file = tmp_path / "weights.safetensors"
    peer = _weights(
        "vit_tiny_patch16_224",
        file,
        lambda state: {f"timm_model.{k}": v for k, v in state.items()},
        **SMALL_VIT,
    )
    model, processor = fresh()
    options = {"weights": file, "model_args": SMALL_VIT, "processor": processor}
    replace_encoder(model, "timm:vit_tiny_patch16_224", image_size=(224, 224), **options)
    assert torch.equal(
        model.encode(pixels_of(model)).last_hidden_state, peer.forward_features(pixels_of(model))
    )
    replace_encoder(model, "timm:vit_tiny_patch16_224", image_size=(32, 640), **options)
    table = peer.pos_embed[:, 1:].reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(table, size=(2, 40), mode="bicubic", antialias=True)
    found = model.encoder.backbone.pos_embed[:, 1:].reshape(1, 2, 40, 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(model.encoder.backbone.cls_token, peer.cls_token)
    # a model that pools has another norm than that of states
    peer = _weights("beit_base_patch16_224", file, num_classes=0, **SMALL_VIT)
    replace_encoder(model, "timm:beit_base_patch16_224", image_size=(224, 224), **options)
    assert torch.equal(model.encoder.backbone.norm.weight, torch.ones(16))
    assert torch.equal(model.encoder.backbone.blocks[0].mlp.fc1.weight, peer.blocks[0].mlp.fc1.weight)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model, processor = fresh()
    before = state(model, processor)
    file = tmp_path / "weights.safetensors"

    def without_one(tensors):
        del tensors["layer1.0.conv1.weight"]
        return tensors

    _weights("test_resnet", file, without_one)
    with pytest.raises(SurgeryError, match=r"not weights of test_resnet .*Missing key.*layer1\.0\.conv1"):
        replace_encoder(model, "timm:test_resnet", processor=processor, weights=file)
    with pytest.raises(SurgeryError, match="not weights of test_convnext"):
        replace_encoder(model, "timm:test_convnext", processor=processor, weights=file)
    with pytest.raises(SurgeryError, match="there is no such file"):
        replace_encoder(model, "timm:test_resnet", processor=processor, weights=tmp_path / "none.bin")
    assert_untouched(model, processor, before)


def test_weights_that_cannot_be_fetched_leave_the_model(monkeypatch):
    model, processor = fresh()
    before = state(model, processor)
    made = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return made(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        SurgeryError, match=r"cannot make test_resnet\.r160_in1k .*weights cannot be had.*no route"
    ):
        replace_encoder(model, "timm:test_resnet.r160_in1k", processor=processor, pretrained=True)
    assert_untouched(model, processor, before)


def test_a_backbone_comes_from_a_checkpoint_too(tmp_path):
    model, processor = fresh()
    replace_encoder(model, "timm:test_efficientnet", processor=processor)
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    model.encoder.save_pretrained(tmp_path / "alone")
    for folder in ("whole", "alone"):
        other, its_processor = fresh()
        replace_encoder(other, tmp_path / folder, processor=its_processor)
        pixels = pixels_of(model)
        with torch.no_grad():
            assert torch.equal(other.encode(pixels)[0], model.eval().encode(pixels)[0])
        same = its_processor.image_processor == processor.image_processor
        assert same == (folder == "whole")
    before = state(other, its_processor)
    with pytest.raises(SurgeryError, match="timm backbone for images of 32 x 640 pixels"):
        replace_encoder(other, tmp_path / "whole", processor=its_processor, image_size=(32, 320))
    assert_untouched(other, its_processor, before)
