"""What takes part in a benchmark, by name: our model in its forms, and what it is compared with.

Source: original work.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.benchmark.errors import CandidateError
from trocr.benchmark.lengths import ForcedModel, new_tokens
from trocr.benchmark.lines import BenchmarkLine
from trocr.benchmark.runs import Candidate, Chunk
from trocr.benchmark.runtimes import onnx_model, openvino_model
from trocr.fast import FastModel, optimize
from trocr.generation.lengths import Length
from trocr.models import VisionEncoderDecoderModel
from trocr.nearest import nearest
from trocr.processor import TrOCRProcessor
from trocr.reader import Reader
from trocr.reading.recognisers import Found, SlotRecogniser


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What candidates are made of.

    Attributes:
        folder: checkpoint directory, which every candidate loads.
        lines: of the workload.
        calibration: other lines, for int8.
        batch: most lines that go through a model together.
        scratch: folder for files that a candidate needs, such as exported graphs.
        made: models by name, which several candidates share.
    """

    folder: Path
    lines: Sequence[BenchmarkLine]
    calibration: Sequence[BenchmarkLine] = ()
    batch: int
    scratch: Path
    made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def plain(self) -> VisionEncoderDecoderModel:
        """Our model as it is loaded, for all that is made of it."""
        return VisionEncoderDecoderModel.from_pretrained(self.folder).eval()

    @cached_property
    def processor(self) -> TrOCRProcessor:
        """The directory's processor."""
        return TrOCRProcessor.from_pretrained(self.folder)

    def once(self, name: str, make: "Callable[[Materials], Any]") -> Any:
        """Make a model, or give the one of that name that was made before."""
        if name not in self.made:
            self.made[name] = make(self)
        return self.made[name]

    def batches(self, lines: Sequence[BenchmarkLine]) -> Iterator[list[BenchmarkLine]]:
        """Cut lines into batches."""
        rest = iter(lines)
        while part := list(islice(rest, self.batch)):
            yield part

    def calibration_batches(self) -> list[Tensor] | None:
        """Pixels (B, C, height, width) of the other lines; None where there are none."""
        return [stack(part) for part in self.batches(self.calibration)] or None


def stack(lines: Sequence[BenchmarkLine]) -> Tensor:
    """Pixels (B, C, height, width) of prepared lines."""
    return torch.stack([line.pixels for line in lines if line.pixels is not None])


def lengths_of(lines: Sequence[BenchmarkLine]) -> list[int]:
    """Lengths of lines that have them."""
    return [line.length for line in lines if line.length is not None]


@dataclass(frozen=True)
class Ours:
    """A form of our model.

    Attributes:
        precision: that its products are counted in.
        make: makes the reading model.
    """

    precision: str
    make: Callable[[Materials], Any]


def _optimized(**options: Any) -> Callable[[Materials], Any]:
    def make(materials: Materials) -> Any:
        return optimize(materials.plain, **options)

    return make


def _calibrated(materials: Materials) -> Any:
    return optimize(materials.plain, quantize="int8", calibration=materials.calibration_batches())


OURS: Mapping[str, Ours] = {
    "plain": Ours("float32", lambda materials: materials.plain),
    "fast": Ours("float32", _optimized()),
    "fast-bf16": Ours("bfloat16", _optimized(dtype="bfloat16")),
    "fast-int8": Ours("int8", _calibrated),
    "fast-int8-dynamic": Ours("int8", _optimized(quantize="int8")),
    "onnx": Ours("float32", lambda materials: onnx_model(materials.plain, materials.scratch)),
    "onnx-int8": Ours("int8", lambda materials: onnx_model(materials.plain, materials.scratch, "int8")),
    "openvino": Ours("float32", lambda materials: openvino_model(materials.plain, materials.scratch)),
    "openvino-bf16": Ours(
        "bfloat16", lambda materials: openvino_model(materials.plain, materials.scratch, "bf16")
    ),
}
"""Forms of our model by name; the last ones are exported, and other runtimes compute them."""


