import math

import pytest
import torch
import torch.nn.functional as F

from trocr.nn.embeddings import (
    ImageEmbeddings,
    LearnedPositions,
    SinusoidalPositions,
    TokenEmbedding,
    resample_positions,
)


def test_resampling_keeps_the_prefix_and_interpolates_in_two_dimensions() -> None:
    rows = torch.arange(4.0).view(4, 1).expand(4, 6)
    columns = torch.arange(6.0).view(1, 6).expand(4, 6)
    patches = torch.stack((rows, columns), -1).reshape(1, 24, 2)
    table = torch.cat((torch.full((1, 2, 2), 9.0), patches), 1)
    out = resample_positions(table, grid=(8, 12), old_grid=(4, 6), num_prefix=2)
    assert torch.equal(out[:, :2], table[:, :2])
    grid = out[0, 2:].view(8, 12, 2)
    assert (grid[:, :, 0].diff(dim=0) > 0).all(), "the row coordinate grows downwards"
    assert (grid[:, :, 1].diff(dim=1) > 0).all(), "the column coordinate grows to the right"
    torch.testing.assert_close(
        grid[2:6, :, 0].mean(1), torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.1, rtol=0
    )


def test_resampling_to_the_same_grid_is_the_identity() -> None:
    table = torch.randn(1, 25, 3)
    assert resample_positions(table, grid=(4, 6), old_grid=(4, 6), num_prefix=1) is table


def test_resampling_in_low_precision_is_computed_in_float32() -> None:
    table = torch.randn(1, 17, 8)
    low = resample_positions(table.bfloat16(), grid=(3, 9), old_grid=(4, 4), num_prefix=1)
    high = resample_positions(table.bfloat16().float(), grid=(3, 9), old_grid=(4, 4), num_prefix=1)
    assert torch.equal(low, high.bfloat16())


def test_resampling_refuses_a_wrong_grid() -> None:
    with pytest.raises(ValueError, match="has 24 patch rows, a grid of 5x5 patches needs 25"):
        resample_positions(torch.zeros(1, 25, 2), grid=(2, 2), old_grid=(5, 5), num_prefix=1)


@pytest.mark.parametrize("distilled", [False, True])
def test_image_embeddings_by_hand(distilled: bool) -> None:
    torch.manual_seed(0)
    layer = ImageEmbeddings(
        width=6, channels=3, image_hw=(4, 8), patch_hw=(4, 2), has_distillation_token=distilled
    ).eval()
    torch.nn.init.normal_(layer.position_embeddings)
    torch.nn.init.normal_(layer.cls_token)
    image = torch.randn(2, 3, 4, 8)
    out = layer(image)
    prefix = 2 if distilled else 1
    assert out.shape == (2, prefix + 4, 6)
    for column in range(4):
        patch = image[:, :, :, 2 * column : 2 * column + 2]
        value = F.linear(
            patch.flatten(1), layer.patch_embeddings.weight.flatten(1), layer.patch_embeddings.bias
        )
        expected = value + layer.position_embeddings[0, prefix + column]
        torch.testing.assert_close(out[:, prefix + column], expected)
    torch.testing.assert_close(out[0, 0], (layer.cls_token[0, 0] + layer.position_embeddings[0, 0]))


@pytest.mark.parametrize(
    ("shape", "interpolate", "message"),
    [
        ((1, 1, 4, 8), False, r"shape \(1, 1, 4, 8\), expected \(batch, 3, height, width\)"),
        ((3, 4, 8), False, r"expected \(batch, 3, height, width\)"),
        ((1, 3, 8, 4), False, "is 8 x 4 pixels .*made for 4 x 8; let the processor resize"),
        ((1, 3, 4, 1), True, "smaller than one patch of 4 x 2"),
    ],
)
def test_image_embeddings_refuse_other_images(shape, interpolate: bool, message: str) -> None:
    layer = ImageEmbeddings(width=6, channels=3, image_hw=(4, 8), patch_hw=(4, 2))
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape), interpolate_pos_encoding=interpolate)


def test_token_embedding() -> None:
    layer = TokenEmbedding(5, 4, scale=2.0, padding_idx=1)
    ids = torch.tensor([[0, 1, 4]])
    assert torch.equal(layer(ids), layer.weight[ids] * 2)
    layer(ids).sum().backward()
    assert layer.weight.grad[1].abs().sum() == 0
    for bad in (5, -100):
        with pytest.raises(IndexError, match=rf"token ids from {min(bad, 0)} to {max(bad, 0)} .*ids 0 to 4"):
            layer(torch.tensor([[0, bad]]))


def test_learned_positions_start_two_rows_down() -> None:
    layer = LearnedPositions(6, 4)
    assert layer.weight.shape == (8, 4)
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert torch.equal(layer(ids, start=2), layer.weight[4:7])
    with pytest.raises(ValueError, match="7 tokens are more than the 6 positions"):
        layer(ids, start=4)


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoidal_positions_by_hand(width: int) -> None:
    layer = SinusoidalPositions(10, width, padding_idx=1)
    out = layer(torch.tensor([[2, 5, 1, 1], [2, 1, 7, 1]]))
    half = width // 2

    def row(position: int) -> list[float]:
        rates = [math.exp(-k * math.log(10000) / (half - 1)) for k in range(half)]
        values = [math.sin(position * r) for r in rates] + [math.cos(position * r) for r in rates]
        return values + [0.0] * (width - len(values))

    zero = [0.0] * width
    expected = torch.tensor([[row(2), row(3), zero, zero], [row(2), zero, row(3), zero]])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    assert not layer.state_dict(), "the table is not stored"
    with pytest.raises(ValueError, match="11 tokens are more than the 10 positions"):
        layer(torch.full((1, 4), 5), start=7)
