"""The processor: what it makes of images and texts, where options go, folders shared with transformers."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trocr.hub import PRETRAINED, HubError
from trocr.image import BatchFeature, DeiTImageProcessor, ImageError, ViTImageProcessor
from trocr.processor import TrOCRProcessor
from trocr.tokenizers import BatchEncoding, RobertaTokenizer, TokenizerError, XLMRobertaTokenizer

TEXTS = ["Hello, World! 12.50", "a"]


@pytest.fixture(scope="module")
def processor() -> TrOCRProcessor:
    return TrOCRProcessor.from_pretrained("tiny-printed")


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8))


# ---- images and texts ----


def test_images_alone(processor: TrOCRProcessor, image: Image.Image) -> None:
    found = processor(image, return_tensors="pt")
    assert isinstance(found, BatchFeature)
    assert list(found.keys()) == ["pixel_values"]
    expected = processor.image_processor(image, return_tensors="pt").pixel_values
    assert found.pixel_values.shape == (1, 3, 32, 960)
    assert torch.equal(found.pixel_values, expected)
    assert torch.equal(processor(images=[image, image], return_tensors="pt").pixel_values[1:], expected)


def test_texts_alone(processor: TrOCRProcessor) -> None:
    for text in (TEXTS[0], TEXTS):
        found = processor(text=text)
        assert isinstance(found, BatchEncoding)
        assert dict(found) == dict(processor.tokenizer(text))
    padded = processor(text=TEXTS, padding=True, return_tensors="np")
    assert padded.input_ids.shape == padded.attention_mask.shape
    assert padded.input_ids[1, -1] == processor.tokenizer.pad_token_id


def test_images_and_texts(processor: TrOCRProcessor, image: Image.Image) -> None:
    found = processor([image, image], TEXTS, padding="max_length", max_length=20, return_tensors="pt")
    assert list(found.keys()) == ["pixel_values", "labels"] == processor.model_input_names
    assert found.labels.shape == (2, 20)
    assert found.labels.tolist() == processor.tokenizer(TEXTS, padding="max_length", max_length=20).input_ids
    assert processor(image, TEXTS[0]).labels == processor.tokenizer(TEXTS[0]).input_ids


def test_neither_is_an_error(processor: TrOCRProcessor) -> None:
    with pytest.raises(ValueError, match="neither images nor text is given"):
        processor()


def test_decoding_is_the_tokenizers(processor: TrOCRProcessor) -> None:
    rows = processor.tokenizer(TEXTS).input_ids
    assert processor.batch_decode(rows, skip_special_tokens=True) == TEXTS
    assert processor.decode(rows[0], skip_special_tokens=True) == TEXTS[0]
    rows = [[1, 4, 5, 8, 1, 0, 8], [3, 4, 3, 1, 1, 8, 9]]
    assert processor.batch_decode(rows) == processor.tokenizer.batch_decode(rows)
    assert processor.batch_decode(torch.tensor(rows)) == processor.tokenizer.batch_decode(rows)


# ---- options ----


def test_options_go_where_they_belong(processor: TrOCRProcessor, image: Image.Image) -> None:
    flat = processor(image, TEXTS[0], size=(8, 16), do_normalize=False, add_special_tokens=False)
    nested = processor(
        image,
        TEXTS[0],
        images_kwargs={"size": (8, 16), "do_normalize": False},
        text_kwargs={"add_special_tokens": False},
        common_kwargs={"return_tensors": "np"},
    )
    assert flat.pixel_values[0].shape == (3, 8, 16)
    assert flat.pixel_values[0].min() >= 0
    assert (nested.pixel_values[0] == flat.pixel_values[0]).all()
    assert (
        nested.labels.tolist()
        == [flat.labels]
        == [processor.tokenizer.encode(TEXTS[0], add_special_tokens=False)]
    )


def test_options_that_there_are_not(processor: TrOCRProcessor, image: Image.Image) -> None:
    with pytest.raises(TypeError, match=r"no option 'max_lenght' \(given 5\); .* crop_size, .* max_length"):
        processor(image, TEXTS[0], max_lenght=5)
    with pytest.raises(TypeError, match="no setting 'padding'"):
        processor(image, images_kwargs={"padding": True})
    with pytest.raises(TypeError, match="size: given in images_kwargs and by itself"):
        processor(image, size=8, images_kwargs={"size": 9})


def test_every_option_of_the_parts_is_known(processor: TrOCRProcessor, image: Image.Image) -> None:
    settings = {name: getattr(processor.image_processor, name) for name in vars(processor.image_processor)}
    processor(image, TEXTS[0], **settings, input_data_format=None, data_format="channels_first")
    parameters = inspect.signature(type(processor.tokenizer).__call__).parameters.values()
    texts = {item.name: item.default for item in parameters if item.name not in ("self", "text")}
    assert processor(text=TEXTS[0], **texts).input_ids == processor.tokenizer(TEXTS[0]).input_ids


# ---- building ----


def test_wrong_parts(processor: TrOCRProcessor) -> None:
    with pytest.raises(TypeError, match="image_processor: NoneType; expected a ViTImageProcessor"):
        TrOCRProcessor(tokenizer=processor.tokenizer)
    with pytest.raises(TypeError, match="image_processor: RobertaTokenizer; expected a ViTImageProcessor"):
        TrOCRProcessor(processor.tokenizer, processor.image_processor)
    with pytest.raises(TypeError, match="tokenizer: NoneType; expected a tokenizer"):
        TrOCRProcessor(processor.image_processor)


def test_repr_names_the_parts(processor: TrOCRProcessor) -> None:
    assert "ViTImageProcessor(" in repr(processor)


# ---- folders ----


def test_saved_and_loaded(processor: TrOCRProcessor, tmp_path: Path) -> None:
    files = processor.save_pretrained(tmp_path / "new")
    assert sorted(files) == sorted(str(path) for path in (tmp_path / "new").iterdir())
    config = json.loads((tmp_path / "new" / "preprocessor_config.json").read_text())
    assert config["processor_class"] == "TrOCRProcessor"
    loaded = TrOCRProcessor.from_pretrained(tmp_path / "new")
    assert loaded.image_processor == processor.image_processor
    assert loaded.image_processor.pad_to_aspect_ratio
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.tokenizer(TEXTS).input_ids == processor.tokenizer(TEXTS).input_ids


def test_overrides_of_both_parts(tmp_path: Path) -> None:
    shutil.copytree(PRETRAINED / "tiny-printed", tmp_path, dirs_exist_ok=True)
    loaded = TrOCRProcessor.from_pretrained(tmp_path, do_normalize=False, use_fast=True, bos_token="(BOS)")
    assert loaded.image_processor == ViTImageProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert not loaded.image_processor.do_normalize
    assert loaded.tokenizer.bos_token == "(BOS)"
    assert (
        loaded.tokenizer.get_vocab()
        == RobertaTokenizer.from_pretrained(tmp_path, bos_token="(BOS)").get_vocab()
    )


def test_folders_without_their_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        TrOCRProcessor.from_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(PRETRAINED / "tiny-printed" / name, tmp_path)
    with pytest.raises(ImageError, match=r"no preprocessor_config.json in it, .* copy the file from"):
        TrOCRProcessor.from_pretrained(tmp_path)
    with pytest.raises(HubError, match="no-such-model"):
        TrOCRProcessor.from_pretrained("no-such-model")


def test_official_small_model(reference: Path) -> None:
    loaded = TrOCRProcessor.from_pretrained(reference / "trocr-small-printed")
    assert isinstance(loaded.tokenizer, XLMRobertaTokenizer)
    assert loaded.image_processor == DeiTImageProcessor(size=384, do_center_crop=False)


def folder_of(name: str, request: pytest.FixtureRequest) -> Path:
    if name == "tiny-printed":
        return PRETRAINED / name
    return request.getfixturevalue("reference") / name


@pytest.mark.parametrize("name", ["tiny-printed", "trocr-small-printed"])
def test_transformers_reads_what_we_save_and_we_read_what_it_saves(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, image: Image.Image
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = TrOCRProcessor.from_pretrained(folder_of(name, request))
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    assert type(theirs) is transformers.TrOCRProcessor
    assert type(theirs.image_processor).__name__ == f"{type(ours.image_processor).__name__}Pil"
    # transformers knows nothing of padding
    expected = theirs(image, TEXTS[0], return_tensors="np")
    found = ours(image, TEXTS[0], return_tensors="np", pad_to_aspect_ratio=False)
    assert list(found.keys()) == list(expected.keys())
    assert (found.pixel_values == expected.pixel_values).all()
    assert (found.labels == expected.labels).all()
    assert ours.model_input_names == theirs.model_input_names
    theirs.save_pretrained(tmp_path / "theirs")
    back = TrOCRProcessor.from_pretrained(tmp_path / "theirs")
    assert back.image_processor == ours.image_processor
    assert back.tokenizer(TEXTS).input_ids == ours.tokenizer(TEXTS).input_ids
    ours.image_processor.size, kept = 16, ours.image_processor.size
    ours.save_pretrained(tmp_path / "theirs")  # over what transformers 5 wrote
    again = transformers.TrOCRProcessor.from_pretrained(tmp_path / "theirs", backend="pil")
    ours.image_processor.size = kept
    assert dict(again.image_processor.size) == {"height": 16, "width": 16}


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, trocr.processor; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
