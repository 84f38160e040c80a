import dataclasses
import json
import shutil
import signal
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trocr import (
    CheckpointError,
    ConfigError,
    GenerationError,
    TrOCRConfig,
    TrOCRDecoder,
    TrOCRForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from trocr import checkpoint as checkpoint_module
from trocr.checkpoint import is_finite
from weights_conversion.files import WeightFileError
from weights_conversion.rename import KeyMapError


def tiny_config(**decoder: object) -> VisionEncoderDecoderConfig:
    encoder = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=(8, 16),
        patch_size=8,
    )
    values = {
        "vocab_size": 40,
        "d_model": 16,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 12,
        "cross_attention_hidden_size": 16,
        **decoder,
    }
    return VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, TrOCRConfig(**values))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    VisionEncoderDecoderModel(tiny_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_saved_and_loaded_bit_for_bit(tmp_path: Path, tie: bool, learned: bool) -> None:
    config = tiny_config(tie_word_embeddings=tie, use_learned_position_embeddings=learned)
    model = VisionEncoderDecoderModel(config).eval()
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert again.config == dataclasses.replace(config, dtype="float32")
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    shared = again.decoder.output_projection.weight is again.decoder.embed_tokens.weight
    assert shared == tie
    images, ids = torch.randn(2, 3, 8, 16), torch.tensor([[2, 5, 7], [2, 1, 9]])
    assert torch.equal(model(images, ids).logits, again(images, ids).logits)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1, "weights as readable as the rest"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (ViTModel, tiny_config().encoder),
        (TrOCRForCausalLM, dataclasses.replace(tiny_config().decoder, cross_attention_hidden_size=None)),
        (TrOCRDecoder, tiny_config().decoder),
    ],
)
def test_parts_alone(tmp_path: Path, cls, config) -> None:
    model = cls(config)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [cls.__name__]


def test_two_parts_become_one_model(tmp_path: Path) -> None:
    config = tiny_config()
    encoder, decoder = ViTModel(config.encoder, add_pooling_layer=False), TrOCRForCausalLM(config.decoder)
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    model = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder"
    )
    model.save_pretrained(tmp_path / "both")
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "both")
    images, ids = torch.randn(2, 3, 8, 16), torch.tensor([[2, 5, 7], [2, 1, 9]])
    straight = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    assert torch.equal(straight(images, ids).logits, again(images, ids).logits)
    with pytest.raises(ConfigError, match="model_type is 'trocr', expected one of vit, deit"):
        VisionEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "decoder", tmp_path / "decoder")


