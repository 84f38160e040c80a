"""Pages with lines in PAGE or ALTO XML, cut into lines.

Source: PAGE (PRImA, 2013-07-15 and later) and ALTO (Library of Congress, versions 2 to 4); namespaces are not
looked at, so all versions are read alike.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from trocr.data.records import DataError
from trocr.data.sources.listed import (
    IMAGE_SUFFIXES,
    CropOpener,
    ListedSource,
    OnEmpty,
    Row,
    missing_images,
)

Points = list[tuple[int, int]]


def open_layout_xml(path: Path, *, mask: bool = True, on_empty: OnEmpty = "skip") -> ListedSource:
    """Open the lines of pages.

    The name is "page.xml#line id", the group the page's file.

    Args:
        path: an XML file, or a folder of them with their images beside them.
        mask: paint what lies outside a line's polygon in the colour of the paper; False keeps the whole box.
        on_empty: what to do with lines without text, of which pages have many; see `ListedSource`.
    Raises:
        DataError: an XML is damaged or of another kind, an image is missing, a line has no outline.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.xml"))
    pages = [file for file in files if file.name not in ("mets.xml", "METS.xml")]
    if not pages:
        raise DataError(f"{path}: no XML files")
    rows, images = [], []
    for file in pages:
        root = _parse(file)
        read = {"PcGts": _page_lines, "alto": _alto_lines}.get(_tag(root))
        if read is None:
            raise DataError(f"{file}: its root is <{_tag(root)}>, expected <PcGts> (PAGE) or <alto>")
        image = _image(file, root)
        images.append((file.name, image))
        relative = file.relative_to(path) if path.is_dir() else Path(file.name)
        for number, (identity, text, points) in enumerate(read(file, root)):
            place = f"{relative}#{identity or number}"
            rows.append(Row(place, text, str(relative), _opener(image, points, mask), place))
    missing_images(images, path)
    return ListedSource(rows, origin=path, on_empty=on_empty)


def _parse(file: Path) -> Element:
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: not well-formed XML ({error})") from error


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: Element, tag: str) -> list[Element]:
    return [child for child in element if _tag(child) == tag]


def _all(element: Element, tag: str) -> Iterator[Element]:
    return (child for child in element.iter() if _tag(child) == tag)


def _page_lines(file: Path, root: Element) -> Iterator[tuple[str, str, Points]]:
    for line in _all(root, "TextLine"):
        identity = line.get("id", "")
        coords = _children(line, "Coords")
        points = _points(file, identity, coords[0].get("points", "") if coords else "")
        yield identity, _page_text(line), points


def _page_text(line: Element) -> str:
    """The line's first reading: the lowest index, where several are given."""
    readings = sorted(_children(line, "TextEquiv"), key=lambda reading: int(reading.get("index", "0")))
    for reading in readings:
        for text in _children(reading, "Unicode"):
            return (text.text or "").strip()
    return ""


def _alto_lines(file: Path, root: Element) -> Iterator[tuple[str, str, Points]]:
    units = next((unit.text for unit in _all(root, "MeasurementUnit")), None) or "pixel"
    if units.strip() != "pixel":
        raise DataError(f"{file}: measured in {units.strip()}, expected pixel: export the page in pixels")
    for line in _all(root, "TextLine"):
        identity = line.get("ID", "")
        polygons = [p for shape in _children(line, "Shape") for p in _children(shape, "Polygon")]
        if polygons:
            points = _points(file, identity, polygons[0].get("POINTS", ""))
        else:
            points = _box(file, identity, line)
        yield identity, _alto_text(line), points


def _alto_text(line: Element) -> str:
    parts = []
    for child in line:
        match _tag(child):
            case "String":
                parts.append(child.get("CONTENT", ""))
            case "SP":
                parts.append(" ")
            case "HYP":
                parts.append(child.get("CONTENT", "-"))
    return "".join(parts).strip()


def _box(file: Path, identity: str, line: Element) -> Points:
    try:
        x, y, width, height = (
            round(float(line.attrib[name])) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{file}: line {identity!r} has neither a polygon nor a box") from error
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def _points(file: Path, identity: str, text: str) -> Points:
    """Corners from "x,y x,y" or "x y x y"."""
    try:
        numbers = [round(float(number)) for number in text.replace(",", " ").split()]
    except ValueError as error:
        raise DataError(f"{file}: line {identity!r} has the outline {text[:60]!r}") from error
    points = list(zip(numbers[0::2], numbers[1::2], strict=False))
    if len(points) < 2 or len(numbers) % 2:
        raise DataError(f"{file}: line {identity!r} has no outline; found {text[:60]!r}")
    return points


def _opener(image: Path, points: Points, mask: bool) -> CropOpener:
    x, y = [x for x, _ in points], [y for _, y in points]
    box = (min(x), min(y), max(x) + 1, max(y) + 1)
    is_box = len(points) == 4 and len(set(x)) == len(set(y)) == 2
    return CropOpener(str(image), box, tuple(points) if mask and len(points) > 2 and not is_box else ())


def _image(file: Path, root: Element) -> Path:
    """The page's image: the named one, else the one of the same stem."""
    names = [page.get("imageFilename", "") for page in _all(root, "Page")]
    names += [name.text or "" for name in _all(root, "fileName")]
    for name in names:
        if name.strip() and (file.parent / Path(name.strip()).name).is_file():
            return file.parent / Path(name.strip()).name
    for suffix in IMAGE_SUFFIXES:
        if file.with_suffix(suffix).is_file():
            return file.with_suffix(suffix)
    named = next((name.strip() for name in names if name.strip()), f"{file.stem}.png")
    return file.parent / Path(named).name
