"""Embeddings of image patches, tokens and positions.

Source: arXiv:2010.11929 sec. 3.1, arXiv:2012.12877 sec. 4; decoder positions after fairseq and
`transformers` 5.23 (`modeling_trocr.py`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def crop_positions(
    table: Tensor, *, grid: tuple[int, int], old_grid: tuple[int, int], num_prefix: int
) -> Tensor:
    """Take the top left part of a position table, for images that were padded on the right or below.

    Args:
        table: (1, num_prefix + h*w, D).
        grid: (rows, columns) of patches, at most `old_grid`.
        old_grid: (h, w) of the table.
        num_prefix: rows that are not patches.
    Returns:
        (1, num_prefix + grid[0]*grid[1], D).
    Raises:
        ValueError: `grid` is larger than the table's.
    """
    if grid[0] > old_grid[0] or grid[1] > old_grid[1]:
        raise ValueError(
            f"a grid of {grid[0]}x{grid[1]} patches cannot be cut from a position table of "
            f"{old_grid[0]}x{old_grid[1]}; make the image smaller, or pass interpolate_pos_encoding=True"
        )
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    patches = patches.reshape(1, *old_grid, -1)[:, : grid[0], : grid[1]]  # (1, h', w', D)
    patches = patches.flatten(1, 2)
    return torch.cat((prefix, patches), dim=1)


def resample_positions(
    table: Tensor, *, grid: tuple[int, int], old_grid: tuple[int, int], num_prefix: int
) -> Tensor:
    """Resample a learned position table to another patch grid.

    Args:
        table: (1, num_prefix + h*w, D); prefix rows (class, distillation) are kept as they are.
        grid: target (rows, columns) of patches, not pixels.
        old_grid: (h, w) of the table.
        num_prefix: rows that are not patches: 1 for ViT, 2 for DeiT.
    Returns:
        (1, num_prefix + grid[0]*grid[1], D), same dtype; bicubic in float32; the table itself where the grid
        stays.
    Raises:
        ValueError: the patch rows of `table` do not form the old grid.
    Source: arXiv:2010.11929 sec. 3.2; bicubic without aligned corners as in `transformers` 5.23.
    Differs: works for grids that are not square, and computes in float32 whatever the table's dtype.
    """
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    if patches.shape[1] != old_grid[0] * old_grid[1]:
        raise ValueError(
            f"the position table has {patches.shape[1]} patch rows, a grid of {old_grid[0]}x{old_grid[1]} "
            f"patches needs {old_grid[0] * old_grid[1]}; give the grid that the table was made for"
        )
    if grid == old_grid:
        return table
    image = patches.reshape(1, *old_grid, -1).permute(0, 3, 1, 2).float()  # (1, D, h, w)
    image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    patches = image.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat((prefix, patches), dim=1)


def resample_patches(weight: Tensor, *, patch_hw: tuple[int, int]) -> Tensor:
    """Resample the kernel of a patch embedding to another patch size, by the pseudo-inverse of the resizing.

    With B the matrix that resizes a patch bilinearly, the new kernel is pinv(B^T) w. For larger patches a
    resized patch then has the very token of the old one: <w', B x> = <w, x>; for smaller ones it is the best
    that can be for patches of uncorrelated pixels. B is the product of one matrix for each axis, and so is
    its pseudo-inverse.

    Args:
        weight: (D, C, height, width).
        patch_hw: (height, width) of the new patch in pixels.
    Returns:
        (D, C, *patch_hw), same dtype, computed in float64; the weight itself where the size stays.
    Source: arXiv:2212.08013 sec. 3.4 (FlexiViT), with the antialiased resizing of its code.
    """
    if tuple(weight.shape[2:]) == patch_hw:
        return weight
    down, across = (_inverse_resizing(old, new) for old, new in zip(weight.shape[2:], patch_hw, strict=True))
    kernel = down @ weight.detach().to("cpu", torch.float64) @ across.t()  # (D, C, height', width')
    return kernel.to(weight.device, weight.dtype)


def _inverse_resizing(old: int, new: int) -> Tensor:
    """Pseudo-inverse (new, old) of the transposed matrix (new, old) that resizes `old` numbers to `new`."""
    # Row by row: an image that is one pixel wide comes out as zeros, antialiased by PyTorch 2.14.
    rows, size = torch.eye(old, dtype=torch.float64)[None, None], (old, new)
    resized = F.interpolate(rows, size=size, mode="bilinear", align_corners=False, antialias=True)
    return torch.linalg.pinv(resized[0, 0])


class ImageEmbeddings(nn.Module):
    """Patches, prefix tokens and positions of an image.

    Args:
        width: D.
        channels: colour channels of the image.
        image_hw: (height, width) in pixels that the position table is made for.
        patch_hw: (height, width) of a patch in pixels.
        has_distillation_token: DeiT's second prefix token.
        dropout: probability after the sum.

    Attributes:
        positions: identity through which the positions (1, S, D) pass, for hooks.
    """

    distillation_token: nn.Parameter | None

    def __init__(
        self,
        *,
        width: int,
        channels: int,
        image_hw: tuple[int, int],
        patch_hw: tuple[int, int],
        has_distillation_token: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_hw = image_hw
        self.patch_hw = patch_hw
        self.num_prefix = 2 if has_distillation_token else 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if has_distillation_token:
            self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        else:
            self.register_parameter("distillation_token", None)
        rows, columns = self.grid
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.num_prefix + rows * columns, width))
        self.patch_embeddings = nn.Conv2d(channels, width, kernel_size=patch_hw, stride=patch_hw)
        self.positions = nn.Identity()  # (1, S, D)
        self.dropout = nn.Dropout(dropout)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of the position table."""
        return self.image_hw[0] // self.patch_hw[0], self.image_hw[1] // self.patch_hw[1]

    def forward(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool = False,
        crop_pos_encoding: bool = False,
    ) -> Tensor:
        """Embed (B, C, height, width) as (B, num_prefix + patches, D), patches row by row.

        Raises:
            ValueError: wrong number of dimensions or channels, another image size without
                `interpolate_pos_encoding` or `crop_pos_encoding`, both of them, or a larger image to crop
                for.
        """
        check_pixels(
            pixel_values,
            channels=self.patch_embeddings.in_channels,
            image_hw=self.image_hw,
            patch_hw=self.patch_hw,
            interpolate=interpolate_pos_encoding,
            crop=crop_pos_encoding,
        )
        patches = self.patch_embeddings(pixel_values)  # (B, D, rows, columns)
        positions: Tensor = self.position_embeddings
        if interpolate_pos_encoding or crop_pos_encoding:
            grid = (patches.shape[2], patches.shape[3])
            fit = resample_positions if interpolate_pos_encoding else crop_positions
            positions = fit(positions, grid=grid, old_grid=self.grid, num_prefix=self.num_prefix)
        x = patches.flatten(2).transpose(1, 2)  # (B, rows*columns, D)
        prefix = [self.cls_token.expand(x.shape[0], -1, -1)]
        if self.distillation_token is not None:
            prefix.append(self.distillation_token.expand(x.shape[0], -1, -1))
        return self.dropout(torch.cat((*prefix, x), dim=1) + self.positions(positions))


