"""What the machine can do at most, measured: products of matrices in each precision, and reading of memory.

The least time that a computation can take is its arithmetic by the fastest product, or its bytes by the
fastest reading, whichever is longer; the fraction reached is that time over the one that was taken.

Source: Williams, Waterman, Patterson, "Roofline" (doi:10.1145/1498765.1498785); counts from
`trocr.inspect.sizes`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trocr.benchmark.errors import BenchmarkError
from trocr.inspect.sizes import measure_sizes
from trocr.models import VisionEncoderDecoderModel

PRECISIONS = ("float32", "bfloat16", "int8")
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight. Keys and values of int8 models have two."""

SHAPE = (1154, 768, 3072)
"""Rows, inputs and outputs of the products: the first feed-forward layer of the base encoder, two images."""

READ_BYTES = 2**28
"""Of the buffer that is read: several times the caches of most processors."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The machine's limits, with the threads that PyTorch has.

    Attributes:
        flops: floating point (or integer) operations per second by kernel, such as "float32 F.linear" and
            "float32 packed"; two for each multiply-add.
        read_bytes: bytes per second of reading.
        problems: kernel -> why it was not measured.
    """

    flops: Mapping[str, float]
    read_bytes: float
    problems: Mapping[str, str]

    def best(self, precision: str) -> float:
        """Operations per second of the fastest kernel of a precision.

        Raises:
            BenchmarkError: no kernel of it was measured.
        """
        found = [value for name, value in self.flops.items() if name.split()[0] == precision]
        if not found:
            raise BenchmarkError(f"no product of {precision} was measured: {dict(self.problems)}")
        return max(found)

    def least_s(self, flops: float, read: float, precision: str) -> float:
        """Least seconds for operations and bytes."""
        return max(flops / self.best(precision), read / self.read_bytes)

    def table(self) -> str:
        """Lay out in Markdown."""
        rows = [f"| {name} | {value / 1e9:.0f} GFLOP/s |" for name, value in self.flops.items()]
        rows += [f"| {name} | not measured: {problem} |" for name, problem in self.problems.items()]
        rows.append(f"| reading of memory | {self.read_bytes / 1e9:.1f} GB/s |")
        return "\n".join(["| limit of the machine | best of some |", "|---|---|", *rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def measure_roofline(
    *,
    shape: tuple[int, int, int] = SHAPE,
    read_bytes: int = READ_BYTES,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Roofline:
    """Measure the machine with PyTorch's threads as they are set.

    Args:
        shape: rows, inputs and outputs of the products.
        read_bytes: of the buffer that is read.
        repeats: runs of each, of which the fastest counts: a limit is what can be reached.
        clock: seconds.
    Raises:
        BenchmarkError: a number below 1.
    """
    if min(*shape, read_bytes, repeats) < 1:
        raise BenchmarkError(
            f"shape {shape}, read_bytes {read_bytes}, repeats {repeats}: expected at least 1"
        )
    rows, inputs, outputs = shape
    flops: dict[str, float] = {}
    problems: dict[str, str] = {}
    with torch.inference_mode():
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        for name, build in _KERNELS.items():
            try:
                call = build(x, weight)
                seconds = _fastest(call, repeats, clock)
            except (RuntimeError, AttributeError, NotImplementedError) as error:
                problems[name] = str(error).splitlines()[0]
                continue
            flops[name] = 2 * rows * inputs * outputs / seconds
        buffer = torch.ones(max(1, read_bytes // 4))
        seconds = _fastest(buffer.sum, repeats, clock)
    return Roofline(flops=flops, read_bytes=buffer.numel() * 4 / seconds, problems=problems)


def _fastest(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    call()
    found = []
    for _ in range(repeats):
        start = clock()
        call()
        found.append(clock() - start)
    return max(min(found), 1e-9)


Build = Callable[[torch.Tensor, torch.Tensor], Callable[[], object]]


def _plain(dtype: torch.dtype) -> Build:
    def build(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
        x, weight = x.to(dtype), weight.to(dtype)
        return lambda: F.linear(x, weight)

    return build


def _packed(dtype: torch.dtype) -> Build:
    def build(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
        from trocr.fast.linear import PackedLinear

        x, layer = x.to(dtype), PackedLinear(weight.to(dtype), None)
        return lambda: layer(x)

    return build


def _dynamic_int8(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    from trocr.fast.linear import DynamicInt8Linear, quantize_rows

    layer = DynamicInt8Linear(*quantize_rows(weight), None, reduce_range=False)
    return lambda: layer(x)


def _static_int8(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    from trocr.fast.linear import StaticInt8Linear, quantize_rows, round_to_bytes

    low, high = float(x.min()), float(x.max())
    layer = StaticInt8Linear(*quantize_rows(weight), None, low=low, high=high, dtype=torch.bfloat16)
    x = round_to_bytes(x, layer.in_scale, layer.in_zero)
    return lambda: layer(x)


_KERNELS: Mapping[str, Build] = {
    "float32 F.linear": _plain(torch.float32),
    "float32 packed": _packed(torch.float32),
    "bfloat16 F.linear": _plain(torch.bfloat16),
    "bfloat16 packed": _packed(torch.bfloat16),
    "int8 dynamic": _dynamic_int8,
    "int8 static": _static_int8,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What reading takes, counted.

    Attributes:
        encode_flops: of an image in the encoder.
        project_flops: of an image for the keys and values of cross-attention.
        token_flops: of a token: weights, cross-attention, head; of self-attention one earlier token.
        weights: numbers that the decoder reads in every step, whatever the rows.
        encoder_weights: numbers that the encoder reads, whatever the images.
        states: numbers that cross-attention reads for each row in every step.
    """

    encode_flops: int
    project_flops: int
    token_flops: int
    weights: int
    encoder_weights: int
    states: int

    @classmethod
    def of(cls, model: VisionEncoderDecoderModel) -> "Work":
        """Count a model's."""
        sizes = measure_sizes(model, tokens=1)
        encoder, decoder = sizes.part("encoder"), sizes.part("decoder")
        weights = sum(
            module.weight.numel()
            for path, module in model.decoder.named_modules()
            if isinstance(module, nn.Linear) and not path.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))
        )
        blocks = [getattr(block, "cross_attn", None) for block in model.decoder.blocks]
        widths = [block.num_heads * block.head_dim for block in blocks if block is not None]
        return cls(
            encode_flops=2 * encoder.image_macs,
            project_flops=2 * decoder.image_macs,
            token_flops=2 * decoder.token_macs,
            weights=weights,
            encoder_weights=encoder.parameters,
            states=2 * sizes.image_tokens * sum(widths),
        )

    def least_encode_s(self, images: int, roofline: Roofline, precision: str) -> float:
        """Least seconds to encode images together."""
        read = self.encoder_weights * BYTES[precision]
        return roofline.least_s(images * self.encode_flops, read, precision)

    def least_decode_s(self, lengths: Sequence[int], roofline: Roofline, precision: str) -> float:
        """Least seconds to decode rows together, finished ones costing nothing.

        Args:
            lengths: tokens of the rows.
            roofline: of the machine.
            precision: one of `PRECISIONS`.
        """
        total = len(lengths) * self.project_flops / roofline.best(precision)
        kept = max(2, BYTES[precision])
        for step in range(max(lengths, default=0)):
            rows = sum(length > step for length in lengths)
            read = self.weights * BYTES[precision] + rows * self.states * kept
            total += roofline.least_s(rows * self.token_flops, read, precision)
        return total