def test_precision_is_the_configurations_unless_asked(saved: Path) -> None:
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    model.save_pretrained(saved, storage_dtype=torch.float16)
    stored = load_file(saved / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    load = VisionEncoderDecoderModel.from_pretrained
    assert load(saved).dtype == torch.float32
    assert load(saved, dtype="auto").dtype == torch.float32
    assert load(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load(saved, torch_dtype="float64").dtype == torch.float64
    load(saved, dtype=torch.bfloat16).save_pretrained(saved)
    assert load(saved).dtype == torch.bfloat16
    values = json.loads((saved / "config.json").read_text())
    del values["torch_dtype"]
    (saved / "config.json").write_text(json.dumps(values))
    assert load(saved).dtype == torch.float32
    with pytest.raises(ConfigError, match="dtype 'int7' is unknown, expected one of float32"):
        load(saved, dtype="int7")


def test_loaded_weights_do_not_depend_on_the_file(saved: Path) -> None:
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    before = model.encoder.norm.weight.clone()
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-4000:] = bytes(4000)
    (saved / "model.safetensors").write_bytes(data)
    assert torch.equal(model.encoder.norm.weight, before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_each_tensor_is_copied_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    empty = torch.empty

    def counting(*size, **options):
        made.append(size)
        return empty(*size, **options)

    monkeypatch.setattr(checkpoint_module.torch, "empty", counting)
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    assert len([size for size in made if isinstance(size[0], torch.Size)]) == len(list(model.parameters()))


def test_key_problems_come_in_one_error(saved: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["encoder.layernorm.weight"]
        tensors["encoder.layernom.weight"] = torch.zeros(16)
        tensors["encoder.encoder.layer.0.intermediate.dense.bias"] = torch.zeros(7)

    edit(saved, change)
    with pytest.raises(KeyMapError) as caught:
        VisionEncoderDecoderModel.from_pretrained(saved)
    message = str(caught.value)
    assert str(saved / "model.safetensors") in message
    assert "encoder.layernom.weight" in message
    assert "missing (1):\n    encoder.layernorm.weight" in message
    assert "intermediate.dense.bias: the file has (7,), the configured model expects (24,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers(saved: Path, value: float) -> None:
    edit(saved, lambda tensors: tensors["encoder.layernorm.weight"].fill_(value))
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite values in encoder\.layernorm\.weight;.*diverged"
    ):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_whole_numbers_are_no_weights(saved: Path) -> None:
    name = "decoder.model.decoder.layers.0.fc1.weight"
    edit(saved, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name} holds int8, expected a floating"):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_large_finite_numbers_are_fine() -> None:
    assert is_finite(torch.full((4,), 3e38))
    assert is_finite(torch.full((4,), 60000.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([1.0, float("inf"), -float("inf")]))
    assert is_finite(torch.tensor([1, 2]))


def test_tied_weights_that_differ(saved: Path) -> None:
    name = "decoder.output_projection.weight"
    partner = "decoder.model.decoder.embed_tokens.weight"
    edit(saved, lambda tensors: tensors.update({name: tensors[partner].clone()}))
    VisionEncoderDecoderModel.from_pretrained(saved)
    edit(saved, lambda tensors: tensors[name].add_(1))
    with pytest.raises(CheckpointError, match=r"differs from .*tie_word_embeddings is true"):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_damaged_files(saved: Path) -> None:
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    for damage in (
        b"",
        whole[:6],
        whole[: size // 2],
        whole[:-10],
        whole[:8] + b"x" * size + whole[8 + size :],
    ):
        path.write_bytes(damage)
        with pytest.raises(WeightFileError, match=r"model\.safetensors"):
            VisionEncoderDecoderModel.from_pretrained(saved)
    path.unlink()
    with pytest.raises(WeightFileError, match=r"no weights; expected one of model\.safetensors"):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_a_model_that_its_configuration_does_not_describe_is_not_written(saved: Path) -> None:
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    before = (saved / "model.safetensors").read_bytes()
    del model.decoder.blocks[1]
    with pytest.raises(
        CheckpointError, match=r"cannot be rebuilt.*decoder\.blocks\.1\..* is not in the model"
    ):
        model.save_pretrained(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    model.config = dataclasses.replace(
        model.config, decoder=dataclasses.replace(model.config.decoder, decoder_layers=1)
    )
    model.save_pretrained(saved)
    assert len(VisionEncoderDecoderModel.from_pretrained(saved).decoder.blocks) == 1


def test_a_failed_save_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    torch.nn.init.ones_(model.encoder.norm.weight)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written .*No space left.* what was there is unchanged"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_full_disk(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = VisionEncoderDecoderModel.from_pretrained(saved)
    torch.nn.init.ones_(model.encoder.norm.weight)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"model: the checkpoint cannot be written .*File too large"):
            model.save_pretrained(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_saving_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OSError, match=r"taken/model: the checkpoint cannot be written \(.*Not a directory"):
        VisionEncoderDecoderModel(tiny_config()).save_pretrained(tmp_path / "taken" / "model")


def test_saving_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(CheckpointError, match="taken is a file, expected a directory"):
        VisionEncoderDecoderModel(tiny_config()).save_pretrained(tmp_path / "taken")


def test_the_pooler_stays_when_the_file_has_one(tmp_path: Path) -> None:
    config = tiny_config()
    model = VisionEncoderDecoderModel(config, encoder=ViTModel(config.encoder))
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(again.encoder.pooler.dense.weight, model.encoder.pooler.dense.weight)
    shutil.rmtree(tmp_path)
    VisionEncoderDecoderModel(config).save_pretrained(tmp_path)
    assert VisionEncoderDecoderModel.from_pretrained(tmp_path).encoder.pooler is None


def test_what_is_not_a_model(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(OSError, match="no-such-model"):
        VisionEncoderDecoderModel.from_pretrained("no-such-model")
    with pytest.raises(ConfigError, match=r"'model_type' is 'vision-encoder-decoder', expected 'vit'"):
        ViTModel.from_pretrained(saved)
    with pytest.raises(ConfigError, match="ViTModel needs a ViTConfig, a TrOCRConfig was given"):
        ViTModel(TrOCRConfig())
    with pytest.raises(ConfigError, match="needs a configuration, or an encoder and a decoder"):
        VisionEncoderDecoderModel()


def test_images_may_be_called_inputs(saved: Path) -> None:
    model, images = VisionEncoderDecoderModel.from_pretrained(saved), torch.randn(2, 3, 8, 16)
    expected = model.generate(images, max_new_tokens=3)
    assert torch.equal(model.generate(inputs=images, max_new_tokens=3), expected)
    with pytest.raises(GenerationError, match="the first argument of generate is pixel_values, also given"):
        model.generate(images, inputs=images)


def test_generation_options_that_are_wrong(saved: Path) -> None:
    (saved / "generation_config.json").write_text('{"num_beams": "four"}')
    with pytest.raises(GenerationError, match=r"model/generation_config\.json: .*num_beams='four' must be"):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_sizes_beyond_all_measure(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    values["decoder"]["d_model"] = 2**40
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        ConfigError, match=r"no model can be built .*model\.safetensors .*sizes must be those"
    ):
        VisionEncoderDecoderModel.from_pretrained(saved)


def test_precision_that_is_no_floating_point(saved: Path) -> None:
    for dtype in ("int8", torch.int8):
        with pytest.raises(ConfigError, match="dtype 'int8' is unknown, expected one of float32"):
            VisionEncoderDecoderModel.from_pretrained(saved, dtype=dtype)