def check_pixels(
    pixel_values: Tensor,
    *,
    channels: int,
    image_hw: tuple[int, int],
    patch_hw: tuple[int, int],
    interpolate: bool,
    crop: bool,
) -> None:
    """Check that images can be cut into patches that have positions.

    Args:
        pixel_values: (B, C, height, width).
        channels: C that is expected.
        image_hw: (height, width) in pixels that the position table is made for.
        patch_hw: (height, width) of a patch in pixels.
        interpolate: whether other sizes are taken by resampling the positions.
        crop: whether smaller ones are taken by cropping them.
    Raises:
        ValueError: wrong number of dimensions or channels, a size that is not taken, less than a patch, or
            both ways of fitting the positions.
    """
    if interpolate and crop:
        raise ValueError("interpolate_pos_encoding and crop_pos_encoding exclude each other: pass one")
    if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, expected (batch, {channels}, height, width)"
        )
    height, width = pixel_values.shape[2:]
    if not (interpolate or crop) and (height, width) != image_hw:
        raise ValueError(
            f"pixel_values is {height} x {width} pixels (height x width), the model is made for "
            f"{image_hw[0]} x {image_hw[1]}; let the processor resize, or pass "
            "interpolate_pos_encoding=True"
        )
    if height < patch_hw[0] or width < patch_hw[1]:
        raise ValueError(
            f"pixel_values is {height} x {width} pixels, smaller than one patch of "
            f"{patch_hw[0]} x {patch_hw[1]}"
        )


