"""PAGE and ALTO, in files that the tests make as programs write them."""

import numpy as np
import pytest
from made import image, write_images
from PIL import Image

from trocr.data.records import DataError
from trocr.data.sources import open_source, openers

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


ALTO_WORDS = """<alto><Description><MeasurementUnit>{unit}</MeasurementUnit></Description>
<Layout><Page {size}><PrintSpace>
<TextLine ID="t1" HPOS="10" VPOS="20" WIDTH="40" HEIGHT="20">{words}</TextLine>
</PrintSpace></Page></Layout></alto>"""


def alto(folder, words, unit="pixel", size=""):
    write_images(folder, ["a.png"], size=(100, 60), mode="RGB")
    (folder / "a.xml").write_text(ALTO_WORDS.format(unit=unit, size=size, words=words))
    return open_source(folder)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ('<String CONTENT="Hello"/><String CONTENT="World"/>', "Hello World"),
        ('<String CONTENT="Hel"/><String CONTENT="lo"/><SP/><String CONTENT="World"/>', "Hello World"),
        ('<String CONTENT="wor"/><HYP CONTENT="&#xAD;"/>', "wor-"),
        ('<String CONTENT="wor"/><HYP/>', "wor-"),
        ('<String CONTENT="a&#10;b&#9;c"/>', "a b c"),
    ],
)
def test_words_of_alto(tmp_path, words, text):
    [record] = alto(tmp_path, words)
    assert record.text == text


def test_alto_in_other_units_is_scaled(tmp_path):
    word = '<String CONTENT="Hello"/>'
    [record] = alto(tmp_path, word, "mm10", 'WIDTH="200" HEIGHT="120"')
    page = np.asarray(Image.open(tmp_path / "a.png"))
    assert (np.asarray(record.open()) == page[10:20, 5:26]).all()
    with pytest.raises(DataError, match="measured in inch1200, and <Page> has no WIDTH and HEIGHT"):
        alto(tmp_path, word, "inch1200")


def test_xml_of_another_kind(tmp_path):
    write_images(tmp_path, ["p.png"])
    (tmp_path / "metadata.xml").write_text("<trpDocMetadata/>")
    (tmp_path / "._p.xml").write_bytes(b"\0macOS")
    with pytest.raises(DataError, match=r"no XML is <PcGts> .* <alto>: metadata.xml has <trpDocMetadata>"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"metadata.xml has <trpDocMetadata>"):
        open_source(tmp_path / "metadata.xml")
    (tmp_path / "p.xml").write_text(page("1,1 9,1 9,9 1,9"))
    assert len(open_source(tmp_path)) == 1


def page(points, name="p.png"):
    return PAGE.format(version="2019-07-15", points=points).replace("p.png", name)


LINE = '<PcGts><Page imageFilename="p.png">{}</Page></PcGts>'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("<Word>{Hello}</Word><Word>{big\nWorld}</Word><Word/>", "Hello big World"),
        ("<Word>{Hello}</Word>{Hello, World}", "Hello, World"),
        ("{}<Word>{Hello}</Word>", "Hello"),
        ("{a\tb\n c}", "a b c"),
        ('<TextEquiv index="x"><Unicode>odd</Unicode></TextEquiv>{a}', "a"),
        ('<TextEquiv index="x"><Unicode>odd</Unicode></TextEquiv>', "odd"),
    ],
)
def test_texts_of_page(tmp_path, line, text):
    write_images(tmp_path, ["p.png"])
    line = line.replace("{", "<TextEquiv><Unicode>").replace("}", "</Unicode></TextEquiv>")
    body = f'<TextLine id="l1"><Coords points="1,1 9,1 9,9"/>{line}</TextLine><TextLine id="l2"/>'
    (tmp_path / "p.xml").write_text(LINE.format(body))
    source = open_source(tmp_path)
    assert [record.text for record in source] == [text]
    assert source.num_empty == 1  # l2, which has no outline either


