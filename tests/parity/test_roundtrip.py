"""Hugging Face -> ours -> Hugging Face: the same keys, bits, logits and configuration."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import FAMILIES, Pair, hf_config, ids, images, labels, load_hf, load_ours, make_hf, make_pair
from safetensors.torch import load_file, save_file
from torch import Tensor

from trocr import (
    DeiTModel,
    TrOCRConfig,
    TrOCRDecoder,
    TrOCRForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTModel,
)

WEIGHTS = "model.safetensors"
POOLER = "encoder.pooler.dense."


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory, whichever files hold them."""
    if (directory / "pytorch_model.bin").exists():
        return dict(torch.load(directory / "pytorch_model.bin", weights_only=True))
    found: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def assert_same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), right[name].view(torch.uint8)), name


def without_pooler(directory: Path) -> None:
    """Make a directory as the releases are: no pooler."""
    kept = {k: v for k, v in load_file(directory / WEIGHTS).items() if not k.startswith(POOLER)}
    save_file(kept, directory / WEIGHTS, metadata={"format": "pt"})


def logits(model: Any, pair: Pair) -> Tensor:
    with torch.no_grad():
        return model(pixel_values=images(pair.family, 2), labels=labels(2, 8)).logits


def json_of(directory: Path, name: str) -> dict[str, Any]:
    return json.loads((directory / name).read_text())


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no_pooler"])
@pytest.mark.parametrize("name", FAMILIES)
def test_identical_keys_and_bits(tmp_path: Path, name: str, pooler: bool) -> None:
    reference = make_hf(FAMILIES[name])
    reference.save_pretrained(tmp_path / "theirs")
    if not pooler:
        without_pooler(tmp_path / "theirs")
    ours = load_ours(tmp_path / "theirs")
    assert (ours.encoder.pooler is not None) is pooler
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    load_ours(tmp_path / "ours").save_pretrained(tmp_path / "again")
    for file in (tmp_path / "ours").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_the_reference_loads_what_we_save(pair: Pair, tmp_path: Path) -> None:
    pair.ours.save_pretrained(tmp_path)
    reloaded, report = hf.VisionEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, unexpected, mismatched
    if reloaded.decoder.config.use_learned_position_embeddings:
        assert torch.equal(logits(reloaded.eval(), pair), logits(pair.hf, pair))
    assert torch.equal(logits(load_hf(tmp_path), pair), logits(pair.hf, pair))
    without_pooler(tmp_path)
    load_ours(tmp_path).save_pretrained(tmp_path)
    report = hf.VisionEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)[1]
    assert {name.startswith(POOLER) for name in report.pop("missing_keys")} == {True}  # as for the releases
    assert not any(report.values()), report
    assert_same_bits(dict(pair.hf.state_dict()), dict(reloaded.state_dict()))


def test_the_reference_saves_again_what_we_saved(pair: Pair, tmp_path: Path) -> None:
    pair.ours.save_pretrained(tmp_path / "ours")
    load_hf(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert_same_bits(tensors(pair.directory), tensors(tmp_path / "theirs"))


def test_the_reference_cannot_reload_its_own_sinusoidal_files(pair_of) -> None:
    """Why `load_hf` works around it, and why ours keeps the table in a buffer that is not stored."""
    pair = pair_of("sinusoidal")
    broken = hf.VisionEncoderDecoderModel.from_pretrained(pair.directory).eval()
    with pytest.raises((NotImplementedError, RuntimeError)):
        logits(broken, pair)
    assert torch.equal(logits(load_ours(pair.directory), pair), logits(pair.ours, pair))


@pytest.mark.parametrize("layout", ["files of 4.x", "in memory of 5.x"])
def test_pytorch_bin(pair: Pair, tmp_path: Path, layout: str) -> None:
    """`pytorch_model.bin` as old releases have it, with the tied tensor and the placeholder of 4.x."""
    state = load_file(pair.directory / WEIGHTS) if layout == "files of 4.x" else dict(pair.hf.state_dict())
    if pair.family.decoder.get("tie_word_embeddings", True):
        state["decoder.output_projection.weight"] = state["decoder.model.decoder.embed_tokens.weight"]
    if not pair.family.decoder.get("use_learned_position_embeddings", True):
        state["decoder.model.decoder.embed_positions._float_tensor"] = torch.zeros(1)
    torch.save(state, tmp_path / "pytorch_model.bin")
    pair.hf.config.save_pretrained(tmp_path)
    ours = load_ours(tmp_path)
    assert torch.equal(logits(ours, pair), logits(pair.ours, pair))
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(pair.directory), tensors(tmp_path / "ours"))