class Table(nn.Embedding):
    """A table of rows that the meta device leaves unfilled.

    Differs: torch would import its compiler, seconds of it, to "fill" rows that have no memory.
    """

    def reset_parameters(self) -> None:
        """Fill the rows with normal numbers."""
        if not self.weight.is_meta:
            super().reset_parameters()


class TokenEmbedding(Table):
    """Token embeddings, times a constant.

    Args:
        num_tokens: V.
        width: D.
        scale: sqrt(D) for the models with `scale_embedding`, else 1.
        padding_idx: the row that the lookup gives no gradient, or None.
    """

    def __init__(
        self, num_tokens: int, width: int, *, scale: float = 1.0, padding_idx: int | None = None
    ) -> None:
        super().__init__(num_tokens, width, padding_idx)
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map ids (B, T) to (B, T, D).

        Raises:
            IndexError: an id is negative or not below V (on a CPU; a GPU reports it in its own way).
        """
        if torch.compiler.is_compiling():
            x = super().forward(input_ids)
        else:
            try:
                x = super().forward(input_ids)
            except IndexError as error:
                raise IndexError(
                    f"token ids from {int(input_ids.min())} to {int(input_ids.max())} were given, the "
                    f"vocabulary has ids 0 to {self.num_embeddings - 1}; does the tokenizer belong to "
                    "this model, and are ignored labels (-100) kept out of the decoder's input?"
                ) from error
        return x if self.scale == 1.0 else x * self.scale


def check_room(used: int, room: int) -> None:
    """Check that tokens have positions.

    Raises:
        ValueError: `used` tokens are more than `room` positions.
    """
    if used > room:
        raise ValueError(
            f"{used} tokens are more than the {room} positions of this decoder (max_position_embeddings); "
            "shorten the text or the generation limit"
        )


class LearnedPositions(Table):
    """A learned position table, read two rows further down as fairseq does.

    Args:
        num_positions: longest sequence; the table has two rows more, which are never read.
        width: D.
    """

    OFFSET = 2

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__(num_positions + self.OFFSET, width)

    def forward(self, input_ids: Tensor, *, start: int = 0) -> Tensor:
        """Give the rows of positions `start` to `start + T`, as (T, D); only the shape (B, T) of ids counts.

        Raises:
            ValueError: more tokens than positions.
        """
        end = start + input_ids.shape[1]
        check_room(end, self.num_embeddings - self.OFFSET)
        return self.weight[start + self.OFFSET : end + self.OFFSET]


class SinusoidalPositions(nn.Module):
    """Fixed sine and cosine positions; padding takes no position and gets zeros.

    Sines fill the first half of a row and cosines the second, as in tensor2tensor and fairseq. The table is a
    buffer that is not stored.

    Args:
        num_positions: longest sequence.
        width: D.
        padding_idx: id of the padding token; the table's rows are counted from there.
    """

    table: Tensor

    def __init__(self, num_positions: int, width: int, *, padding_idx: int) -> None:
        super().__init__()
        self.num_positions = num_positions
        self.width = width
        self.padding_idx = padding_idx
        self.register_buffer("table", self.compute_table(), persistent=False)

    def compute_table(self) -> Tensor:
        """Compute the table (num_positions + padding_idx + 1, D) in float32."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / max(half - 1, 1)))
        rows = torch.arange(self.num_positions + self.padding_idx + 1, dtype=torch.float32)
        angles = rows[:, None] * rates[None, :]
        table = torch.cat((angles.sin(), angles.cos()), dim=1)
        table = F.pad(table, (0, self.width - table.shape[1]))
        table[self.padding_idx] = 0
        return table

    def forward(self, input_ids: Tensor, *, start: int = 0) -> Tensor:
        """Give (B, T, D) for ids (B, T) that follow `start` earlier tokens.

        Raises:
            ValueError: more tokens than positions.
        """
        check_room(start + input_ids.shape[1], self.num_positions)
        real = input_ids.ne(self.padding_idx).long()
        rows = (real.cumsum(dim=1) + start) * real + self.padding_idx
        return self.table[rows]
