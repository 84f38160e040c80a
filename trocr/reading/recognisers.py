"""Recognisers: pixels in, token ids with their log-probabilities out, in batches or continuously.

Source: original work.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trocr.config import ViTConfig
from trocr.fast.mixed import MixedEncoder
from trocr.fast.model import FastModel
from trocr.fast.slots import Row, Slots
from trocr.generation import GenerateOutput, processors
from trocr.generation.lengths import Length, resolve_length, warn_cut
from trocr.generation.options import option_names
from trocr.generation.request import check_vocabulary, resolve_options
from trocr.generation.rules import as_ids
from trocr.reading.memory import Room, in_parts, release
from trocr.reading.scores import token_log_probs
from trocr.reading.sorting import WINDOW, Numbered, Sorter

SHARE = 8
"""New lines are put into slots once so large a share of them is free: each time costs some small products."""

PLAIN_OPTIONS = frozenset({"num_beams", "max_new_tokens", "max_length"})
"""Options of `generate` that texts can be read continuously with; all others need `generate` itself."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was read in one image.

    Attributes:
        ids: new tokens, the end token included.
        log_probs: of each.
        finished: whether the text came to its end.
    """

    ids: list[int]
    log_probs: list[float]
    finished: bool


class Recogniser(Protocol):
    """The role: take images, give what was read, in any order."""

    def push(self, images: Sequence[Numbered]) -> Iterator[tuple[int, Found]]:
        """Take images, and give those that are read."""

    def drain(self) -> Iterator[tuple[int, Found]]:
        """Give all others."""


def fit_options(native_width: bool, native_aspect: bool) -> dict[str, bool]:
    """Give the option of `encode` for images that are not of the model's size."""
    return {
        name: True
        for name, wanted in (
            ("crop_pos_encoding", native_width),
            ("interpolate_pos_encoding", native_aspect),
        )
        if wanted
    }


def patch_width(model: Any) -> int:
    """Give the width of a patch in pixels: the configuration's, or that of timm's encoder itself."""
    config = model.config.encoder
    patch_hw = config.patch_hw if isinstance(config, ViTConfig) else model.encoder.embeddings.patch_hw
    return int(patch_hw[1])


class BatchRecogniser:
    """Reads images of one shape together, by `generate`.

    Args:
        model: any reading model.
        options: of `generate`.
        batch_size: most images that are read together.
        native_width: images come without their padding, see `trocr.reading.images.at_native_width`.
        native_aspect: images come in sizes of their own, see `trocr.native_aspect`.
    """

    def __init__(
        self,
        model: Any,
        options: Mapping[str, Any],
        *,
        batch_size: int,
        native_width: bool = False,
        native_aspect: bool = False,
    ) -> None:
        self.model = model
        self.options = options
        self._fit = fit_options(native_width, native_aspect)
        self._sorter = Sorter(batch_size=batch_size, waits=bool(self._fit))
        self._room = Room(batch_size, "read")

    def push(self, images: Sequence[Numbered]) -> Iterator[tuple[int, Found]]:
        """Take images, and read them once enough wait."""
        groups = self._sorter.push(images)
        del images
        yield from self._run(groups)

    def drain(self) -> Iterator[tuple[int, Found]]:
        """Read all others."""
        yield from self._run(self._sorter.drain())

    def _run(self, groups: Iterator[list[Numbered]]) -> Iterator[tuple[int, Found]]:
        for group in groups:
            for part in in_parts(self._read, group, self._room):
                yield from part

    @torch.inference_mode()
    def _read(self, images: Sequence[Numbered]) -> list[tuple[int, Found]]:
        model = self.model
        pixels = torch.stack([pixels for _, pixels in images]).to(model.device, model.dtype)
        encoded = model.encode(pixels, **self._fit)
        # a draft may have an encoder of its own
        images_too = {"pixel_values": pixels, **self._fit} if "draft" in self.options else {}
        out = model.generate(
            encoder_outputs=encoded,
            return_dict_in_generate=True,
            num_return_sequences=1,
            **images_too,
            **self.options,
        )
        assert isinstance(out, GenerateOutput)
        log_probs = out.token_log_probs
        if log_probs is None or changes_scores(model, self.options):
            log_probs = token_log_probs(model, model.memory(encoded), out.sequences)
        ends = as_ids(model.generation_config.eos_token_id)
        found = []
        rows = zip(
            images, out.sequences[:, 1:].tolist(), log_probs.tolist(), out.finished.tolist(), strict=True
        )
        for (number, _), ids, values, finished in rows:
            if finished:
                ids = ids[: 1 + next(place for place, id in enumerate(ids) if id in ends)]
            found.append((number, Found(ids, values[: len(ids)], finished)))
        return found


