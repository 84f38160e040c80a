import dataclasses

import pytest
from drawn import SHIPPED

from trocr.training.option_tables import ModelOptions
from trocr.training.start import StartError, load_start

OPTIONS = ModelOptions(checkpoint=str(SHIPPED), positions="extend")


def test_a_start_with_images_of_another_size():
    model, processor = load_start(dataclasses.replace(OPTIONS, image_size=(32, 1280)))
    assert model.config.encoder.image_size == (32, 1280)
    assert model.encoder.embeddings.position_embeddings.shape[1] == 161
    assert processor.image_processor.size == {"height": 32, "width": 1280}


@pytest.mark.parametrize(
    ("size", "message"),
    [((32, 644), "not a multiple of the patch, 32 x 8"), ((64, 960), "cannot be extended to 2 x 120")],
)
def test_sizes_that_cannot_be(size, message):
    with pytest.raises(StartError, match=message):
        load_start(dataclasses.replace(OPTIONS, image_size=size))
