import pytest
import torch
from drawn import processor, small_model

from trocr.training.start import StartError, set_image_size


def changed(size, positions):
    model, proc = small_model().eval(), processor()
    before = model.encoder.embeddings.position_embeddings.detach().clone()
    set_image_size(model, proc, size, positions=positions)
    return model, proc, before


def test_extended_positions_keep_what_was_there(tmp_path):
    model, proc, before = changed((32, 960), "extend")
    after = model.encoder.embeddings.position_embeddings
    assert after.shape == (1, 121, 32)
    assert torch.equal(after[:, :81], before)
    assert torch.equal(after[:, 81:], before[:, 41:])
    assert model.config.encoder.image_size == (32, 960)
    assert proc.image_processor.size == {"height": 32, "width": 960}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 960)
    torch.testing.assert_close(again.encode(pixels)[0], model.encode(pixels)[0])


def test_a_line_that_fits_reads_the_same_before_and_after():
    model, proc = small_model().eval(), processor()
    pixels = torch.randn(1, 3, 32, 640)
    before = model.encode(pixels)[0]
    set_image_size(model, proc, (32, 960), positions="extend")
    torch.testing.assert_close(model.encode(pixels, crop_pos_encoding=True)[0], before)


def test_resampled_positions():
    model, _, before = changed((32, 320), "resample")
    after = model.encoder.embeddings.position_embeddings
    columns = before[:, 1:].transpose(1, 2)[:, :, None]
    expected = torch.nn.functional.interpolate(columns, size=(1, 40), mode="bicubic", align_corners=False)
    torch.testing.assert_close(after[:, 1:], expected[:, :, 0].transpose(1, 2))
    assert torch.equal(after[:, :1], before[:, :1])


@pytest.mark.parametrize(
    ("size", "positions", "message"),
    [
        ((32, 644), "resample", "not a multiple of the patch, 32 x 8"),
        ((64, 640), "extend", "cannot be extended to 2 x 80"),
        ((32, 320), "extend", "cannot be extended to 1 x 40"),
        ((32, 1024), "extend", "columns can grow up to 120"),
    ],
)
def test_sizes_that_cannot_be(size, positions, message):
    model, proc = small_model(), processor()
    with pytest.raises(StartError, match=message):
        set_image_size(model, proc, size, positions=positions)
    assert model.config.encoder.image_size == (32, 640)
    assert model.encoder.embeddings.position_embeddings.shape[1] == 81
