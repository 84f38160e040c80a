"""Pages with lines in PAGE or ALTO XML, cut into lines.

Source: PAGE (PRImA, 2010-03-19 and later) and ALTO (Library of Congress, versions 2 to 4); namespaces are not
looked at, so all versions are read alike. Where images are: Transkribus (page/p.xml beside p.png) and OCR-D
("OCR-D-IMG/p.png" relative to the workspace, the XML in another folder of it).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from trocr.data.records import DataError
from trocr.data.sources.listed import IMAGE_SUFFIXES, ListedSource, OnEmpty, Row, missing_images, read_xml
from trocr.data.sources.openers import CropOpener

Points = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a page.

    Attributes:
        identity: its id; may be empty.
        text: may be empty; then there are no points.
        points: corners of its outline.
        page_size: (width, height) of the page in the outline's unit; None where that is pixels of the image.
    """

    identity: str
    text: str
    points: Points
    page_size: tuple[float, float] | None = None


def open_layout_xml(path: Path, *, mask: bool = True, on_empty: OnEmpty = "skip") -> ListedSource:
    """Open the lines of pages.

    The name is "page.xml#line id". The group is the folder that the page is in where there are several, as
    each document of Transkribus has one, else the page's file.

    Args:
        path: an XML file, or a folder of them and their images. XML files that are no pages are left out.
        mask: paint what lies outside a line's polygon in the colour of the paper; False keeps the whole box.
        on_empty: what to do with lines without text, of which pages have many; see `ListedSource`.
    Raises:
        DataError: an XML is damaged, there is no page, an image is missing, a line with text has no outline.
    """
    top = path if path.is_dir() else path.parent
    files = sorted(path.rglob("[!.]*.xml")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no XML files")
    pages, others = [], []
    for file in files:
        root = read_xml(file)
        read = _READERS.get(_tag(root))
        if read is None:
            others.append(f"{file.relative_to(top)} has <{_tag(root)}>")
        else:
            above = [top] if path.is_dir() and file.parent == top else [file.parent.parent, top]
            image = _image(file, root, [file.parent, *above])
            pages.append((file.relative_to(top), image, list(read(file, root))))
    if not pages:
        found = "; ".join(others[:3])
        raise DataError(f"{path}: the root of no XML is <PcGts> (PAGE) or <alto>: {found}")
    has_folders = len({file.parent for file, _, _ in pages}) > 1
    rows = []
    for file, image, lines in pages:
        group = str(file.parent if has_folders else file)
        for number, line in enumerate(lines):
            place = f"{file}#{line.identity or number}"
            rows.append(Row(place, line.text, group, _opener(image, line, mask), place))
    missing_images(((str(file), image) for file, image, _ in pages), path)
    return ListedSource(rows, origin=path, on_empty=on_empty)


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: Element, tag: str) -> list[Element]:
    return [child for child in element if _tag(child) == tag]


def _all(element: Element, tag: str) -> Iterator[Element]:
    return (child for child in element.iter() if _tag(child) == tag)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _page_lines(file: Path, root: Element) -> Iterator[_Line]:
    for line in _all(root, "TextLine"):
        identity, text = line.get("id", ""), _page_text(line)
        outline = ""
        for coords in _children(line, "Coords")[:1]:
            corners = (f"{point.get('x')},{point.get('y')}" for point in _children(coords, "Point"))  # 2010
            outline = coords.get("points") or " ".join(corners)
        yield _Line(identity, text, _points(file, identity, outline) if text else [])


def _page_text(line: Element) -> str:
    """The line's own text, else that of its words."""
    words = (_reading(word) for word in _children(line, "Word"))
    return _reading(line) or " ".join(word for word in words if word)


def _reading(element: Element) -> str:
    """The first reading that has text: the one of the lowest index, where several are given."""

    def rank(reading: Element) -> float:
        try:
            return int(reading.get("index", "0"))
        except ValueError:
            return float("inf")

    for reading in sorted(_children(element, "TextEquiv"), key=rank):
        for text in _children(reading, "Unicode"):
            if text.text and text.text.strip():
                return _one_line(text.text)
    return ""


