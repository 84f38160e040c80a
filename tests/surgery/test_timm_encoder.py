import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch
from drawn import drawn_lines
from PIL import Image
from timm_cases import CASES, IMAGE_HW, encoder_of, images, reader_of, token_ids

from trocr import Reader, TrOCRProcessor, VisionEncoderDecoderModel
from trocr.config_timm import TimmConfig
from trocr.nn.attention import Attention
from trocr.timm_backbone import choose_arguments
from trocr.timm_model import TimmModel
from trocr.training.objective import Objective
from trocr.training.optimizer import freeze_unused, layer_scales, no_decay_names, parameter_groups

REPO = Path(__file__).resolve().parents[2]
REFERENCE_TOLERANCE = 1e-5
"""Relative, of logits against transformers: the decoders' order of summation differs."""

MAPS = [name for name, case in CASES.items() if case.is_map]
NORMED = ["resnet", "early", "efficientnet"]
"""Backbones with batch norms, whose running statistics are buffers."""


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


# ---- states ----


@torch.no_grad()
def test_states_are_the_features_of_timm_place_by_place(name):
    case, encoder, pixels = CASES[name], encoder_of(name), images()
    torch.manual_seed(0)
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in encoder.config.model_args.items()}
    peer = timm.create_model(case.name, num_classes=0, **arguments).eval()
    peer.load_state_dict(encoder.backbone.state_dict())
    features = peer(pixels) if "global_pool" in arguments or "features_only" in arguments else None
    features = peer.forward_features(pixels) if features is None else features
    features = features[-1] if isinstance(features, list) else features
    states = encoder(pixels).last_hidden_state
    assert encoder.embeddings.grid == case.grid
    assert encoder.embeddings.num_prefix == case.num_prefix
    assert states.shape == (2, case.num_prefix + case.grid[0] * case.grid[1], case.width)
    if not case.is_map:
        assert torch.equal(states, features)
        return
    table = encoder.positions.weight
    assert float(table.abs().max()) > 0
    for row in range(case.grid[0]):
        for column in range(case.grid[1]):
            place = row * case.grid[1] + column
            wanted = features[:, row, column] if name == "swin" else features[:, :, row, column]
            assert torch.equal(states[:, place], wanted + table[place])


@torch.no_grad()
def test_hidden_states_leave_the_states_as_they_are(name):
    encoder, pixels = encoder_of(name), images()
    out = encoder(pixels, output_hidden_states=True)
    assert torch.equal(out.last_hidden_state, encoder(pixels).last_hidden_state)
    if "features_only" in encoder.config.model_args:
        maps = encoder.backbone(pixels)
    else:
        maps = encoder.backbone.forward_intermediates(pixels, intermediates_only=True)
    assert len(out.hidden_states) == len(maps)
    for state, features in zip(out.hidden_states, maps, strict=True):
        assert torch.equal(state[0, 1], features[0].flatten(1)[:, 1])
    assert encoder(pixels, return_dict=False)[0].shape == out.last_hidden_state.shape


def test_all_parameters_are_needed_and_get_a_gradient(name):
    model = reader_of(name).train()
    model(images(), labels=token_ids()).loss.backward()
    for key, parameter in model.named_parameters():
        if not key.endswith("k_proj.bias"):  # shifts all scores of a query alike
            assert parameter.grad is not None, key
            assert float(parameter.grad.abs().max()) > 0, key


def test_a_way_that_pools_or_needs_not_all_is_passed_over():
    arguments, states, unused = choose_arguments("vgg11", {}, image_hw=(64, 96), channels=3)
    assert (arguments["features_only"], states.grid, unused) == (True, (2, 3), [])
    arguments, states, unused = choose_arguments(
        "deit_tiny_distilled_patch16_224", CASES["deit"].model_args, image_hw=IMAGE_HW, channels=1
    )
    assert "global_pool" not in arguments
    assert arguments["in_chans"] == 1
    assert arguments["img_size"] == [64, 96]
    wanted = {"global_pool": "avg", **CASES["convnext"].model_args}
    arguments, _, unused = choose_arguments("convnext_atto", wanted, image_hw=IMAGE_HW, channels=3)
    assert arguments["global_pool"] == "avg"
    assert unused == ["head.norm.weight", "head.norm.bias"]


