"""From a name to a model that reads: what is made of it, and what is refused."""

import dataclasses

import pytest
import torch
from families import images

from trocr import OptimizeError, Reader, VisionEncoderDecoderModel, export, optimize
from trocr.fast import FastModel, optimizing
from trocr.hub import PRETRAINED
from trocr.reader import ReaderError
from trocr.reading import opening
from trocr.reading.opening import OpenError, as_fast, open_model

NOWHERE = {"cache_dir": None, "local_files_only": True, "token": None, "revision": None}


def opened(source, **options):
    given = {"dtype": None, "quantize": None, "fast": True, "with_processor": True, **options}
    return open_model(source, device=torch.device("cpu"), device_is_asked=False, hub=NOWHERE, **given)[0]


@pytest.fixture
def old_processor(monkeypatch):
    """A processor that has neither bf16 nor int8 dot products."""
    found = dataclasses.replace(optimizing.find_hardware(), instructions=("avx2",), processor="Old One")
    monkeypatch.setattr(optimizing, "find_hardware", lambda: found)


def test_a_name_is_made_fast():
    model = opened("tiny-printed")
    assert isinstance(model, FastModel)
    assert model.dtype is torch.float32
    assert model.settings.quantize is None


def test_not_if_that_is_not_wanted(plain_reader):
    assert isinstance(plain_reader.model, VisionEncoderDecoderModel)
    assert not plain_reader.model.training
    assert isinstance(opened("tiny-printed", fast=False), VisionEncoderDecoderModel)


def test_int8_is_made_even_so():
    model = opened("tiny-printed", quantize="int8", fast=False)
    assert isinstance(model, FastModel)
    assert model.settings.quantize == "int8"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_bf16_where_it_is_emulated_is_read_as_it_is(old_processor, dtype, lines):
    reader = Reader(device="cpu", dtype=dtype)
    assert isinstance(reader.model, VisionEncoderDecoderModel)
    assert reader.model.dtype is torch.bfloat16
    assert len(list(reader.read(lines[:2], max_new_tokens=3))) == 2


def test_float16_is_read_as_it_is(lines):
    reader = Reader(device="cpu", dtype="float16")
    assert isinstance(reader.model, VisionEncoderDecoderModel)
    assert reader.model.dtype is torch.float16


def test_float32_is_made_fast_anywhere(old_processor, lines, plain_reader):
    reader = Reader(device="cpu")
    assert isinstance(reader.model, FastModel)
    wanted = [line.text for line in plain_reader.read(lines)]
    assert [line.text for line in reader.read(lines)] == wanted
    int8 = Reader(device="cpu", quantize="int8")
    assert int8.model.dtype is torch.float32


def test_bf16_beside_int8_is_refused_where_it_is_emulated(old_processor):
    with pytest.raises(OptimizeError, match=r"emulated, several times slower .* Take float32"):
        Reader(device="cpu", dtype="bfloat16", quantize="int8")


def test_quantizations_that_are_unknown():
    with pytest.raises(OptimizeError, match="quantize='int4' is unknown"):
        Reader(device="cpu", quantize="int4")


def test_models_that_cannot_be_made_fast_are_read_as_they_are(pair_of):
    model = pair_of("learned").fresh()
    handle = model.encoder.register_forward_hook(lambda *args: None)
    assert as_fast(model) is model
    handle.remove()
    assert isinstance(as_fast(model), FastModel)


def test_an_optimized_folder(tmp_path, lines):
    made = Reader(device="cpu", quantize="int8")
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    reader = Reader(tmp_path)
    assert isinstance(reader.model, FastModel)
    assert [line.text for line in reader.read(lines)] == [line.text for line in made.read(lines)]
    for options, named in (
        ({"dtype": "float32"}, "dtype='float32'"),
        ({"quantize": "int8"}, "quantize='int8'"),
        ({"dtype": "bfloat16", "quantize": "int8"}, "dtype='bfloat16', quantize='int8'"),
    ):
        with pytest.raises(OpenError, match=f"was optimized, and is read as it is: leave {named} out"):
            Reader(tmp_path, device="cpu", **options)
    assert isinstance(Reader(str(tmp_path), device="cpu", optimize=False).model, FastModel)