def _alto_lines(file: Path, root: Element) -> Iterator[_Line]:
    unit = next((unit.text for unit in _all(root, "MeasurementUnit")), None) or "pixel"
    page_size = None if unit.strip() == "pixel" else _page_size(file, root, unit.strip())
    has_spaces = next(_all(root, "SP"), None) is not None
    for line in _all(root, "TextLine"):
        identity, text = line.get("ID", ""), _alto_text(line, "" if has_spaces else " ")
        points: Points = []
        if text:
            polygons = [p for shape in _children(line, "Shape") for p in _children(shape, "Polygon")]
            outline = polygons[0].get("POINTS", "") if polygons else ""
            points = _points(file, identity, outline) if polygons else _box(file, identity, line)
        yield _Line(identity, text, points, page_size)


def _page_size(file: Path, root: Element, unit: str) -> tuple[float, float]:
    page = next(_all(root, "Page"), root)
    try:
        width, height = float(page.attrib["WIDTH"]), float(page.attrib["HEIGHT"])
        if not (0 < width < float("inf") and 0 < height < float("inf")):
            raise ValueError
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{file}: measured in {unit}, and <Page> has no WIDTH and HEIGHT to scale by: export it in pixels"
        ) from error
    return width, height


def _alto_text(line: Element, between: str) -> str:
    """Words of a line, with its spaces, or with `between` where the file has none."""
    parts: list[str] = []
    for child in line:
        match _tag(child):
            case "String":
                parts += [between, child.get("CONTENT", "")]
            case "SP":
                parts.append(" ")
            case "HYP":
                parts.append(child.get("CONTENT", "-").replace("\u00ad", "-"))
    return _one_line("".join(parts))


def _box(file: Path, identity: str, line: Element) -> Points:
    try:
        x, y, width, height = (
            round(float(line.attrib[name])) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: line {identity!r} has neither a polygon nor a box") from error
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def _points(file: Path, identity: str, text: str) -> Points:
    """Corners from "x,y x,y" or "x y x y"."""
    try:
        numbers = [round(float(number)) for number in text.replace(",", " ").split()]
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file}: line {identity!r} has the outline {text[:60]!r}") from error
    points = list(zip(numbers[0::2], numbers[1::2], strict=False))
    if len(points) < 2 or len(numbers) % 2:
        raise DataError(f"{file}: line {identity!r} has no outline; found {text[:60]!r}")
    return points


_READERS: dict[str, Callable[[Path, Element], Iterator[_Line]]] = {"PcGts": _page_lines, "alto": _alto_lines}


def _opener(image: Path, line: _Line, mask: bool) -> CropOpener:
    points = line.points or [(0, 0)]
    x, y = [x for x, _ in points], [y for _, y in points]
    box = (min(x), min(y), max(x) + 1, max(y) + 1)
    is_box = len(points) == 4 and len(set(x)) == len(set(y)) == 2
    polygon = tuple(points) if mask and len(points) > 2 and not is_box else ()
    return CropOpener(str(image), box, polygon, line.page_size)


def _image(file: Path, root: Element, folders: list[Path]) -> Path:
    """The page's image: the one that is named, with or without its folders, else the one of the same stem."""
    names = [page.get("imageFilename", "") for page in _all(root, "Page")]
    names += [name.text or "" for name in _all(root, "fileName")]
    names = [name.strip().replace("\\", "/") for name in names if name.strip()]
    tried = [name for full in names for name in (full, full.rpartition("/")[2])]
    for name in (*tried, *(f"{file.stem}{suffix}" for suffix in IMAGE_SUFFIXES)):
        for folder in folders:
            if os.path.isfile(folder / name):
                return folder / name
    return file.parent / (tried[1] if tried else f"{file.stem}.png")