# ---- use ----


@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(name):
    model, pixels = reader_of(name), images()
    options = {"max_new_tokens": 8, "eos_token_id": None}
    found = model.generate(pixels, use_cache=True, **options)
    assert torch.equal(found, model.generate(pixels, use_cache=False, **options))
    beams = model.generate(pixels, num_beams=3, **options)
    assert torch.equal(beams, model.generate(encoder_outputs=model.encode(pixels), num_beams=3, **options))


def test_a_reader_reads_and_gives_padding_back(tmp_path):
    processor = TrOCRProcessor.from_pretrained("tiny-printed")
    processor.image_processor.size = IMAGE_HW
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    encoder = encoder_of("resnet")
    decoder = dataclasses.replace(model.config.decoder, cross_attention_hidden_size=96)
    model = VisionEncoderDecoderModel(
        dataclasses.replace(model.config, encoder=encoder.config, decoder=decoder), encoder=encoder
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reader = Reader(tmp_path)
    image = Image.new("L", (90, 30), 200)
    (line,) = reader.read(image, max_new_tokens=3)
    pixels = processor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        ids = model.eval().generate(pixels, max_new_tokens=3)[0, 1:]
    assert [token.id for token in line.tokens] == ids.tolist()
    assert reader.processor.image_processor.pad_to_aspect_ratio
    line_image = Image.new("L", (40, 30), 200)
    line_image.paste(20, (5, 8, 20, 22))
    assert list(reader.read(line_image, native_width=True)) == list(reader.read(line_image))


def test_what_a_backbone_cannot_do_is_refused():
    encoder = encoder_of("resnet")
    with pytest.raises(ValueError, match="positions cannot be interpolated; replace the encoder"):
        encoder(images(), interpolate_pos_encoding=True)
    with pytest.raises(ValueError, match=r"does not give its attentions; .*encoder_outputs"):
        encoder(images(), output_attentions=True)
    for wrong in (images(hw=(64, 64)), images()[:, :1], images()[0]):
        with pytest.raises(ValueError, match=r"expected \(batch, 3, 64, 96\)"):
            encoder(wrong)
    for wrong in (images(hw=(32, 64)), images(hw=(64, 128))):
        with pytest.raises(ValueError, match=r"expected \(batch, 3, 64, 96\)"):
            encoder(wrong, crop_pos_encoding=True)
    with pytest.raises(AttributeError, match="no embeddings of this library, and no 'position_embeddings'"):
        _ = encoder.embeddings.position_embeddings
    assert encoder.embeddings.patch_hw == (32, 32)
    assert encoder.pooler is None


@torch.no_grad()
def test_attentions_of_the_decoder_come_from_states_that_were_encoded_before():
    model = reader_of("resnet")
    encoded = model.encode(images())
    out = model(encoder_outputs=encoded, decoder_input_ids=token_ids(), output_attentions=True)
    assert out.cross_attentions[0].shape == (2, 2, 5, 6)
    assert out.encoder_attentions is None


def test_the_attention_core_is_the_decoders_alone():
    model = reader_of("vit")
    model.set_attention("eager")
    cores = {part.core for part in model.modules() if isinstance(part, Attention)}
    assert cores == {"eager"}
    model.encoder.set_attention("sdpa")
    with pytest.raises(ValueError, match="timm's own: 'eager' cannot be set"):
        model.encoder.set_attention("eager")


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_gradient_checkpointing_gives_the_same_gradients(name, monkeypatch):
    model = reader_of(name).train()
    model(images(), labels=token_ids()).loss.backward()
    wanted = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    calls = []
    module = sys.modules[type(model.encoder.backbone).__module__]
    for function in ("checkpoint", "checkpoint_seq"):
        inner = getattr(module, function, None)
        if inner is not None:
            monkeypatch.setattr(
                module, function, lambda *a, inner=inner, **k: calls.append(1) or inner(*a, **k)
            )
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(images(), labels=token_ids()).loss.backward()
    assert calls
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key], rtol=1e-4, atol=1e-7)
    model.gradient_checkpointing_disable()
    calls.clear()
    model(images(), labels=token_ids())
    assert not calls
    assert not model.is_gradient_checkpointing