def test_onnx_folders_are_opened_as_such(tmp_path, monkeypatch):
    class Exported:
        @classmethod
        def from_pretrained(cls, folder):
            return cls, folder

    monkeypatch.setattr(opening, "is_onnx_folder", lambda folder: folder == tmp_path)
    monkeypatch.setattr(export, "OnnxModel", Exported)
    assert opened(str(tmp_path)) == (Exported, tmp_path)
    with pytest.raises(OpenError, match="is an ONNX export, and is read as it is: leave quantize='int8' out"):
        opened(tmp_path, quantize="int8")
    cuda = {"device": torch.device("cuda"), "hub": NOWHERE, "dtype": None, "quantize": None, "fast": True}
    assert open_model(tmp_path, device_is_asked=False, with_processor=True, **cuda)[0] == (Exported, tmp_path)
    with pytest.raises(OpenError, match="leave device='cuda' out"):
        open_model(tmp_path, device_is_asked=True, with_processor=True, **cuda)


def test_folders_of_machine_code_are_not_opened_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "is_package_folder", lambda folder: folder == tmp_path)
    with pytest.raises(OpenError, match="compiled packages, which are machine code: if you trust"):
        opened(tmp_path)


def test_a_model_without_its_processor(tmp_path, pair_of):
    pair_of("learned").ours.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer|processor|preprocessor"):
        Reader(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' is unknown, expected cpu, cuda or cuda:N"),
        ("cuda:99", r"device 'cuda:99': this machine has \d+ CUDA devices; use cpu"),
        ("meta", "device 'meta' holds no weights"),
        ("mps", "device 'mps' is not there"),
        ("xpu", "device 'xpu' is not there"),
    ],
)
def test_devices_that_are_not_there(device, message):
    with pytest.raises(ReaderError, match=message):
        Reader(device=device)


def test_a_loaded_model_is_taken_as_it_is(pair_of, reader):
    model = pair_of("learned").fresh().train()
    with pytest.raises(ReaderError, match=r"quantize is for models loaded by name; use trocr\.optimize"):
        Reader(model, reader.processor, quantize="int8")
    with pytest.raises(ReaderError, match=r"a dict cannot read: it has no config, .*, generate"):
        Reader({}, reader.processor)
    twin = Reader(VisionEncoderDecoderModel.from_pretrained("tiny-printed").train(), reader.processor)
    assert not twin.model.training
    assert isinstance(twin.model, VisionEncoderDecoderModel)
    fast = Reader(reader.model, reader.processor, device="cpu", dtype="float32")
    assert fast.model is reader.model


def test_what_is_on_the_meta_device_cannot_be_optimized(pair_of):
    config = pair_of("learned").ours.config
    with torch.device("meta"):
        model = VisionEncoderDecoderModel(config)
    with pytest.raises(OptimizeError, match="on the meta device"):
        optimize(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_in_memory(pair_of, dtype):
    """Their weights are what they are; the products are computed in float32 unless another is asked for."""
    pair = pair_of("learned")
    pixels, model = images(pair.family, 3), pair.fresh(dtype=dtype)
    fast = optimize(model)
    assert fast.dtype is torch.float32
    wanted = optimize(pair.fresh(dtype=dtype).float()).encode(pixels).last_hidden_state
    torch.testing.assert_close(fast.encode(pixels).last_hidden_state, wanted, rtol=1e-6, atol=1e-6)
    int8 = optimize(model, quantize="int8", dtype="float32", calibration=[pixels])
    assert int8.encode(pixels).last_hidden_state.isfinite().all()


def test_shipped_files_stay_as_they_are():
    before = {path: path.stat().st_mtime_ns for path in (PRETRAINED / "tiny-printed").iterdir()}
    Reader(device="cpu")
    after = {path: path.stat().st_mtime_ns for path in (PRETRAINED / "tiny-printed").iterdir()}
    assert before == after
