import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from timm_cases import CASES, config_of, encoder_of, images, reader_of, token_ids

from trocr import VisionEncoderDecoderModel
from trocr.checkpoint import CheckpointError, stored_tensors
from trocr.config_timm import TimmConfig
from trocr.timm_model import TimmModel
from weights_conversion.rename import KeyMapError

REPO = Path(__file__).resolve().parents[2]
REFERENCE_TOLERANCE = 1e-5
"""Relative, of logits against transformers: the decoders' order of summation differs."""

MAPS = [name for name, case in CASES.items() if case.is_map]
NORMED = ["resnet", "early", "efficientnet"]
"""Backbones with batch norms, whose running statistics are buffers."""


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


# ---- files ----


@torch.no_grad()
def test_a_model_is_read_back_bit_by_bit_with_its_statistics(name, tmp_path):
    model = reader_of(name)
    model.train()
    model.encode(images(3))  # counts batches
    model.eval().save_pretrained(tmp_path)
    found = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert found.config == dataclasses.replace(model.config, dtype="float32")
    before, after = model.state_dict(), found.state_dict()
    assert list(before) == list(after)
    for key, value in before.items():
        assert value.dtype == after[key].dtype, key
        assert torch.equal(value, after[key]), key
    assert not any(buffer.is_meta for buffer in found.buffers())
    ids = token_ids()
    assert torch.equal(
        model(images(), decoder_input_ids=ids).logits, found(images(), decoder_input_ids=ids).logits
    )
    if name in NORMED:
        counts = [value for key, value in after.items() if key.endswith("num_batches_tracked")]
        assert counts
        assert all(value.dtype == torch.int64 and value == 1 for value in counts)


@torch.no_grad()
def test_half_precision_is_that_of_a_model_that_was_turned(name, tmp_path):
    encoder = encoder_of(name)
    encoder.save_pretrained(tmp_path)
    found = TimmModel.from_pretrained(tmp_path, dtype="bfloat16")
    turned = encoder.to(torch.bfloat16)
    assert {key: value.dtype for key, value in found.state_dict().items()} == {
        key: value.dtype for key, value in turned.state_dict().items()
    }
    kept = {key: buffer.dtype for key, buffer in turned.named_buffers()}
    assert {key: buffer.dtype for key, buffer in found.named_buffers()} == kept
    assert torch.equal(found(images()).last_hidden_state, turned(images()).last_hidden_state)


def test_storage_in_half_precision_leaves_whole_numbers(tmp_path):
    encoder_of("resnet").save_pretrained(tmp_path, storage_dtype=torch.bfloat16)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()}
    assert kinds == {torch.bfloat16, torch.int64}
    TimmModel.from_pretrained(tmp_path)


def test_a_file_without_statistics_is_refused(tmp_path):
    model = reader_of("resnet")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = "encoder.timm_model.layer1.0.bn1.running_var"
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, file)
    with pytest.raises(KeyMapError, match=rf"missing[\s\S]*{gone}"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    tensors[gone][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {gone}"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    tensors[gone][0] = float("inf")  # bounds that are kept as buffers may be such
    save_file(tensors, file)
    VisionEncoderDecoderModel.from_pretrained(tmp_path)


def test_statistics_that_do_not_fit_the_configuration_are_not_written(tmp_path):
    model = reader_of("resnet")
    model.encoder.backbone.bn1.register_buffer("extra", torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"backbone\.bn1\.extra is not in the configuration"):
        model.save_pretrained(tmp_path)


@torch.no_grad()
def test_buffers_that_no_file_holds_are_computed(tmp_path):
    encoder = encoder_of("swin")
    stored = stored_tensors(encoder).keys()
    computed = {key: buffer for key, buffer in encoder.named_buffers() if key not in stored}
    assert any(key.endswith("attn_mask") for key in computed)
    encoder.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    found = dict(TimmModel.from_pretrained(tmp_path).named_buffers())
    assert torch.equal(state, torch.random.get_rng_state())
    for key, buffer in computed.items():
        assert torch.equal(buffer, found[key]), key


def test_parameters_that_a_backbone_shares_stay_shared(tmp_path):
    arguments = {"embed_dims": [8] * 4, "serial_depths": [1] * 4, "img_size": [64, 96]}
    model = TimmModel(
        TimmConfig(architecture="coat_lite_tiny", hidden_size=8, image_size=(64, 96), model_args=arguments)
    )
    assert len(model.shared) > 0
    model.save_pretrained(tmp_path)
    found = TimmModel.from_pretrained(tmp_path)
    for key, other in model.shared.items():
        assert found.get_parameter(key) is found.get_parameter(other)
    assert len(load_file(tmp_path / "model.safetensors")) == len(list(found.parameters()))
    assert torch.equal(model.eval()(images()).last_hidden_state, found(images()).last_hidden_state)


@torch.no_grad()
def test_meta_device_copies_and_pickles(name):
    with torch.device("meta"):
        twin = VisionEncoderDecoderModel(reader_config(name))
    assert all(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers()))
    encoder = encoder_of(name)
    for again in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(again(images()).last_hidden_state, encoder(images()).last_hidden_state)


def reader_config(name):
    config = reader_of("vit").config
    encoder = config_of(name)
    decoder = dataclasses.replace(config.decoder, cross_attention_hidden_size=encoder.hidden_size)
    return dataclasses.replace(config, encoder=encoder, decoder=decoder)


# ---- transformers ----


@pytest.mark.parametrize("name", ["vit", "deit"])
@torch.no_grad()
def test_transformers_reads_what_is_written_and_the_other_way_round(name, tmp_path):
    model = reader_of(name)
    model.save_pretrained(tmp_path / "ours")
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(tmp_path / "ours").eval()
    inputs = {"pixel_values": images(), "decoder_input_ids": token_ids()}
    wanted = theirs(**inputs).logits
    scale = float(wanted.abs().max())
    assert float((model(**inputs).logits - wanted).abs().max()) < REFERENCE_TOLERANCE * scale
    theirs.save_pretrained(tmp_path / "theirs")
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
