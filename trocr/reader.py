"""Images in, lines of text out: the one object that holds a model and its processor.

Source: original work.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from trocr.generation.rules import as_ids
from trocr.line import Line, Token, token_texts
from trocr.models import VisionEncoderDecoderModel
from trocr.native_aspect import NativeAspect
from trocr.pretrained_model import resolve_dtype
from trocr.processor import TrOCRProcessor
from trocr.reading.images import ReadyImage, at_native_width, ready_batches
from trocr.reading.opening import open_model
from trocr.reading.order import LineOrder, OnError
from trocr.reading.recognisers import (
    BatchRecogniser,
    Found,
    Recogniser,
    SlotRecogniser,
    greedy_length,
    patch_width,
)
from trocr.reading.sorting import Numbered
from trocr.tokenizers import Tokenizer, TokenizerError

DEFAULT_MODEL = "tiny-printed"
DEFAULT_BATCH_SIZE = 8

SPARE_ROWS = 1024
"""Rows that a model's vocabulary may have beyond its tokenizer's (the official small models have 42)."""

_READING = ("config", "generation_config", "device", "dtype", "encode", "memory", "decoder", "generate")


class ReaderError(ValueError):
    """A reader cannot be made from what was given."""


class Reader:
    """Reads line images with one model.

    Args:
        model: a shipped name, a directory, a Hub id; or a loaded model: a `VisionEncoderDecoderModel`, which
            is put in evaluation mode, or one that was made for reading (`trocr.optimize`, ONNX Runtime ...).
        processor: where it is not in the model's directory: a processor, or where to find one.
        device: "cpu", "cuda", "cuda:1" ...; None takes a loaded model where it is, else CUDA where there is
            any.
        dtype: precision in memory, a `torch.dtype` or its name; None takes the configuration's.
        quantize: None or "int8"; see `trocr.optimize`, also for what it may change.
        optimize: whether a model that is loaded by name is made fast (see `trocr.optimize`; in float32 the
            texts stay the same). Models that cannot be, and precisions that are slow on this processor, are
            read as they are. A loaded model is always taken as it is: optimize it before.
        revision: branch, tag or commit of a Hub model.
        cache_dir: folder of the Hub's cache.
        local_files_only: never use the network.
        token: Hub token.

    Attributes:
        model: what reads: a `FastModel` where a model was loaded by name and made fast, which has no
            parameters and gives no attentions; `optimize=False` keeps the `VisionEncoderDecoderModel`.
        processor: its processor.

    Raises:
        HubError: the files are neither here nor reachable.
        ReaderError: a loaded model without a processor, or a device that is not there.
        TokenizerError: the tokenizer is not that of the model.
        ValueError: what the files hold is wrong; see `VisionEncoderDecoderModel.from_pretrained` and
            `TrOCRProcessor.from_pretrained`.
    """

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        processor: TrOCRProcessor | str | PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
        optimize: bool = True,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> None:
        place = _resolve_device(device)
        hub: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        if isinstance(model, str | PathLike):
            self.model, folder = open_model(
                model,
                device=place,
                device_is_asked=device is not None,
                dtype=dtype,
                quantize=quantize,
                fast=optimize,
                with_processor=processor is None,
                hub={**hub, "revision": revision},
            )
            processor = folder if processor is None else processor
        elif processor is None:
            raise ReaderError("a loaded model needs its processor too: Reader(model, processor=...)")
        else:
            self.model = _as_asked(model, device=device, dtype=dtype, quantize=quantize)
        if not isinstance(processor, TrOCRProcessor):
            processor = TrOCRProcessor.from_pretrained(processor, **hub)
        self.processor = processor
        check_tokenizer(self.processor.tokenizer, self.model)

    def read(
        self,
        images: Any,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        native_width: bool = False,
        native_aspect: bool | NativeAspect = False,
        draft: Any = None,
        on_error: OnError | None = None,
    ) -> Iterator[Line]:
        """Read images, in order.

        Images are taken from the iterable as they are needed, at most two batches ahead; the next batch is
        decoded in a second thread while the model reads this one. An optimized model reads continuously: a
        line that ends makes room for the next.

        Args:
            images: one image or any iterable of them; an image is whatever `trocr.image.open_image` takes: a
                path, bytes, an open file, a PIL image, an array.
            batch_size: images that go through the model together; fewer where memory does not suffice.
            num_beams: 1 takes the most probable token at each step, more searches that many alternatives;
                None is the model's own setting, 1 for most.
            max_new_tokens: most tokens of a line; None is the model's own limit.
            native_width: leave out the padding on the right, for models whose processor pads lines: several
                times faster where lines are short. The model was trained on both; the texts of doubtful lines
                can differ from those of padded images. Each line is cut to its own width, and four batches
                are sorted by it, so a line's text does not depend on the lines beside it.
            native_aspect: give each image a grid of patches of its own shape, for models whose processor
                scales every image to one size; True, or a `NativeAspect` with settings. The model has not
                seen such images: see `trocr.native_aspect`, and measure what it does to your lines.
            draft: guesses tokens that the model then checks, see `trocr.generation.generate`.
            on_error: called with the source and the error of an image that cannot be read, which is then left
                out. Without it, the error is raised after the lines of the images before.
        Yields:
            A `Line` for each image.
        Raises:
            ImageError: an image cannot be read, and there is no `on_error`.
            GenerationError: the model cannot write that many tokens.
            ReaderError: `native_width` for a processor that does not pad lines, or with `native_aspect`.
            NativeAspectError: see `NativeAspect.of`.
            ValueError: a number below 1.
        """
        for name, value in (("batch_size", batch_size), ("num_beams", num_beams)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if native_width and not self.processor.image_processor.pad_to_aspect_ratio:
            raise ReaderError(
                "native_width is for processors that pad lines (pad_to_aspect_ratio); this one scales every "
                "image to the full size"
            )
        if native_width and native_aspect:
            raise ReaderError("native_width and native_aspect exclude each other: pass one")
        prepare = self._prepare_by(native_aspect) if native_aspect else self._pixels
        if native_width:
            prepare = self._pixels_without_padding
        given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "draft": draft}
        options = {name: value for name, value in given.items() if value is not None}
        recogniser = self.recogniser(
            options,
            batch_size=batch_size,
            native_width=native_width,
            native_aspect=bool(native_aspect),
        )
        return self._lines(ready_batches(images, prepare, batch_size), recogniser, on_error)

    def recogniser(
        self,
        options: Mapping[str, Any],
        *,
        batch_size: int,
        native_width: bool = False,
        native_aspect: bool = False,
        lengths: Mapping[int, int] | None = None,
    ) -> Recogniser:
        """Choose how to read: continuously where the model and the options allow it, else batch by batch.

        Args:
            options: of `generate`.
            batch_size: see `read`.
            native_width: see `read`.
            native_aspect: see `read`.
            lengths: see `SlotRecogniser`; only where texts are read continuously.
        Raises:
            GenerationError: options that the model cannot follow.
        """
        length = greedy_length(self.model, options)
        if length is None:
            return BatchRecogniser(
                self.model,
                options,
                batch_size=batch_size,
                native_width=native_width,
                native_aspect=native_aspect,
            )
        return SlotRecogniser(
            self.model,
            capacity=batch_size,
            length=length,
            native_width=native_width,
            native_aspect=native_aspect,
            lengths=lengths,
        )

    def _prepare_by(self, aspect: bool | NativeAspect) -> Callable[[Any], Tensor]:
        """Give what makes pixel values (1, C, height, width) of an image at its own aspect ratio."""
        processor = self.processor.image_processor
        chosen = NativeAspect.of(self.model, processor) if aspect is True else aspect
        assert isinstance(chosen, NativeAspect)
        return lambda image: chosen.prepare(processor, image)[None]

    def _pixels(self, image: Any) -> Tensor:
        """Pixel values (1, C, height, width) of one image."""
        pixels: Tensor = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
        return pixels

    def _pixels_without_padding(self, image: Any) -> Tensor:
        """Pixel values (1, C, height, width) of one image at its native width."""
        return at_native_width(self._pixels(image), patch_px=patch_width(self.model))

    def _lines(
        self, batches: Generator[list[ReadyImage]], recogniser: Recogniser, on_error: OnError | None
    ) -> Iterator[Line]:
        """Put what a recogniser finds into the order of the images."""
        order = LineOrder(self._line, on_error)
        with closing(batches):  # no thread is left, however this ends
            for batch in batches:
                order.expect(batch)
                results = recogniser.push(_good(batch))
                del batch  # pixels are held by the recogniser and by the thread that makes the next ready
                for number, found in results:
                    order.found[number] = found
                    yield from order.ready()
                yield from order.ready()
                if order.is_blocked:  # by an image that cannot be read, after all that came before it
                    break
        for number, found in recogniser.drain():
            order.found[number] = found
            yield from order.ready()
        yield from order.ready()

    def _line(self, source: str, found: Found) -> Line:
        ids, log_probs = found.ids, found.log_probs
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True)
        parts = zip(ids, token_texts(tokenizer, ids, text), log_probs, strict=True)
        tokens = tuple(Token(id=id, text=part, logprob=value) for id, part, value in parts)
        score = math.exp(sum(log_probs) / len(log_probs))
        return Line(text=text, score=score, tokens=tokens, finished=found.finished, source=source)


def _good(batch: list[ReadyImage]) -> list[Numbered]:
    """Number the pixels of the images that can be read."""
    return [(image.number, image.pixels) for image in batch if isinstance(image.pixels, Tensor)]


def check_tokenizer(tokenizer: Tokenizer, model: Any) -> None:
    """Check that a tokenizer can be that of a model: its size and its special tokens.

    Raises:
        TokenizerError: it cannot.
    """
    config, options = model.config, model.generation_config
    rows, size = config.decoder.vocab_size, len(tokenizer)
    problems = []
    if not 0 <= rows - size <= SPARE_ROWS:
        problems.append(f"it has {size} tokens and the model's vocabulary {rows} (decoder.vocab_size)")
    for name, found, wanted in (
        ("end token", tokenizer.eos_token_id, options.eos_token_id),
        ("padding token", tokenizer.pad_token_id, options.pad_token_id),
    ):
        if found is not None and wanted is not None and found not in as_ids(wanted):
            problems.append(f"its {name} is {found} and the model's {wanted}")
    if problems:
        raise TokenizerError(
            f"this {type(tokenizer).__name__} does not fit the model: {'; '.join(problems)}. "
            "Take the tokenizer files of the checkpoint that the model comes from"
        )


def _as_asked(
    model: Any, *, device: str | torch.device | None, dtype: str | torch.dtype | None, quantize: str | None
) -> Any:
    """Give a loaded model in evaluation mode, where and in the precision that it is asked for.

    Raises:
        ReaderError: it is no model that reads, or one that was made for reading and is asked to be otherwise.
    """
    if quantize is not None:
        raise ReaderError("quantize is for models loaded by name; use trocr.optimize(model, quantize=...)")
    if isinstance(model, VisionEncoderDecoderModel):
        model = model.eval()
        if device is not None:
            model = model.to(_resolve_device(device))
        return model if dtype is None else model.to(resolve_dtype(dtype, model.config))
    missing = [name for name in _READING if not hasattr(model, name)]
    if missing:
        raise ReaderError(
            f"a {type(model).__name__} cannot read: it has no {', '.join(missing)}. Expected a name, a "
            "folder, a VisionEncoderDecoderModel, or a model made from one for reading"
        )
    elsewhere = device is not None and _resolve_device(device) != torch.device(model.device)
    otherwise = dtype is not None and resolve_dtype(dtype, model.config) != model.dtype
    if elsewhere or otherwise:
        raise ReaderError(
            f"a {type(model).__name__} is read as it is, on {model.device} in {model.dtype}: leave device "
            "and dtype out"
        )
    return model


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ReaderError(f"device {device!r} is unknown, expected cpu, cuda or cuda:N") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ReaderError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu"
        )
    if place.type == "meta":
        raise ReaderError("device 'meta' holds no weights to read with; use cpu, cuda or cuda:N")
    if place.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            raise ReaderError(f"device {device!r} is not there; use cpu, cuda or cuda:N") from error
    return place