def test_sharded_files(pair: Pair, tmp_path: Path) -> None:
    pair.hf.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    ours = load_ours(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(pair.directory), tensors(tmp_path / "ours"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_precisions(pair: Pair, tmp_path: Path, dtype: torch.dtype) -> None:
    reference = make_hf(pair.family).to(dtype)
    reference.save_pretrained(tmp_path / "theirs")
    ours = load_ours(tmp_path / "theirs")
    assert ours.dtype is dtype
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    assert load_hf(tmp_path / "ours").dtype is load_ours(tmp_path / "ours").dtype is dtype
    assert load_ours(tmp_path / "ours", dtype="float32").dtype is torch.float32


def known(values: dict[str, Any], cls: type) -> dict[str, Any]:
    """The keys of a configuration that ours has, in plain values; a size is a pair."""
    names = {item.name for item in dataclasses.fields(cls)} - {"dtype", "generation_defaults"}
    return {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names and v is not None
    }


def test_configuration_keeps_every_value(pair: Pair, tmp_path: Path) -> None:
    pair.ours.save_pretrained(tmp_path)
    theirs, ours = json_of(pair.directory, "config.json"), json_of(tmp_path, "config.json")
    config = pair.ours.config
    for part in ("encoder", "decoder"):
        cls = type(getattr(config, part))
        before, after = known(theirs[part], cls), known(ours[part], cls)
        # what the reference leaves out because it is the default, ours may write
        assert {k: after.get(k) for k in before} == before
        assert ours[part]["model_type"] == theirs[part]["model_type"]
    for key in (
        "decoder_start_token_id",
        "pad_token_id",
        "is_encoder_decoder",
        "model_type",
        "architectures",
    ):
        assert ours[key] == theirs[key], key
    read = hf.VisionEncoderDecoderConfig.from_pretrained(tmp_path)
    expected = hf_config(pair.family)
    for part in ("encoder", "decoder"):
        left, right = getattr(read, part).to_dict(), getattr(expected, part).to_dict()
        changed = {
            k: (left.get(k), v)
            for k, v in right.items()
            if left.get(k) != v and k not in ("dtype", "architectures", "_attn_implementation_autoset")
        }
        assert not changed
    assert VisionEncoderDecoderConfig.from_pretrained(tmp_path) == config
    assert VisionEncoderDecoderConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "values",
    [
        {"max_length": 33, "num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"no_repeat_ngram_size": 3, "eos_token_id": [2, 5]},
        {},
    ],
    ids=["beams", "lists", "plain"],
)
def test_generation_config(pair_of, tmp_path: Path, values: dict[str, Any]) -> None:
    pair = pair_of("learned")
    reference = load_hf(pair.directory)
    reference.generation_config.update(**values)
    reference.save_pretrained(tmp_path / "theirs")
    load_ours(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    before, after = (json_of(tmp_path / name, "generation_config.json") for name in ("theirs", "ours"))
    skip = ("transformers_version", "_from_model_config", "use_cache")
    assert {k: after.get(k) for k in before if k not in skip} == {
        k: v for k, v in before.items() if k not in skip
    }
    assert hf.GenerationConfig.from_pretrained(tmp_path / "ours").to_diff_dict().items() >= values.items()


@pytest.mark.parametrize("kind", ["vit", "deit"])
@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no_pooler"])
def test_an_encoder_alone(tmp_path: Path, kind: str, pooler: bool) -> None:
    pair = make_pair("unilm" if kind == "deit" else "learned", tmp_path / "pair")
    theirs, ours_class = (hf.DeiTModel, DeiTModel) if kind == "deit" else (hf.ViTModel, ViTModel)
    reference = theirs(pair.hf.config.encoder, add_pooling_layer=pooler).eval()
    reference.load_state_dict(
        {k: v for k, v in pair.hf.encoder.state_dict().items() if pooler or "pooler" not in k}
    )
    reference.save_pretrained(tmp_path / "theirs")
    ours = ours_class.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    again = theirs.from_pretrained(tmp_path / "ours", add_pooling_layer=pooler).eval()
    pixels = images(pair.family, 2)
    with torch.no_grad():
        expected = reference(pixels)
        assert torch.equal(again(pixels).last_hidden_state, expected.last_hidden_state)
        assert torch.equal(ours(pixels).last_hidden_state, expected.last_hidden_state)
        assert (ours(pixels).pooler_output is not None) is pooler


@pytest.mark.parametrize("name", ["learned", "unilm"])
def test_an_encoder_under_an_image_classifier(tmp_path: Path, name: str) -> None:
    pair = make_pair(name, tmp_path / "pair")
    cls = hf.DeiTForImageClassification if name == "unilm" else hf.ViTForImageClassification
    classifier = cls(pair.hf.config.encoder).eval()
    classifier.save_pretrained(tmp_path / "theirs")
    ours = (DeiTModel if name == "unilm" else ViTModel).from_pretrained(tmp_path / "theirs")
    pixels = images(pair.family, 2)
    base = classifier.deit if name == "unilm" else classifier.vit
    with torch.no_grad():
        assert torch.equal(ours(pixels).last_hidden_state, base(pixels).last_hidden_state)


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "unilm"])
def test_a_decoder_alone(pair_of, tmp_path: Path, name: str) -> None:
    pair = pair_of(name)
    pair.hf.decoder.save_pretrained(tmp_path / "theirs")
    ours = TrOCRForCausalLM.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    report = hf.TrOCRForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)[1]
    assert not any(report.values()), report
    memory = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pair.ours.decoder(ids(2, 8), encoder_hidden_states=memory).logits
        assert torch.equal(ours(ids(2, 8), encoder_hidden_states=memory).logits, expected)


