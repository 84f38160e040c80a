"""Images in, lines of text out: the one object that holds a model and its processor.

Source: original work.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from trocr.generation import GenerateOutput, processors
from trocr.generation.rules import as_ids
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.image import ImageError
from trocr.line import Line, Token, token_texts
from trocr.models import VisionEncoderDecoderModel
from trocr.pretrained_model import resolve_dtype
from trocr.processor import TrOCRProcessor
from trocr.tokenizers import Tokenizer, TokenizerError

DEFAULT_MODEL = "tiny-printed"
DEFAULT_BATCH_SIZE = 8

SPARE_ROWS = 1024
"""Rows that a model's vocabulary may have beyond its tokenizer's (the official small models have 42)."""

SCORING_BYTES = 2**27
"""Size that a float32 table of logits may have while log-probabilities are computed."""

OnError = Callable[[str, ImageError], None]


class ReaderError(ValueError):
    """A reader cannot be made from what was given."""


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of a batch: its pixels (C, height, width), or what is wrong with it."""

    source: str
    pixels: Tensor | ImageError


class Reader:
    """Reads line images with one model.

    Args:
        model: a shipped name, a directory, a Hub id, or a loaded model, which is put in evaluation mode.
        processor: where it is not in the model's directory: a processor, or where to find one.
        device: "cpu", "cuda", "cuda:1" ...; None takes a loaded model where it is, else CUDA where there is
            any.
        dtype: precision in memory, a `torch.dtype` or its name; None takes the configuration's.
        revision: branch, tag or commit of a Hub model.
        cache_dir: folder of the Hub's cache.
        local_files_only: never use the network.
        token: Hub token.
    Raises:
        HubError: the files are neither here nor reachable.
        ReaderError: a loaded model without a processor, or a device that is not there.
        TokenizerError: the tokenizer is not that of the model.
        ValueError: what the files hold is wrong; see `VisionEncoderDecoderModel.from_pretrained` and
            `TrOCRProcessor.from_pretrained`.
    """

    def __init__(
        self,
        model: str | PathLike[str] | VisionEncoderDecoderModel = DEFAULT_MODEL,
        processor: TrOCRProcessor | str | PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> None:
        place = _resolve_device(device)
        hub: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        if isinstance(model, VisionEncoderDecoderModel):
            if processor is None:
                raise ReaderError("a loaded model needs its processor too: Reader(model, processor=...)")
            self.model = model.eval()
            if device is not None:
                self.model = self.model.to(place)
            if dtype is not None:
                self.model = self.model.to(resolve_dtype(dtype, model.config))
        else:
            want = MODEL_FILES if processor is not None else (*MODEL_FILES, *PROCESSOR_FILES)
            folder = locate(model, want=want, revision=revision, **hub)
            self.model = VisionEncoderDecoderModel.from_pretrained(folder, device=place, dtype=dtype)
            processor = folder if processor is None else processor
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
        on_error: OnError | None = None,
    ) -> Iterator[Line]:
        """Read images, in order.

        Images are taken from the iterable as they are needed, at most two batches ahead; the next batch is
        decoded in a second thread while the model reads this one.

        Args:
            images: one image or any iterable of them; an image is whatever `trocr.image.open_image` takes: a
                path, bytes, an open file, a PIL image, an array.
            batch_size: images that go through the model together.
            num_beams: 1 takes the most probable token at each step, more searches that many alternatives;
                None is the model's own setting, 1 for most.
            max_new_tokens: most tokens of a line; None is the model's own limit.
            native_width: leave out the padding on the right that a batch's lines share, for models whose
                processor pads lines: several times faster where lines are short. The model was trained on
                both; the texts of doubtful lines can differ from those of padded images.
            on_error: called with the source and the error of an image that cannot be read, which is then left
                out. Without it, the error is raised after the lines of the images before.
        Yields:
            A `Line` for each image.
        Raises:
            ImageError: an image cannot be read, and there is no `on_error`.
            GenerationError: the model cannot write that many tokens.
            ReaderError: `native_width` for a processor that does not pad lines.
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
        sources = enumerate(_each(images))
        options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        chosen = {name: value for name, value in options.items() if value is not None}
        return self._lines(sources, batch_size, native_width, chosen, on_error)

    def _lines(
        self,
        sources: Iterator[tuple[int, Any]],
        batch_size: int,
        native_width: bool,
        options: dict[str, Any],
        on_error: OnError | None,
    ) -> Iterator[Line]:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="trocr-images") as pool:
            ahead: Future[list[_Image]] | None = None
            while batch := list(islice(sources, batch_size)):
                current, ahead = ahead, pool.submit(self._prepare, batch)
                if current is not None:
                    yield from self._read_batch(current.result(), native_width, options, on_error)
            if ahead is not None:
                yield from self._read_batch(ahead.result(), native_width, options, on_error)

    def _prepare(self, batch: list[tuple[int, Any]]) -> list[_Image]:
        return [self._load(index, image) for index, image in batch]

    def _load(self, index: int, image: Any) -> _Image:
        is_path = isinstance(image, str | PathLike)
        source = os.fspath(image) if is_path else f"images[{index}]"
        try:
            pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
            if len(pixels) != 1:
                raise ImageError(f"{len(pixels)} images in one; expected a flat list of images")
            return _Image(source, pixels[0])
        except ImageError as error:
            return _Image(source, error if is_path else ImageError(f"{source}: {error}"))

    def _read_batch(
        self,
        images: list[_Image],
        native_width: bool,
        options: dict[str, Any],
        on_error: OnError | None,
    ) -> Iterator[Line]:
        good: list[tuple[str, Tensor]] = []
        for image in images:
            if isinstance(image.pixels, Tensor):
                good.append((image.source, image.pixels))
            elif on_error is not None:
                on_error(image.source, image.pixels)
            else:
                yield from self._recognise(good, native_width, options)
                raise image.pixels
        yield from self._recognise(good, native_width, options)

    @torch.inference_mode()
    def _recognise(
        self, images: list[tuple[str, Tensor]], native_width: bool, options: dict[str, Any]
    ) -> list[Line]:
        """Lines of a batch of (source, pixels (C, height, width))."""
        if not images:
            return []
        pixels = torch.stack([pixels for _, pixels in images])
        if native_width:
            pixels = without_padding(pixels, multiple=self.model.encoder.embeddings.patch_hw[1])
        pixels = pixels.to(self.model.device, self.model.dtype)
        encoded = self.model.encode(pixels, crop_pos_encoding=native_width)
        out = self.model.generate(
            encoder_outputs=encoded, return_dict_in_generate=True, num_return_sequences=1, **options
        )
        assert isinstance(out, GenerateOutput)
        log_probs = out.token_log_probs
        if log_probs is None or self._changes_scores(options):
            log_probs = token_log_probs(self.model, self.model.memory(encoded), out.sequences)
        rows = zip(
            images, out.sequences[:, 1:].tolist(), log_probs.tolist(), out.finished.tolist(), strict=True
        )
        return [self._line(source, ids, values, ended) for (source, _), ids, values, ended in rows]

    def _changes_scores(self, options: dict[str, Any]) -> bool:
        """Whether options change the scores, so that the search's log-probabilities are not the model's."""
        chosen = self.model.generation_config.update(**options).completed()
        longest = self.model.config.decoder.max_position_embeddings
        return bool(processors.build(chosen, prefix=1, max_length=longest, device=self.model.device).steps)

    def _line(self, source: str, ids: list[int], log_probs: list[float], finished: bool) -> Line:
        if finished:
            ends = as_ids(self.model.generation_config.eos_token_id)
            ids = ids[: 1 + next(place for place, id in enumerate(ids) if id in ends)]
        log_probs = log_probs[: len(ids)]
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True)
        parts = zip(ids, token_texts(tokenizer, ids, text), log_probs, strict=True)
        tokens = tuple(Token(id=id, text=part, logprob=value) for id, part, value in parts)
        score = math.exp(sum(log_probs) / len(log_probs))
        return Line(text=text, score=score, tokens=tokens, finished=finished, source=source)


def without_padding(pixels: Tensor, *, multiple: int) -> Tensor:
    """Cut the columns on the right that are flat in every image of a batch.

    Args:
        pixels: (B, C, height, width).
        multiple: of the width that is kept, a patch's; between the last column that is not flat and the edge
            at least one column more is kept.
    Returns:
        (B, C, height, width'), width' at most width.
    """
    is_flat = (pixels == pixels[..., -1:]).all(dim=1).all(dim=1).all(dim=0)  # (width,)
    inked = (~is_flat).nonzero()
    last = int(inked[-1]) + 1 if len(inked) else 0
    return pixels[..., : min(pixels.shape[3], (last // multiple + 1) * multiple)]


def token_log_probs(model: VisionEncoderDecoderModel, memory: Tensor, sequences: Tensor) -> Tensor:
    """Compute the log-probability of every token of given sequences, in one pass without search.

    Args:
        model: the model.
        memory: (B, S, D) states that cross-attention reads.
        sequences: (B, T) ids, the start token first, padded on the right.
    Returns:
        (B, T-1) of `sequences[:, 1:]`, float32, in the model's own distribution: no generation option
        touches it.
    """
    rows_at_once = max(1, SCORING_BYTES // (4 * sequences.shape[1] * model.config.decoder.vocab_size))
    parts = []
    for first in range(0, len(sequences), rows_at_once):
        rows = slice(first, first + rows_at_once)
        ids = sequences[rows]
        out = model.decoder(input_ids=ids[:, :-1], encoder_hidden_states=memory[rows], use_cache=False)
        logits = out.logits.float()
        chosen = logits.gather(2, ids[:, 1:, None]).squeeze(2)  # (B, T-1)
        parts.append(chosen - logits.logsumexp(dim=2))
    return torch.cat(parts)


def check_tokenizer(tokenizer: Tokenizer, model: VisionEncoderDecoderModel) -> None:
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


def _each(images: Any) -> Iterator[Any]:
    """The images of an iterable, or the single one."""
    single = isinstance(images, str | PathLike | bytes | bytearray | memoryview) or hasattr(images, "read")
    ndim = getattr(images, "ndim", None)
    if ndim == 4:
        return iter(images)
    if single or ndim is not None or not isinstance(images, Iterable):
        return iter((images,))
    return iter(images)


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
    return place
