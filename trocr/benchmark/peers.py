"""What a user would pick instead: `transformers` as shipped and tuned, other engines on line images.

Source: `transformers` 5.23 for arguments; the other engines in `trocr.evaluation.engines`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from trocr.benchmark.candidates import Materials, lengths_of, stack
from trocr.benchmark.errors import CandidateError
from trocr.benchmark.lengths import ForceLengths, new_tokens
from trocr.benchmark.lines import BenchmarkLine, with_pixels
from trocr.benchmark.runs import Candidate, Chunk
from trocr.evaluation.engines import Engine, RapidOCR, tesseract

Maker = Callable[[Materials], Candidate]


class Transformers:
    """`VisionEncoderDecoderModel` of `transformers`, loaded from the same directory.

    Args:
        materials: what it will read.
        dtype: precision of weights and arithmetic.
        use_cache: keep keys and values of earlier tokens; the official checkpoints say no.
    Raises:
        CandidateError: `transformers` is not installed.

    Attributes:
        attention: implementation that `transformers` chose for encoder and decoder.
    """

    def __init__(self, materials: Materials, *, dtype: torch.dtype, use_cache: bool) -> None:
        try:
            import transformers
        except ImportError as error:
            raise CandidateError("transformers is not installed (pip install 'trocr[parity]')") from error
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.materials, self.dtype, self.use_cache = materials, dtype, use_cache
        self.precision = str(dtype).removeprefix("torch.")
        load = transformers.VisionEncoderDecoderModel.from_pretrained
        self.model: Any = materials.once(
            f"transformers {self.precision}", lambda _: load(materials.folder, dtype=dtype).eval()
        )
        parts = (self.model.encoder, self.model.decoder)
        self.attention = tuple(str(part.config._attn_implementation) for part in parts)

    @property
    def ends(self) -> Any:
        """End tokens of the model."""
        return self.model.generation_config.eos_token_id

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines batch by batch; rows are as long as their lines."""
        for part in self.materials.batches(lines):
            lengths = lengths_of(part)
            force = ForceLengths.of(lengths, self.ends)
            ids, encode_s = self.generate(part, max_new_tokens=max(lengths), logits_processor=[force])
            yield Chunk(answers=tuple(new_tokens(ids, self.ends)), encode_s=encode_s)

    @torch.inference_mode()
    def generate(self, part: Sequence[BenchmarkLine], **options: Any) -> tuple[list[list[int]], float]:
        """Ids of prepared lines, and the seconds that the encoder took."""
        start = time.perf_counter()
        encoded = self.model.encoder(stack(part).to(self.dtype))
        encode_s = time.perf_counter() - start
        options = {"use_cache": self.use_cache, "num_beams": 1, "do_sample": False, **options}
        ids = self.model.generate(encoder_outputs=encoded, **options)
        return ids.tolist(), encode_s


class TransformersText:
    """The same on images as they are on disk, with our processor: `transformers` has none that pads lines."""

    def __init__(self, materials: Materials, *, dtype: torch.dtype, use_cache: bool) -> None:
        self.inner = Transformers(materials, dtype=dtype, use_cache=use_cache)
        self.precision, self.materials = self.inner.precision, materials
        positions = int(self.inner.model.config.decoder.max_position_embeddings)
        self.most = min(256, positions - 1)

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines batch by batch."""
        processor = self.materials.processor
        for part in self.materials.batches(lines):
            prepared = with_pixels(part, processor.image_processor)
            ids, _ = self.inner.generate(prepared, max_new_tokens=self.most)
            texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            yield Chunk(answers=tuple(texts))


class EngineCandidate:
    """Another engine, which reads all lines of a block in one call and takes its own time.

    Args:
        engine: see `trocr.evaluation.engines`.
        precision: of its arithmetic, where it is known.
    """

    def __init__(self, engine: Engine, precision: str = "float32") -> None:
        self.engine, self.precision = engine, precision

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read all lines."""
        done = self.engine([line.image for line in lines])
        yield Chunk(answers=done.texts, seconds=done.seconds)


_TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "transformers": {"dtype": torch.float32, "use_cache": True},
    "transformers-bf16": {"dtype": torch.bfloat16, "use_cache": True},
    "transformers-shipped": {"dtype": torch.float32, "use_cache": False},
}


def _transformers(kind: Callable[..., Candidate]) -> dict[str, Maker]:
    def maker(options: Mapping[str, Any]) -> Maker:
        return lambda materials: kind(materials, **options)

    return {name: maker(options) for name, options in _TRANSFORMERS.items()}


def _tesseract(_: Materials) -> Candidate:
    import shutil

    if shutil.which("tesseract") is None:
        raise CandidateError("tesseract is not installed (Debian: apt-get install tesseract-ocr)")
    return EngineCandidate(tesseract, "its own")


def token_peers() -> dict[str, Maker]:
    """Makers of what reads prepared images with the same weights."""
    return _transformers(Transformers)


def text_peers() -> dict[str, Maker]:
    """Makers of what reads images as they are on disk."""
    engines: dict[str, Maker] = {
        "tesseract": _tesseract,
        "rapidocr": lambda _: EngineCandidate(RapidOCR(), "its own"),
    }
    return _transformers(TransformersText) | engines