def test_a_decoder_without_a_head(tmp_path: Path) -> None:
    values = {**FAMILIES["learned"].decoder, "is_decoder": True}
    reference = hf.models.trocr.modeling_trocr.TrOCRDecoder(hf.TrOCRConfig(**values)).eval()
    reference.save_pretrained(tmp_path / "theirs")
    ours = TrOCRDecoder.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert_same_bits(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
    with torch.no_grad():
        difference = ours(ids(2, 8)).last_hidden_state - reference(ids(2, 8)).last_hidden_state
    assert float(difference.abs().max()) < 1e-5
    assert TrOCRDecoder(TrOCRConfig(**values)).state_dict().keys() == ours.state_dict().keys()


def test_parts_of_a_whole_make_a_whole(pair: Pair, tmp_path: Path) -> None:
    pair.ours.encoder.save_pretrained(tmp_path / "encoder")
    pair.ours.decoder.save_pretrained(tmp_path / "decoder")
    whole = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder"
    )
    theirs = hf.VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder")
    )
    assert whole.state_dict().keys() == pair.ours.state_dict().keys()
    if pair.ours.config.needs_projection:  # drawn anew, as there
        whole.enc_to_dec_proj.load_state_dict(pair.ours.enc_to_dec_proj.state_dict())
    assert torch.equal(logits(whole, pair), logits(pair.ours, pair))
    assert theirs.config.decoder.to_dict()["d_model"] == whole.config.decoder.d_model