def test_gradient_checkpointing_that_timm_does_not_have_is_refused():
    arguments = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": [32, 32]}
    model = TimmModel(
        TimmConfig(architecture="convit_tiny", hidden_size=32, image_size=32, model_args=arguments)
    )
    with pytest.raises(ValueError, match="ConVit of timm has no gradient checkpointing"):
        model.gradient_checkpointing_enable()
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()


def test_training_groups_and_losses(name):
    model = reader_of(name).train()
    assert freeze_unused(model) == []
    names = dict(model.named_parameters())
    spared = no_decay_names(model)
    assert all(names[key].dim() > 1 or key in spared for key in names)
    assert ("encoder.positions.weight" in spared) == CASES[name].is_map
    scales = layer_scales(model, 0.5)
    assert {scales[key] for key in names if key.startswith("encoder.")} == {1.0}
    assert scales["decoder.blocks.0.mlp.fc1.weight"] == 0.25
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    losses = Objective(model)(images(), token_ids())
    losses.tokens.backward()
    assert float(model.encoder.backbone.get_parameter(next(iter(_backbone(model)))).grad.abs().max()) > 0
    narrow = images(hw=(64, 64))
    padded = torch.cat((narrow, narrow[..., -1:].expand(-1, -1, -1, 32)), dim=-1)
    model.eval()
    assert Objective(model)(narrow, token_ids()).tokens == Objective(model)(padded, token_ids()).tokens


def _backbone(model):
    return dict(model.encoder.backbone.named_parameters())


RUN = """
[model]
checkpoint = "{folder}/start"
[data]
train = ["{folder}/lines"]
val = ["{folder}/lines"]
[batch]
size = 4
window = 1
width_buckets = [32, 64]
[optimizer]
lr = 1e-3
layer_decay = 0.8
[loss]
ctc_weight = 0.3
[run]
steps = 2
output = "{folder}/out"
eval_every = 2
ema_decay = 0.9
"""


def test_a_training_run(tmp_path, monkeypatch):
    model = reader_of("resnet")
    shipped = TrOCRProcessor.from_pretrained("tiny-printed")
    shipped.image_processor.size = IMAGE_HW
    decoder = dataclasses.replace(model.config.decoder, vocab_size=520)
    model = VisionEncoderDecoderModel(
        dataclasses.replace(model.config, decoder=decoder), encoder=model.encoder
    )
    model.save_pretrained(tmp_path / "start")
    shipped.save_pretrained(tmp_path / "start")
    (tmp_path / "lines").mkdir()
    rows = []
    for record in drawn_lines(4):
        record.open().save(tmp_path / "lines" / record.name)
        rows.append(f"{record.name}\t{record.text}\n")
    (tmp_path / "lines" / "labels.tsv").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("train_script", REPO / "scripts" / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "run.toml")])
    script.main()
    found = VisionEncoderDecoderModel.from_pretrained(tmp_path / "out" / "last")
    before, after = model.state_dict(), found.state_dict()
    assert int(after["encoder.backbone.bn1.num_batches_tracked"]) == 2
    for key in (
        "encoder.backbone.bn1.running_mean",
        "encoder.backbone.bn1.weight",
        "encoder.positions.weight",
    ):
        assert not torch.equal(before[key], after[key]), key


def test_a_pair_of_directories(tmp_path):
    reader = reader_of("resnet")
    reader.encoder.save_pretrained(tmp_path / "encoder")
    reader.decoder.save_pretrained(tmp_path / "decoder")
    pair = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder"
    )
    assert type(pair.config.encoder) is TimmConfig
    with torch.no_grad():
        found = pair(images(), decoder_input_ids=token_ids()).logits
        assert torch.equal(found, reader(images(), decoder_input_ids=token_ids()).logits)
