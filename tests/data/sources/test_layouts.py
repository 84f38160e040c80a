"""IAM and SROIE, in files that the tests make in the layouts of the originals."""

import numpy as np
import pytest
from made import write_images
from PIL import Image

from trocr.data.records import DataError
from trocr.data.sources import open_source
from trocr.image_array import ImageError

IAM_LINES = """#--- lines.txt ---#
# a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE
a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE|to|stop|"|Mr.|Gaitskell
a01-000u-01 err 156 19 395 932 1850 105 nominating|any|more
b02-001-00 ok 157 16 408 1106 1986 105 Peers|,|he|said|.
"""


def iam(folder):
    names = ["a01/a01-000u/a01-000u-00", "a01/a01-000u/a01-000u-01", "b02/b02-001/b02-001-00"]
    write_images(folder / "lines", [f"{name}.png" for name in names])
    (folder / "lines.txt").write_text(IAM_LINES)
    return folder


def test_iam(tmp_path):
    source = open_source(iam(tmp_path))
    assert [r.text for r in source] == [
        'A MOVE to stop " Mr. Gaitskell',
        "nominating any more",
        "Peers , he said .",
    ]
    assert [r.name for r in source] == ["a01-000u-00", "a01-000u-01", "b02-001-00"]
    assert [r.group for r in source] == ["a01-000u", "a01-000u", "b02-001"]
    assert source[0].open().size == (60, 20)
    assert len(open_source(tmp_path, only_ok=True)) == 2


def test_iam_writers_and_splits(tmp_path):
    iam(tmp_path)
    (tmp_path / "forms.txt").write_text("# forms\na01-000u 000 2 prt 7 5 52 36\nb02-001 011 2 prt 1 1 9 9\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.uttlist").write_text("a01-000u\n")
    (tmp_path / "testset.txt").write_text("b02-001-00\n")
    train, test = open_source(tmp_path, split="train"), open_source(f"{tmp_path}#test")
    assert [r.name for r in train] == ["a01-000u-00", "a01-000u-01"]
    assert {r.group for r in train} == {"000"}
    assert [r.group for r in test] == ["011"]
    with pytest.raises(DataError, match=r"no split 'val'; looked there and in splits/ for val\.txt"):
        open_source(f"{tmp_path}#val")
    (tmp_path / "splits/val.txt").write_text("zzz\n")
    with pytest.raises(DataError, match="1 ids are not in the database: zzz"):
        open_source(tmp_path, split="val")


@pytest.mark.parametrize(
    "name", ["validationset1.txt", "splits/validation.uttlist", "valid.txt", "splits/val.lst", "dev.txt"]
)
def test_iam_names_of_the_validation_part(tmp_path, name):
    iam(tmp_path)
    (tmp_path / "splits").mkdir()
    (tmp_path / name).write_text("b02-001\n")
    assert [r.name for r in open_source(f"{tmp_path}#val")] == ["b02-001-00"]


def test_iam_xml(tmp_path):
    write_images(tmp_path / "lines", ["a01/a01-000u/a01-000u-00.png"])
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/a01-000u.xml").write_text(
        '<form id="a01-000u" writer-id="007"><handwritten-part>'
        '<line id="a01-000u-00" text="said &amp;quot;no&amp;quot; &amp;amp; left" segmentation="ok"/>'
        "</handwritten-part></form>"
    )
    [record] = open_source(tmp_path)
    assert record.text == 'said "no" & left'
    assert record.group == "007"
    (tmp_path / "xml/a01-000u.xml").write_text("<form>")
    with pytest.raises(DataError, match="not well-formed XML"):
        open_source(tmp_path)


def test_iam_that_is_another_file(tmp_path):
    iam(tmp_path)
    (tmp_path / "lines.txt").write_text("a01-000u-00 fine\n")
    with pytest.raises(DataError, match=r"lines.txt:1: expected id, ok or err"):
        open_source(tmp_path)


def receipt(folder, name, boxes, sub=("", "")):
    for part in sub:
        (folder / part).mkdir(exist_ok=True, parents=True)
    page = np.full((100, 200, 3), 255, np.uint8)
    page[10:20, 30:80] = 40
    Image.fromarray(page).save(folder / sub[0] / f"{name}.png")
    (folder / sub[1] / f"{name}.txt").write_text(boxes, encoding="utf-8")


@pytest.mark.parametrize("sub", [("", ""), ("img", "box")])
def test_sroie(tmp_path, sub):
    receipt(tmp_path, "X10", "30,10,80,10,80,20,30,20,TOTAL, RM 5 \n5,5,5,5,5,9,5,9,no area\n", sub)
    receipt(tmp_path, "X9", "79,20,30,20,30,10,79,10,A\r\n", sub)
    source = open_source(tmp_path)
    assert [(r.name, r.text, r.group) for r in source] == [
        ("X9#0", "A", "X9"),
        ("X10#0", "TOTAL, RM 5", "X10"),
    ]
    crop = np.asarray(source[1].open())
    assert crop.shape == (10, 50, 3)
    assert (crop == 40).all()


def test_sroie_names_all_bad_rows(tmp_path):
    receipt(tmp_path, "X1", "1,2,3,4,5,6,7,8,ok\n1,2,3,x,5,6,7,8,bad\n\n1,2,3\n")
    receipt(tmp_path, "X2", "garbage\n1,2,nan,4,5,6,7,8,no number\n")
    with pytest.raises(DataError, match=r"4 rows .*: X1.txt:2 has '1,2,3,x.*X1.txt:4 .*X2.txt:1 .*X2.txt:2"):
        open_source(tmp_path)


def test_sroie_keeps_receipts_that_begin_oddly(tmp_path):
    receipt(tmp_path, "X1", "\n30,10,80,10,80,20,30,20,blank\n")
    receipt(tmp_path, "X2", "30.0,10.4,80.0,10.4,80.0,19.8,30.0,19.8,decimals\n")
    (tmp_path / "._X2.txt").write_bytes(b"\0macOS")
    (tmp_path / "README.txt").write_text("about")
    source = open_source(tmp_path)
    assert [(r.name, r.text) for r in source] == [("X1#1", "blank"), ("X2#0", "decimals")]
    assert source[1].open().size == (50, 10)


@pytest.mark.parametrize("content", ["", "\n", "5,5,5,5,5,9,5,9,no area\n"])
def test_sroie_names_receipts_without_lines(tmp_path, content):
    receipt(tmp_path, "X1", content)
    receipt(tmp_path, "X2", "30,10,80,10,80,20,30,20,A\n")
    with pytest.raises(DataError, match=r"1 receipts have no lines: X1.txt"):
        open_source(tmp_path)
    assert len(open_source(tmp_path, on_empty="skip")) == 1


def test_sroie_without_an_image(tmp_path):
    receipt(tmp_path, "X1", "1,2,3,4,5,6,7,8,ok\n")
    (tmp_path / "X1.png").unlink()
    with pytest.raises(DataError, match=r"X1.jpg \(X1.txt\)"):
        open_source(tmp_path, kind="sroie")


def test_a_box_outside_the_page(tmp_path):
    receipt(tmp_path, "X1", "300,10,380,10,380,20,300,20,far\n-9,10,20,10,20,30,-9,30,edge\n")
    far, edge = open_source(tmp_path)
    with pytest.raises(ImageError, match=r"X1.png: the line's box \(300, 10, 380, 20\) lies outside"):
        far.open()
    assert edge.open().size == (20, 20)
