"""Images of several widths through an optimized encoder together, in passes of nearly one size.

oneDNN keeps what it has made for each number of rows that a layer has met: 0.3 to 0.5 MiB, a thousand times
at most. Images in groups of one width have a hundred such numbers. Only attention needs to know which tokens
are an image's: all other layers take the tokens of a pass as rows of one matrix, whose number is rounded up.

Source: original work; the same computation as `trocr.fast.encoder.FastEncoder`.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from trocr.fast.encoder import FastEncoder, Group, as_images
from trocr.fast.linear import DynamicInt8Linear, rounded_rows
from trocr.fast.model import FastModel
from trocr.outputs import BaseModelOutput

FULL = 1152
"""Rows of a pass of several images at most, like `trocr.fast.encoder.ROWS`; a number that is not rounded."""

TOGETHER, ALONE = 8, 32
"""Numbers of rows between a power of two and the next, for several images and for one alone: passes of
several are made as large as they should be, one image is as large as it is."""


class MixedEncoder:
    """The encoder of an optimized model, for images of several sizes.

    Args:
        model: see `can_mix`.
        crop: see `FastEncoder`: the option `crop_pos_encoding`.
        interpolate: the option `interpolate_pos_encoding`.
    """

    def __init__(self, model: FastModel, *, crop: bool, interpolate: bool) -> None:
        assert isinstance(model.encoder, FastEncoder)
        self.model = model
        self.encoder: FastEncoder = model.encoder
        self.crop, self.interpolate = crop, interpolate

    @staticmethod
    def can_mix(model: FastModel) -> bool:
        """Whether images may share a pass: not where all rows of a layer share a range, nor compiled."""
        encoder = model.encoder
        if not isinstance(encoder, FastEncoder) or model.settings.compile or model.device.type != "cpu":
            return False
        return not any(isinstance(block.qkv, DynamicInt8Linear) for block in encoder.blocks)

    def tokens(self, pixels: Tensor) -> int:
        """Encoder states of an image (C, height, width)."""
        high, wide = self.encoder.config.patch_hw
        return self.encoder.prefix.shape[1] + (pixels.shape[1] // high) * (pixels.shape[2] // wide)

    def sizes(self, images: Sequence[Tensor]) -> list[int]:
        """Divide images (C, height, width) into full passes, in order.

        Returns:
            Images of each pass; those at the end that fill none are left over.
        """
        found, size, rows = [], 0, 0
        for count in map(self.tokens, images):
            if size and rows + count > FULL:
                found.append(size)
                size = rows = 0
            size, rows = size + 1, rows + count
        return [*found, size] if rows >= FULL else found

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Encode images (C, height, width), those of one size beside each other, as one pass.

        Returns:
            What cross-attention reads of each, (S, D_mem); all are parts of one tensor.
        """
        alike = [list(group) for _, group in groupby(images, key=lambda image: image.shape)]
        x, groups = self._embed(alike)
        # bf16 attention is oneDNN's too, which keeps something for each number of images and tokens
        attending = groups if self.encoder.dtype is torch.float32 else list(_one_by_one(groups))
        for block in self.encoder.blocks:
            x = block(x, attending)
        states = self.model.memory(BaseModelOutput(last_hidden_state=self.encoder.norm(x)[None]))[0]
        return [states[rows] for rows, _ in _one_by_one(groups)]

    def _embed(self, alike: Sequence[list[Tensor]]) -> tuple[Tensor, list[Group]]:
        """Make rows (M, D) of images (C, height, width), listed by size, one below another."""
        encoder = self.encoder
        prefix, count = encoder.prefix.shape[1], sum(map(len, alike))
        groups: list[Group] = []
        end = 0
        for same in alike:
            start, end = end, end + len(same) * self.tokens(same[0])
            groups.append((slice(start, end), len(same)))
        parts = ALONE if count == 1 else TOGETHER
        patches = self._patches(alike, rounded_rows(end - prefix * count, parts=parts))
        embedded = encoder.patch(patches).float()
        del patches
        x = embedded.new_zeros(rounded_rows(end, parts=parts), embedded.shape[1])
        done = 0
        for same, (rows, size) in zip(alike, groups, strict=True):
            own = as_images(x[rows], size)
            start, done = done, done + size * (own.shape[1] - prefix)
            own[:, :prefix] = encoder.prefix
            own[:, prefix:] = as_images(embedded[start:done], size)
            own += encoder.fit_positions(same[0][None], self.interpolate)
        return x, groups

    def _patches(self, alike: Sequence[list[Tensor]], count: int) -> Tensor:
        """Cut images into `count` rows of patches (M, C*h*w), of which the last may be zeros."""
        (high, wide), first = self.encoder.config.patch_hw, alike[0][0]
        patches = first.new_zeros(count, len(first) * high * wide)
        done = 0
        for same in alike:
            pixels = torch.stack(same)
            self.encoder.check(pixels, self.interpolate, self.crop)
            cut = self.encoder.cut(pixels).flatten(0, 1)
            patches[done : done + len(cut)] = cut
            done += len(cut)
        return patches


def _one_by_one(groups: Sequence[Group]) -> Iterator[Group]:
    """Make a group of each image."""
    for rows, count in groups:
        size = (rows.stop - rows.start) // count
        yield from ((slice(start, start + size), 1) for start in range(rows.start, rows.stop, size))
