"""The checkpoint of a suite, and what is made ready before anything is timed.

Source: original work.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trocr.benchmark.candidates import NATIVE, OURS, Materials
from trocr.benchmark.errors import BenchmarkError, CandidateError
from trocr.benchmark.lengths import key_of
from trocr.benchmark.lines import BenchmarkLine, load_lines, with_lengths, with_pixels
from trocr.benchmark.weights import SHAPES, TINY, image_processor_of, save_random, shape_config
from trocr.config import VisionEncoderDecoderConfig
from trocr.hub import locate
from trocr.image import load_image_processor
from trocr.nearest import nearest
from trocr.reader import Reader
from trocr.tokenizers import load_tokenizer

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def is_random(model: str) -> bool:
    """Whether a suite's model is a shape with random weights."""
    return model in (*SHAPES, TINY)


def checkpoint_folder(model: str, scratch: Path) -> Path:
    """Folder of a suite's model; that of a shape is written, with random weights and its image processor.

    Args:
        model: a shape, a shipped name or a directory.
        scratch: where it may be written.
    """
    if not is_random(model):
        return Path(locate(model, want=FILES))
    folder = scratch / model
    save_random(model, folder)
    image_processor_of(model).save_pretrained(folder)
    return folder


def max_new_tokens(folder: Path) -> int:
    """Tokens that a checkpoint's decoder can write for a line."""
    config = VisionEncoderDecoderConfig.from_pretrained(folder)
    return config.decoder.max_position_embeddings - 1


def prepare_lines(
    data: str, count: int, folder: Path, *, tokenizer: Any = None, seed: int = 0
) -> list[BenchmarkLine]:
    """Load lines, prepare their images for a checkpoint, and give them their lengths."""
    prepared = with_pixels(load_lines(data, count, seed=seed), load_image_processor(folder))
    lines = with_lengths(prepared, most=max_new_tokens(folder), tokenizer=tokenizer)
    seen: dict[bytes, int] = {}  # lines whose images look alike have one length
    return [
        replace(line, length=seen.setdefault(key_of(line.pixels), line.length or 1))
        for line in lines
        if line.pixels is not None
    ]


def prepared_lines(request: Mapping[str, Any]) -> Materials:
    """What a child process needs to load a model and read one line."""
    folder = Path(request["folder"])
    tokenizer = load_tokenizer(request["tokenizer"]) if request.get("tokenizer") else None
    lines = prepare_lines(request["data"], 1, folder, tokenizer=tokenizer)
    return Materials(folder=folder, lines=lines, calibration=lines, batch=1, scratch=folder)


def text_reader(request: Mapping[str, Any]) -> tuple[Reader, dict[str, Any]]:
    """A reader as a child process is asked for, and the options of its `read`.

    Raises:
        BenchmarkError: the candidate is not one of ours.
    """
    name, _, word = str(request["candidate"]).partition(" ")
    if name not in OURS or word not in ("", NATIVE):
        raise CandidateError(f"there is no candidate {request['candidate']!r}{nearest(name, OURS)}")
    if is_random(request["model"]):
        raise BenchmarkError(f"a reader needs a tokenizer; the shape {request['model']!r} has none")
    folder = Path(request["folder"])
    calibration = with_pixels(load_lines(request["data"], 8), load_image_processor(folder))
    materials = Materials(
        folder=folder, lines=(), calibration=calibration, batch=request["batch"], scratch=folder
    )
    options = {"batch_size": request["batch"], "native_width": word == NATIVE}
    return Reader(OURS[name].make(materials), materials.processor), options


def describe_model(model: str) -> str:
    """A few words on a suite's model."""
    if not is_random(model):
        return model
    config = shape_config(model)
    encoder, decoder = config.encoder.to_dict(), config.decoder
    return (
        f"{model} shape, random weights: encoder {encoder['num_hidden_layers']} x {encoder['hidden_size']}, "
        f"decoder {decoder.decoder_layers} x {decoder.d_model}"
    )
