"""Position tables of other grids: interpolated, not cut off, and extended."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import processor, small_model
from families import FAMILIES, SQUARE, Pair, difference, ids, make_pair
from proofs import AGREES, image_processor, logits, pixels
from resized import EQUAL, changed
from torch import Tensor

from trocr import VisionEncoderDecoderModel
from trocr.reader import Reader
from trocr.surgery.image_shape import resize_images

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def cubic_weights(old: int, new: int) -> Tensor:
    """Matrix (new, old) of cubic convolution with a = -0.75, centres of cells aligned, edges repeated."""
    a, weights = -0.75, torch.zeros(new, old, dtype=torch.float64)
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        first = int(np.floor(centre)) - 1
        for column in range(first, first + 4):
            d = abs(centre - column)
            if d <= 1:
                weight = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                weight = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[row, min(max(column, 0), old - 1)] += weight
    return weights


@pytest.mark.parametrize("grid", [(8, 8), (2, 24), (3, 5), (4, 48), (7, 1)])
def test_the_table_is_the_interpolated_one(pair: Pair, grid: tuple[int, int]):
    """In two dimensions, by a kernel written here, with the prefix rows as they were."""
    embeddings = pair.ours.encoder.embeddings
    patch, old, prefix = embeddings.patch_hw, embeddings.grid, embeddings.num_prefix
    model, found = changed(pair, image_size=(grid[0] * patch[0], grid[1] * patch[1]))
    before, after = (m.encoder.embeddings.position_embeddings.detach() for m in (pair.ours, model))
    down, across = (cubic_weights(*sizes) for sizes in zip(old, grid, strict=True))
    patches = before[0, prefix:].double().view(*old, -1)
    expected = torch.einsum("yh,xw,hwd->yxd", down, across, patches).flatten(0, 1)
    assert difference(expected.float(), after[0, prefix:]) < EQUAL
    assert torch.equal(after[:, :prefix], before[:, :prefix])
    assert model.encoder.embeddings.grid == model.config.encoder.grid == grid
    assert found.image_processor.size == dict(
        zip(("height", "width"), model.config.encoder.image_hw, strict=True)
    )


def test_positions_keep_their_place_in_the_image(tmp_path: Path):
    """A table of each patch's place: a 384 x 384 checkpoint turned to 64 x 768 knows where patches are.

    A table that was cut off, or read row by row into the new grid, would be wrong by many patches.
    """
    family = FAMILIES["learned"].changed({"image_size": 384, "patch_size": 16})
    model = make_pair(family, tmp_path).ours
    table = model.encoder.embeddings.position_embeddings
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    with torch.no_grad():
        table[0, 1:, 0], table[0, 1:, 1] = y.flatten(), x.flatten()
    resize_images(model, processor=image_processor(model), image_size=(64, 768))
    patches = model.encoder.embeddings.position_embeddings[0, 1:].view(4, 48, -1)
    rows = (torch.arange(4) + 0.5) * 24 / 4 - 0.5  # centres of the new patches, in old patches
    columns = (torch.arange(48) + 0.5) * 24 / 48 - 0.5
    inside = slice(3, -3)  # at the edges the outermost patch is repeated
    assert (patches[..., 0] - rows[:, None]).abs().max() < 0.06  # the kernel is linear but for 0.05
    assert (patches[:, inside, 1] - columns[None, inside]).abs().max() < 0.06
    assert (patches[..., 0].diff(dim=0) > 5).all()
    assert (patches[..., 1].diff(dim=1) > 0).all()


def test_a_square_checkpoint_reads_lines(tmp_path: Path):
    family = FAMILIES["learned"].changed({"image_size": 384, "patch_size": 16}, {"vocab_size": 520})
    model = make_pair(family, tmp_path / "square").ours
    found = image_processor(model)
    resize_images(model, processor=found, image_size=(64, 768))
    model.save_pretrained(tmp_path / "wide")
    found.save_pretrained(tmp_path / "wide")
    reader = Reader(tmp_path / "wide")
    assert reader.processor.image_processor.pad_to_aspect_ratio
    lines = list(reader.read([EXAMPLES / "heading.jpg", EXAMPLES / "receipt.png"], max_new_tokens=5))
    assert len(lines) == 2
    assert all(line.tokens for line in lines)


@pytest.mark.parametrize("name", SQUARE)
def test_it_is_what_the_reference_interpolates_on_the_fly(pair_of, name: str):
    pair = pair_of(name)
    model, _ = changed(pair, image_size=(48, 80))
    made, tokens = pixels(model), ids(2, 7)
    with torch.no_grad():
        theirs = pair.hf(pixel_values=made, decoder_input_ids=tokens, interpolate_pos_encoding=True).logits
    assert difference(theirs, logits(model, made)) < AGREES


def test_extended_positions_keep_what_was_there(tmp_path: Path):
    model, found = small_model().eval(), processor()
    before = model.encoder.embeddings.position_embeddings.detach().clone()
    told = resize_images(model, processor=found, image_size=(32, 960), positions="extend")
    after = model.encoder.embeddings.position_embeddings
    assert after.shape == (1, 121, 32)
    assert torch.equal(after[:, :81], before)
    assert torch.equal(after[:, 81:], before[:, 41:])
    assert model.config.encoder.image_size == (32, 960)
    assert found.image_processor.size == {"height": 32, "width": 960}
    assert [change.action for change in told.changes] == ["carried"]
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    made = torch.randn(1, 3, 32, 960)
    assert torch.equal(again.encode(made)[0], model.encode(made)[0])


def test_a_line_that_fits_reads_the_same_before_and_after_an_extension():
    model = small_model().eval()
    made = torch.randn(1, 3, 32, 640)
    before = model.encode(made)[0]
    resize_images(model, processor=processor(), image_size=(32, 960), positions="extend")
    torch.testing.assert_close(model.encode(made, crop_pos_encoding=True)[0], before)
