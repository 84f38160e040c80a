"""IAM, SROIE, PAGE and ALTO, in files that the tests make in the layouts of the originals."""

import numpy as np
import pytest
from made import image, write_images
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
    with pytest.raises(DataError, match=r"no split 'val'; looked for .*val\.txt"):
        open_source(f"{tmp_path}#val")
    (tmp_path / "splits/val.txt").write_text("zzz\n")
    with pytest.raises(DataError, match="1 ids are not in the database: zzz"):
        open_source(tmp_path, split="val")


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


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("1,2,3,4,5,6,7,8,ok\n1,2,3,x,5,6,7,8,bad\n", r"X1.txt:2: expected x1,y1"),
        ("1,2,3,4,5,6,7,8,ok\n1,2,3\n", r"X1.txt:2: expected x1,y1"),
    ],
)
def test_sroie_mistakes(tmp_path, boxes, message):
    receipt(tmp_path, "X1", boxes)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


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


PAGE = """<?xml version="1.0"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/{version}"><Page imageFilename="p.png">
<TextRegion><TextLine id="l1"><Coords points="{points}"/>
<Word><TextEquiv><Unicode>word</Unicode></TextEquiv></Word>
<TextEquiv index="1"><Unicode>second</Unicode></TextEquiv>
<TextEquiv index="0"><Unicode>first é</Unicode></TextEquiv>
</TextLine><TextLine id="l2"><Coords points="0,0 9,0 9,9"/></TextLine></TextRegion></Page></PcGts>"""


@pytest.mark.parametrize("version", ["2013-07-15", "2019-07-15"])
def test_page(tmp_path, version):
    write_images(tmp_path, ["p.png"], size=(100, 60), mode="RGB")
    (tmp_path / "p.xml").write_text(PAGE.format(version=version, points="10,10 60,12 60,40 10,38"))
    source = open_source(tmp_path)
    assert [(r.name, r.text, r.group) for r in source] == [("p.xml#l1", "first é", "p.xml")]
    assert source[0].open().size == (51, 31)
    assert source.num_empty == 1
    with pytest.raises(DataError, match=r"1 lines have no text: p\.xml#l2"):
        open_source(tmp_path, on_empty="error")


def test_what_is_outside_the_polygon_is_paper(tmp_path):
    page = np.full((60, 100, 3), 200, np.uint8)
    page[:14] = 0
    Image.fromarray(page).save(tmp_path / "p.png")
    (tmp_path / "p.xml").write_text(PAGE.format(version="2019-07-15", points="10,10 60,20 60,40 10,40"))
    assert np.asarray(open_source(tmp_path)[0].open())[0, -1].tolist() == [200, 200, 200]
    assert np.asarray(open_source(tmp_path, mask=False)[0].open())[0, -1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("points", ["", "10,10", "a,b c,d", "1 2 3"])
def test_page_without_an_outline(tmp_path, points):
    write_images(tmp_path, ["p.png"])
    (tmp_path / "p.xml").write_text(PAGE.format(version="2019-07-15", points=points))
    with pytest.raises(DataError, match=r"line 'l1' has (no|the) outline"):
        open_source(tmp_path)


ALTO = """<alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#"><Description>
<MeasurementUnit>{unit}</MeasurementUnit><sourceImageInformation><fileName>scans/a.png</fileName>
</sourceImageInformation></Description><Layout><Page><PrintSpace><TextBlock>
<TextLine ID="t1" HPOS="5" VPOS="6" WIDTH="40" HEIGHT="20">{shape}<String CONTENT="Hello"/><SP/>
<String CONTENT="wor"/><HYP CONTENT="-"/></TextLine></TextBlock></PrintSpace></Page></Layout></alto>"""


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("", (41, 21)),
        ('<Shape><Polygon POINTS="5,6 30,6 30,26"/></Shape>', (26, 21)),
        ('<Shape><Polygon POINTS="5 6 30 6 30 26"/></Shape>', (26, 21)),
    ],
)
def test_alto(tmp_path, shape, size):
    image(size=(100, 60), mode="RGB").save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(ALTO.format(version=4, unit="pixel", shape=shape))
    [record] = open_source(tmp_path)
    assert record.text == "Hello wor-"
    assert record.open().size == size


def test_alto_in_other_units_and_other_xml(tmp_path):
    image(size=(100, 60)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(ALTO.format(version=2, unit="mm10", shape=""))
    with pytest.raises(DataError, match="measured in mm10, expected pixel"):
        open_source(tmp_path)
    (tmp_path / "a.xml").write_text("<html/>")
    with pytest.raises(DataError, match="its root is <html>, expected <PcGts>"):
        open_source(tmp_path)