def test_outlines_of_2010(tmp_path):
    write_images(tmp_path, ["p.png"])
    corners = "".join(f'<Point x="{x}" y="{y}"/>' for x, y in ((1, 2), (30, 2), (30, 12), (1, 12)))
    text = "<TextEquiv><Unicode>old</Unicode></TextEquiv>"
    (tmp_path / "p.xml").write_text(LINE.format(f"<TextLine><Coords>{corners}</Coords>{text}</TextLine>"))
    [record] = open_source(tmp_path)
    assert record.open().size == (30, 11)


@pytest.mark.parametrize(
    ("xml", "named", "image_at"),
    [
        ("page/p.xml", "scan.png", "scan.png"),  # Transkribus
        ("doc/page/p.xml", "scan.png", "doc/scan.png"),
        ("GT/p.xml", "IMG/scan.png", "IMG/scan.png"),  # OCR-D
        ("a/b/p.xml", "IMG/scan.png", "IMG/scan.png"),
        ("p.xml", "C:\\scans\\scan.png", "scan.png"),
        ("p.xml", "file:///data/scan.png", "scan.png"),
        ("page/p.xml", "other.png", "p.jpg"),
    ],
)
def test_where_the_image_of_a_page_is(tmp_path, xml, named, image_at):
    write_images(tmp_path, [image_at], size=(70, 30))
    (tmp_path / xml).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / xml).write_text(page("1,1 9,1 9,9 1,9", named))
    [record] = open_source(tmp_path)
    assert record.open().size == (9, 9)
    if "a/b" not in xml:
        assert len(open_source(tmp_path / xml)) == 1
    (tmp_path / image_at).unlink()
    with pytest.raises(DataError, match="1 images are missing"):
        open_source(tmp_path)


def test_pages_of_several_documents_stay_together(tmp_path):
    for name in ("one/page/1", "one/page/2", "two/page/1"):
        write_images(tmp_path, [f"{name}.png"])
        (tmp_path / f"{name}.xml").write_text(page("1,1 9,1 9,9", "no.png"))
    assert [record.group for record in open_source(tmp_path)] == ["one/page", "one/page", "two/page"]
    assert [record.group for record in open_source(tmp_path / "one")] == ["page/1.xml", "page/2.xml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0" encoding="x-unknown"?><PcGts/>', "not well-formed XML"),
        (b"<PcGts>", "not well-formed XML"),
        (
            LINE.format('<TextLine id="l1"><TextEquiv><Unicode>a</Unicode></TextEquiv></TextLine>').encode(),
            "no outline",
        ),
    ],
)
def test_mistakes_in_xml(tmp_path, content, message):
    write_images(tmp_path, ["p.png"])
    (tmp_path / "p.xml").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_pages_are_opened_once_in_any_order(tmp_path, monkeypatch):
    opened = []
    reference = openers.open_image
    monkeypatch.setattr(openers, "open_image", lambda path: opened.append(path) or reference(path))
    monkeypatch.setattr(openers, "_pages", openers._Pages())
    for name in "abc":
        write_images(tmp_path, [f"{name}.png"], size=(100, 60))
        (tmp_path / f"{name}.xml").write_text(page("1,1 9,1 9,9", f"{name}.png"))
    source = open_source(tmp_path)
    for index in (0, 1, 2, 0, 1, 2):
        source[index].open()
    assert len(opened) == 3
    monkeypatch.setattr(openers, "PAGE_BYTES", 2 * 100 * 60 * 3)  # two pages
    monkeypatch.setattr(openers, "_pages", openers._Pages())
    for index in (0, 1, 0, 2, 0, 1):
        source[index].open()
    assert [path[-5] for path in opened[3:]] == ["a", "b", "c", "b"]
    monkeypatch.setattr(openers, "PAGE_BYTES", 1)
    assert source[0].open().size == source[0].open().size
