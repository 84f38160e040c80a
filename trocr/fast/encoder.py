"""The image encoder for reading: a few images at a time through all blocks, so that buffers stay small.

Source: the same computation as `trocr.encoder.ImageEncoder`, whose docstrings give its sources.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trocr.config import ViTConfig
from trocr.fast.attention import encoder_attention
from trocr.fast.layers import Kernels, Norm
from trocr.fast.linear import StaticInt8Linear
from trocr.fast.weights import OptimizeError, under
from trocr.nn.embeddings import check_pixels, crop_positions, resample_positions
from trocr.outputs import BaseModelOutput

ROWS = 1200
"""Tokens that go through the blocks together: enough for the products' full speed, and what is between two
layers stays in the cache and below the size from which the allocator asks the system for pages each time."""

Group = tuple[slice, int]
"""Rows of images of one size that follow each other, and how many images they are."""


def chunks(count: int, most: int) -> Iterator[slice]:
    """Divide a number of images into chunks of 1, 2, 4, 8 ... of them, the largest first, at most `most`.

    oneDNN keeps a kernel for every shape that it has met, a thousand at most: the fewer shapes, the less
    memory.
    """
    first = 0
    while first < count:
        size = 2 ** (min(most, count - first).bit_length() - 1)
        yield slice(first, first + size)
        first += size


def as_images(rows: Tensor, count: int) -> Tensor:
    """See rows (b*S, D) of `count` images of one size as (b, S, D)."""
    return rows.view(count, -1, rows.shape[1])


class EncoderLayers:
    """One pre-norm block.

    Args:
        tensors: of the block, by name.
        num_heads: H.
        eps: of the norms.
        activation: of the feed-forward part.
        kernels: see `Kernels`.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, num_heads: int, eps: float, activation: str, kernels: Kernels
    ) -> None:
        self.num_heads = num_heads
        self.by_head = kernels.by_head
        self.dtype = kernels.dtype  # of attention, which is faster in bf16; int8 inputs are no more precise
        self.norms = {name: Norm(under(name, tensors), eps) for name in ("attn_norm", "mlp_norm")}
        self.qkv = kernels.linear(under("qkv", tensors))
        self.out = kernels.linear(under("out", tensors))
        self.fc1 = kernels.linear(under("fc1", tensors), activation)
        self.fc2 = kernels.linear(under("fc2", tensors))
        if isinstance(self.qkv, StaticInt8Linear):
            self.qkv.dtype = kernels.dtype
        if isinstance(self.fc1, StaticInt8Linear) and isinstance(self.fc2, StaticInt8Linear):
            self.fc1.feed(self.fc2)

    def __call__(self, x: Tensor, groups: Sequence[Group] | None = None) -> Tensor:
        """Take images through the block.

        Args:
            x: (b, S, D) float32, images of one size; or rows (M, D) of images of several, one below another.
                It may be overwritten.
            groups: which rows are whose; rows of no image stay finite. Only attention needs to know.
        Returns:
            The same shape.
        """
        x = self.out.add(self._attend(x, groups), x)
        return self.fc2.add(self.fc1(self.norms["mlp_norm"](x)), x)

    def _attend(self, x: Tensor, groups: Sequence[Group] | None) -> Tensor:
        """Let the tokens of each image attend to its own; queries, keys and values are held no longer."""
        qkv = self.qkv(self.norms["attn_norm"](x)).to(self.dtype)
        if groups is None:
            return encoder_attention(qkv, num_heads=self.num_heads, by_head=self.by_head)
        mixed = qkv.new_zeros(x.shape)
        for rows, count in groups:
            own = as_images(qkv[rows], count)
            own = encoder_attention(own, num_heads=self.num_heads, by_head=self.by_head)
            mixed[rows] = own.flatten(0, 1)
        return mixed

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that the block can be made of again."""
        parts = {**self.norms, **{name: getattr(self, name) for name in ("qkv", "out", "fc1", "fc2")}}
        return {f"{part}.{name}": t for part, layer in parts.items() for name, t in layer.stored().items()}


class FastEncoder:
    """An image encoder built from tensors.

    Args:
        config: of the encoder.
        tensors: see `trocr.fast.weights.collect_encoder`.
        kernels: see `Kernels`. The patch embedding is computed in float, whatever the kernels are.
    """

    def __init__(self, config: ViTConfig, tensors: Mapping[str, Tensor], kernels: Kernels) -> None:
        self.config = config
        self.dtype = kernels.dtype
        floats = Kernels(dtype=kernels.dtype, packed=kernels.packed)
        self.patch = floats.linear(under("patch", tensors))
        self.prefix, self.positions = (
            tensors[name].to(torch.float32, copy=True) for name in ("prefix", "positions")
        )
        self.blocks = [
            EncoderLayers(
                under(f"blocks.{number}", tensors),
                num_heads=shape.num_heads,
                eps=config.layer_norm_eps,
                activation=config.hidden_act,
                kernels=kernels,
            )
            for number, shape in enumerate(config.shapes)
        ]
        self.norm = Norm(under("norm", tensors), config.layer_norm_eps)

    def compile(self) -> None:
        """Let PyTorch's compiler fuse what lies between the products, from the next image on.

        Raises:
            OptimizeError: there is no C++ compiler.
        """
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError, OSError) as error:
            raise OptimizeError(
                "compile=True needs a C++ compiler, and none was found: install g++ (Debian: apt-get install "
                "g++), or leave compile out"
            ) from error
        self._encode = torch.compile(self._encode, dynamic=True)  # type: ignore[method-assign]

    def __call__(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool = False,
        crop_pos_encoding: bool = False,
        **options: Any,
    ) -> BaseModelOutput:
        """Encode images (B, C, height, width); see `ImageEncoder.forward`.

        Returns:
            States (B, S, D) in float32.
        Raises:
            ValueError: an image size that the model is not made for.
            OptimizeError: attentions or hidden states are asked for, which this encoder does not keep.
        """
        wanted = sorted(name for name, value in options.items() if value)
        if wanted:
            raise OptimizeError(
                f"{', '.join(wanted)}: not kept by an optimized encoder; ask the model itself"
            )
        self.check(pixel_values, interpolate_pos_encoding, crop_pos_encoding)
        patches = self.cut(pixel_values)
        positions = self.fit_positions(pixel_values, interpolate_pos_encoding)
        out = pixel_values.new_empty(
            len(patches), positions.shape[1], self.prefix.shape[2], dtype=torch.float32
        )
        at_once = max(1, ROWS // positions.shape[1]) if out.device.type == "cpu" else max(1, len(out))
        for images in chunks(len(patches), at_once):
            out[images] = self._encode(patches[images], positions)
        return BaseModelOutput(last_hidden_state=out)

    def _encode(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Encode (b, patches, C*height*width) to (b, S, D)."""
        x = self.patch(patches).float()
        x = torch.cat((self.prefix.expand(len(x), -1, -1), x), dim=1).add_(positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def cut(self, pixels: Tensor) -> Tensor:
        """Cut (B, C, height, width) into (B, rows*columns, C*h*w); a rest at right and below is left out."""
        (high, wide), (b, c) = self.config.patch_hw, pixels.shape[:2]
        rows, columns = pixels.shape[2] // high, pixels.shape[3] // wide
        pixels = pixels[:, :, : rows * high, : columns * wide]
        pixels = pixels.reshape(b, c, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        return pixels.reshape(b, rows * columns, c * high * wide)

    def fit_positions(self, pixels: Tensor, interpolate: bool) -> Tensor:
        """Give positions (1, S, D) for images of this size."""
        (height, width), (high, wide) = self.config.image_hw, self.config.patch_hw
        old, grid = (height // high, width // wide), (pixels.shape[2] // high, pixels.shape[3] // wide)
        if grid == old:
            return self.positions
        fit = resample_positions if interpolate else crop_positions
        return fit(self.positions, grid=grid, old_grid=old, num_prefix=self.prefix.shape[1])

    def check(self, pixels: Tensor, interpolate: bool, crop: bool) -> None:
        """Check pixels (B, C, height, width); options as in a call.

        Raises:
            ValueError: the model cannot encode them.
        """
        check_pixels(
            pixels,
            channels=self.config.num_channels,
            image_hw=self.config.image_hw,
            patch_hw=self.config.patch_hw,
            interpolate=interpolate,
            crop=crop,
        )
        if not pixels.is_floating_point():
            raise ValueError(
                f"pixel_values are {pixels.dtype}, expected floating point numbers, as the processor gives"
            )

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that the encoder can be made of again."""
        found = {"prefix": self.prefix, "positions": self.positions}
        found.update({f"patch.{name}": tensor for name, tensor in self.patch.stored().items()})
        for number, block in enumerate(self.blocks):
            found.update({f"blocks.{number}.{name}": tensor for name, tensor in block.stored().items()})
        found.update({f"norm.{name}": tensor for name, tensor in self.norm.stored().items()})
        return found
