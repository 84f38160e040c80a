import re

import pytest
from PIL import Image

from trocr.data.records import LineRecord
from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.predictions import load_predictions, predictions_text
from trocr.evaluation.report import Reading
from trocr.image import ImageError


def missing():
    raise ImageError("no such image")


def source(*names, width=30):
    def opener():
        return Image.new("L", (width, 10))

    return [LineRecord(name=name, text="abc", group="g", opener=opener) for name in names]


@pytest.fixture
def load(tmp_path):
    def read(content, *places):
        path = tmp_path / "p.tsv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return load_predictions(path, places or [("lines", source("a", "b"))])

    return read


def test_rows_end_at_line_feeds_only(load):
    ((a, b),) = load("\ufeffa\tx\u2028y\x85\x0c\tz\r\nb\t\r\n\r\n\n")
    assert a.reading == "x\u2028y\x85\x0c\tz"
    assert b.reading == ""
    assert (a.target, a.group, a.aspect) == ("abc", "g", 3.0)
    assert a.image_sha256 == b.image_sha256 != None  # noqa: E711


def test_an_image_that_is_not_there_costs_its_shape_only(load):
    records = [LineRecord(name="a", text="abc", opener=missing)]
    ((a,),) = load("a\tabc\n", ("lines", records))
    assert (a.reading, a.aspect, a.image_sha256) == ("abc", None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tx\nb\ty\na\tz\n", "p.tsv:3: 'a' has a reading already, in line 1; keep one of them"),
        ("a\tx\nb y\n", "p.tsv:2: no tab; expected name, TAB, text, found 'b y'"),
        (b"a\tx\nb\tcaf\xe9\n", "p.tsv:2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a\tx\nc\ty\n", "1 lines have no reading, such as 'b'; 1 names are not in the data, such as 'c'"),
    ],
)
def test_mistakes_name_their_row(load, content, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        load(content)


def test_what_is_written_is_read_back(load):
    texts = ("x\u2028y\x0c", " a\ud800 ", "é\tb\x85", "")
    readings = [Reading(name=f"l{i}", target="abc", reading=text) for i, text in enumerate(texts)]
    ((*found,),) = load(predictions_text([("lines", readings)]), ("lines", source("l0", "l1", "l2", "l3")))
    assert [reading.reading for reading in found] == list(texts)
    assert predictions_text([("lines", [Reading(name="a", target="", reading="b\r\nc\n")])]) == "a\tb c\n"


def test_several_data_sets_with_like_names(load):
    places = [("x/one", source("1.png", "2.png")), ("two", source("1.png", "3.png"))]
    parts = [
        (place, [Reading(name=r.name, target=r.text, reading=f"{place} {r.name}") for r in records])
        for place, records in places
    ]
    found = load(predictions_text(parts), *places)
    assert found[0][0].reading == "x/one 1.png"
    assert found[1][0].reading == "two 1.png"
    # Names that are in one set only need no place before them.
    found = load("two/1.png\ta\nx/one/1.png\tb\n2.png\tc\n3.png\td\n", *places)
    assert [[r.reading for r in part] for part in found] == [["b", "c"], ["a", "d"]]
    with pytest.raises(EvaluationError, match=r"2 data sets have a line '1.png': write x/one/1.png for"):
        load("1.png\ta\n2.png\tb\n3.png\tc\n", *places)
