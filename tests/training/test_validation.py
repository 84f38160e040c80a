import dataclasses

import pytest
from drawn import Damaged, Lines, drawn_lines, processor, small_model

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.data.records import DataError, LineRecord
from trocr.training.validation import validate


def shipped():
    return VisionEncoderDecoderModel.from_pretrained("tiny-printed")


def test_reading_is_compared_with_the_texts():
    lines = Lines(
        dataclasses.replace(line, text=text)
        for line, text in zip(drawn_lines(3), ("", "xx", "yyyy"), strict=True)
    )
    model = small_model()
    model.generation_config = dataclasses.replace(model.generation_config, max_length=4)
    found = validate(model, processor(), lines, num_samples=3)
    readings = {sample.name: sample.reading for sample in found.samples}
    assert found.num_lines == 3
    assert found.cer >= 6 / 6 - 1e-9  # random weights read none of the six characters, or too many
    assert set(readings) == {"line000.png", "line001.png", "line002.png"}


def test_a_trained_model_has_few_errors():
    from trocr.hub import PRETRAINED

    folder = PRETRAINED.parents[1] / "examples"
    from trocr.image import open_image

    rows = [row.split("\t") for row in (folder / "labels.tsv").read_text().splitlines()]
    lines = Lines(
        LineRecord(name=name, text=text, opener=lambda path=folder / name: open_image(path))
        for name, text in rows
    )
    own = TrOCRProcessor.from_pretrained("tiny-printed")
    found = validate(shipped(), own, lines, batch_size=2, num_samples=1)
    assert found.cer == 0
    assert found.exact == 1
    assert found.num_lines == len(rows)
    assert found.samples[0].text == found.samples[0].reading


def test_damaged_lines_are_named_and_some_lines_are_chosen_once():
    lines = drawn_lines(20)
    lines[3] = dataclasses.replace(lines[3], opener=Damaged())
    model = small_model()
    model.generation_config = dataclasses.replace(model.generation_config, max_length=3)
    found = validate(model, processor(), lines, batch_size=64)
    assert found.num_lines == 19
    assert found.skipped == ("line003.png: not an image",)
    few = [validate(model, processor(), lines, max_lines=5, num_samples=9) for _ in range(2)]
    assert [s.name for s in few[0].samples] == [s.name for s in few[1].samples]
    assert few[0].num_lines == 5


def test_nothing_that_can_be_opened():
    lines = Lines(dataclasses.replace(line, opener=Damaged()) for line in drawn_lines(2))
    with pytest.raises(DataError, match=r"none of the 2 lines can be opened: line000.png: not an image"):
        validate(small_model(), processor(), lines)