class TokenCandidate:
    """A reading model of ours on prepared images, rows as long as their lines.

    Args:
        model: has the common interface of reading models.
        materials: what it will read.
        precision: that its products are counted in.
    """

    def __init__(self, model: Any, materials: Materials, precision: str) -> None:
        lines = materials.lines
        self.model = ForcedModel(model, [stack([line])[0] for line in lines], lengths_of(lines))
        self.materials, self.precision = materials, precision

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines batch by batch."""
        for part in self.materials.batches(lines):
            yield self._read(part)

    @torch.inference_mode()
    def _read(self, part: Sequence[BenchmarkLine]) -> Chunk:
        start = time.perf_counter()
        pixels = stack(part).to(self.model.device, self.model.dtype)
        encoded = self.model.encode(pixels)
        encode_s = time.perf_counter() - start
        most = max(lengths_of(part))
        ids = self.model.generate(encoder_outputs=encoded, max_new_tokens=most, num_beams=1, do_sample=False)
        ends = self.model.generation_config.eos_token_id
        return Chunk(answers=tuple(new_tokens(ids.tolist(), ends)), encode_s=encode_s)


class ContinuousCandidate:
    """An optimized model of ours on prepared images, where a line that ends makes room for the next.

    Args:
        model: an optimized one.
        materials: what it will read.
        precision: that its products are counted in.
    Raises:
        CandidateError: a model of another kind.
    """

    def __init__(self, model: Any, materials: Materials, precision: str) -> None:
        if not isinstance(model, FastModel):
            raise CandidateError(f"continuous batches need an optimized model, got a {type(model).__name__}")
        self.model, self.materials, self.precision = model, materials, precision

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines; those that are done are handed over in order."""
        length = Length(most=max(lengths_of(lines)) + 1, chosen=True, reason="max_new_tokens")
        recogniser = SlotRecogniser(
            self.model,
            capacity=self.materials.batch,
            length=length,
            lengths=dict(enumerate(lengths_of(lines))),
        )
        done: dict[int, tuple[int, ...]] = {}
        given = first = 0
        for part in self.materials.batches(lines):
            pixels = stack(part).to(self.model.dtype)
            done.update(_ids(recogniser.push(list(enumerate(pixels, start=first)))))
            first += len(part)
            if first == len(lines):
                done.update(_ids(recogniser.drain()))
            ready = tuple(done[number] for number in takewhile(done.__contains__, count(given)))
            given += len(ready)
            if ready:
                yield Chunk(answers=ready)


def _ids(found: Iterator[tuple[int, Found]]) -> Iterator[tuple[int, tuple[int, ...]]]:
    return ((number, tuple(line.ids)) for number, line in found)


class TextCandidate:
    """Our reader on images as they are on disk: preparing them and decoding ids to text count.

    Args:
        reader: with a model of any form.
        precision: that its products are counted in.
        batch: lines that the reader takes together, and that are handed over together.
        native_width: see `Reader.read`.
    """

    def __init__(self, reader: Reader, precision: str, *, batch: int, native_width: bool = False) -> None:
        self.reader, self.precision = reader, precision
        self.batch, self.native_width = batch, native_width

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines, all of them in one call of the reader."""
        images = (line.image for line in lines)
        found = self.reader.read(images, batch_size=self.batch, native_width=self.native_width)
        while part := tuple(line.text for line in islice(found, self.batch)):
            yield Chunk(answers=part)


CONTINUOUS = "continuous"
"""Word after an optimized model's name: lines that end make room for the next."""

FAILURES = (ImportError, ValueError, RuntimeError, MemoryError, OSError)
"""What a candidate may raise that is not there or cannot read; it costs its own place only."""

NATIVE = "native"
"""Word after a reader's name that leaves out the padding that a batch's lines share."""


def make_candidates(
    names: Sequence[str], materials: Materials, makers: Mapping[str, Callable[[Materials], Candidate]]
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Make candidates; one that cannot be made costs its own place only.

    Returns:
        Candidates by name, and for each of the others why it is not there.
    Raises:
        CandidateError: a name that does not exist.
    """
    for name in names:
        if name not in makers:
            raise CandidateError(f"there is no candidate {name!r}{nearest(name, makers)}")
    found: dict[str, Candidate] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            found[name] = makers[name](materials)
        except FAILURES as error:
            problems[name] = f"{type(error).__name__}: {error}"
    return found, problems


def our_token_makers() -> dict[str, Callable[[Materials], Candidate]]:
    """Makers of our model's forms for prepared images; of optimized ones also with the word "continuous"."""

    def maker(kind: Callable[..., Candidate], name: str) -> Callable[[Materials], Candidate]:
        form = OURS[name]
        return lambda materials: kind(materials.once(name, form.make), materials, form.precision)

    found = {name: maker(TokenCandidate, name) for name in OURS}
    fast = [name for name in OURS if name.startswith("fast")]
    return found | {f"{name} {CONTINUOUS}": maker(ContinuousCandidate, name) for name in fast}


def our_text_makers() -> dict[str, Callable[[Materials], Candidate]]:
    """Makers of our reader with every form of the model, each also by its name and the word "native"."""

    def maker(name: str, native_width: bool) -> Callable[[Materials], Candidate]:
        form = OURS[name]

        def make(materials: Materials) -> Candidate:
            reader = Reader(materials.once(name, form.make), materials.processor)
            return TextCandidate(reader, form.precision, batch=materials.batch, native_width=native_width)

        return make

    plain = {name: maker(name, False) for name in OURS}
    return plain | {f"{name} {NATIVE}": maker(name, True) for name in OURS}