class SlotRecogniser:
    """Reads continuously with an optimized model, greedily: a line that ends makes room for the next.

    Where memory does not suffice for so many lines, those that are being written begin anew, half of them at
    a time.

    Args:
        model: an optimized model whose options change no scores, see `greedy_length`.
        capacity: lines that are decoded together.
        length: the longest a text may become.
        native_width: images come without their padding, see `trocr.reading.images.at_native_width`.
        native_aspect: images come in sizes of their own, see `trocr.native_aspect`.
        lengths: number of an image -> tokens that it gets whatever the model says, for timing.
    """

    def __init__(
        self,
        model: FastModel,
        *,
        capacity: int,
        length: Length,
        native_width: bool = False,
        native_aspect: bool = False,
        lengths: Mapping[int, int] | None = None,
    ) -> None:
        self.model = model
        self.length = length
        self.most = length.most - 1
        self.lengths = lengths or {}
        options = model.generation_config
        self.slots = Slots(
            model.decoder,
            capacity=capacity,
            start_token_id=as_ids(options.decoder_start_token_id)[0],
            end_tokens=as_ids(options.eos_token_id),
            num_states=model.num_states,
        )
        self._fit = fit_options(native_width, native_aspect)
        self._mixed: MixedEncoder | None = None
        if self._fit and MixedEncoder.can_mix(model):
            self._mixed = MixedEncoder(model, crop=native_width, interpolate=native_aspect)
        self._sorter = Sorter(batch_size=capacity, waits=bool(self._fit), division=self._mixed)
        self._window = 0  # images that were taken since lines were sorted last
        self._collected: list[tuple[int, Tensor]] = []  # states of those that are encoded, as they came
        self._encoded: deque[tuple[int, Tensor]] = deque()
        self._written: dict[int, Tensor] = {}  # states of the lines in the slots, in order
        # a pass of several sizes is bounded by its tokens
        self._encoding = Room(capacity if self._mixed is None else WINDOW * capacity, "encode")
        self._decoding = Room(capacity, "decode")
        self._read = self._cut = 0

    def push(self, images: Sequence[Numbered]) -> Iterator[tuple[int, Found]]:
        """Take images; decode until all but those in the slots are read. A single slot is not left filled."""
        groups = self._sorter.push(images)
        self._window += len(images)
        del images
        if self._mixed is None:
            yield from self._run(groups)
        else:
            self._collect(groups)
            if self._window >= WINDOW * self.slots.capacity:
                yield from self._run_window()
        while self.slots.capacity == 1 and (self.slots.active or self._encoded):
            yield from self._advance()

    def drain(self) -> Iterator[tuple[int, Found]]:
        """Decode all that is left, and warn about texts that were cut at a limit nobody chose."""
        groups = self._sorter.drain()
        if self._mixed is None:
            yield from self._run(groups)
        else:
            self._collect(groups)
            yield from self._run_window()
        while self.slots.active or self._encoded:
            yield from self._advance()
            self.slots.compact()
        warn_cut(self.length, self._cut, self._read)

    def _run_window(self) -> Iterator[tuple[int, Found]]:
        """Decode the images that are encoded, in the order of size; few others wait for a full pass."""
        self._encoded.extend(sorted(self._collected, key=lambda line: len(line[1])))
        self._collected, self._window = [], 0
        yield from self._run(iter(()))

    def _collect(self, groups: Iterator[list[Numbered]]) -> None:
        """Encode images whose states wait until the window is full: they are smaller than the pixels."""
        for part in self._encode_all(groups):
            self._collected.extend(part)

    def _run(self, groups: Iterator[list[Numbered]]) -> Iterator[tuple[int, Found]]:
        for part in self._encode_all(groups):
            self._encoded.extend(part)
            while len(self._encoded) >= self.slots.capacity:  # enough for any slots that are free
                yield from self._advance()
        while self._encoded:
            yield from self._advance()

    def _encode_all(self, groups: Iterator[list[Numbered]]) -> Iterator[list[tuple[int, Tensor]]]:
        for group in groups:
            parts = deque(in_parts(self._encode, group, self._encoding))
            del group  # the pixels are not needed while texts are decoded
            while parts:
                yield parts.popleft()

    @torch.inference_mode()
    def _encode(self, images: Sequence[Numbered]) -> list[tuple[int, Tensor]]:
        pixels = [pixels for _, pixels in images]
        if self._mixed is not None:
            memory: Sequence[Tensor] = self._mixed(pixels)
        else:
            memory = list(self.model.memory(self.model.encode(torch.stack(pixels), **self._fit)))
        return [(number, states) for (number, _), states in zip(images, memory, strict=True)]

    @torch.inference_mode()
    def _advance(self) -> list[tuple[int, Found]]:
        """Fill free slots, and write one token of every line."""
        slots = self.slots
        try:
            if not slots.active or slots.free >= max(1, slots.capacity // SHARE):
                self._admit(min(slots.free, len(self._encoded)))
            complete = slots.step()
        except (MemoryError, RuntimeError) as error:
            self._decoding.shrink(error, len(self._written))
            complete = None
        if complete is None:
            self._begin_anew()
            return []
        self._decoding.confirm()
        for row in complete:
            del self._written[row.key]
        self._read += len(complete)
        self._cut += sum(not row.finished for row in complete)
        return [(row.key, Found(row.ids, row.log_probs, row.finished)) for row in complete]

    def _admit(self, count: int) -> None:
        """Put encoded lines into slots."""
        chosen = [self._encoded.popleft() for _ in range(count)]
        self._written.update(chosen)
        rows = [Row(number, self.most, self.lengths.get(number)) for number, _ in chosen]
        self.slots.admit(rows, [memory for _, memory in chosen])
        # copies from now on: the memory of a pass is free once its last line is in a slot
        self._written.update([(number, memory.clone()) for number, memory in chosen])

    def _begin_anew(self) -> None:
        """Take all lines out of the slots, of which there are fewer from now on."""
        self._encoded.extendleft(reversed(self._written.items()))
        self._written.clear()
        self.slots.clear()
        self.slots.capacity = self._decoding.most
        release()


def greedy_length(model: Any, options: Mapping[str, Any]) -> Length | None:
    """Find out whether texts can be read continuously, and how long they may become.

    Args:
        model: any reading model.
        options: of `generate`.
    Returns:
        None where the options or the model need `generate`: beams, sampling, anything that changes scores.
    Raises:
        GenerationError: options that the model cannot follow.
    """
    if not isinstance(model, FastModel) or model.device.type != "cpu" or not options.keys() <= PLAIN_OPTIONS:
        return None
    chosen, named = resolve_options(model.generation_config, None, {"num_return_sequences": 1, **options})
    plain = chosen.num_beams in (None, 1) and not chosen.do_sample and chosen.max_time is None
    starts = as_ids(chosen.decoder_start_token_id)
    if not plain or len(starts) != 1 or not as_ids(chosen.eos_token_id):
        return None
    config = model.config.decoder
    check_vocabulary(chosen, config.vocab_size)
    length = resolve_length(chosen, named, prefix=1, positions=config.max_position_embeddings)
    steps = processors.build(chosen, prefix=1, max_length=length.most, device=model.device).steps
    return None if steps else length


def changes_scores(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether options change the scores, so that the search's log-probabilities are not the model's."""
    named = {name: value for name, value in options.items() if name in option_names()}
    chosen = model.generation_config.update(**{"num_return_sequences": 1, **named}).completed()
    longest = model.config.decoder.max_position_embeddings
    return bool(processors.build(chosen, prefix=1, max_length=longest, device=model.device).steps)
