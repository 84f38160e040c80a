"""Everything that can be opened as an image, and what cannot."""

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from trocr import image_input
from trocr.image import ImageError, open_image
from trocr.image_input import MAX_IMAGE_PIXELS, flatten_images


def picture(width: int = 40, height: int = 24) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BOX)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, data: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG file chunk by chunk, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def transparency(*values: int) -> bytes:
    body = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.mode == right.mode == "RGB" and left.size == right.size and left.tobytes() == right.tobytes()


# ---- sources ----


def test_path_bytes_and_file_objects_are_the_same_image(tmp_path: Path) -> None:
    image, path = picture(), tmp_path / "line ü.png"
    image.save(path)
    data = path.read_bytes()
    for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert same(open_image(source), image)
    stream = io.BytesIO()
    image.save(stream, "PNG")  # leaves the position at the end
    assert same(open_image(stream), image)
    with path.open("rb") as opened:
        assert same(open_image(opened), image)
        assert not opened.closed


def test_streams_that_cannot_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    data = encoded(picture())
    assert same(open_image(Pipe(data)), picture())
    monkeypatch.setattr(image_input, "MAX_STREAM_BYTES", 100)
    with pytest.raises(ImageError, match="a stream of over 100 bytes"):
        open_image(Pipe(data))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "PPM"])
def test_formats(file_format: str) -> None:
    data = encoded(picture(), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    assert same(open_image(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert open_image(data).getpixel((0, 0)) == (255, 0, 0)
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    assert open_image(opened).getpixel((0, 0)) == (0, 255, 0)


def test_a_pil_image_is_neither_copied_nor_changed() -> None:
    image = picture()
    assert open_image(image) is image
    lazy = Image.open(io.BytesIO(encoded(picture().convert("P"))))
    open_image(lazy)
    assert lazy.mode == "P"


def test_batches_are_taken_apart_in_order() -> None:
    stack = np.zeros((2, 4, 5, 3), np.uint8)
    found = flatten_images(["a.png", [b"x", (stack, Path("b.png"))]])
    assert [name for name, _ in found] == [f"images[{i}]" for i in range(5)]
    assert found[0][1] == "a.png"
    assert found[2][1].shape == found[3][1].shape == (4, 5, 3)
    assert flatten_images("a.png") == [("", "a.png")]
    for empty in ([], (), [[], []], np.zeros((0, 4, 5, 3))):
        with pytest.raises(ImageError, match="images: none in the batch; expected at least one"):
            flatten_images(empty)


# ---- modes ----


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    image = picture()
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    image = image.convert(mode)
    assert same(open_image(image), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("LA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (0, alpha))
    image = image.convert("RGBA") if mode in ("RGBA", "RGBa") else image
    if mode == "PA":
        image = Image.merge("LA", image.split())
        image.putpalette([0, 0, 0] * 256)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert np.asarray(open_image(image))[0].tolist() == [[255] * 3, [127] * 3, [0] * 3]


def test_transparent_palettes_and_colour_keys() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    for alpha in (1, b"\xff\x00"):  # one transparent entry; an alpha for each entry
        opened = open_image(encoded(image, transparency=alpha))
        assert np.asarray(opened)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    grey = open_image(png(2, 1, data=bytes([0, 5, 9]), extra=transparency(9)))
    assert np.asarray(grey)[0, :, 0].tolist() == [5, 255]
    colour = open_image(png(2, 1, colour=2, data=bytes([0, 1, 2, 3, 4, 5, 6]), extra=transparency(4, 5, 6)))
    assert np.asarray(colour)[0].tolist() == [[1, 2, 3], [255, 255, 255]]
    wide = png(2, 1, depth=16, data=b"\0" + struct.pack(">HH", 0, 4660), extra=transparency(4660))
    assert np.asarray(open_image(wide))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bits_are_scaled_to_8(mode: str) -> None:
    values = np.array([[0, 100, 257, 32896, 65535]], ">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (5, 1), values.tobytes())
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    if mode == "I;16":
        assert same(open_image(encoded(image)), open_image(image))
        assert same(open_image(encoded(image, "TIFF")), open_image(image))


def test_wide_modes_without_a_range() -> None:
    for values, expected in (([0, 99, 255], [0, 99, 255]), ([0, 257, 65535], [0, 1, 255])):
        image = Image.fromarray(np.array([values], np.int32))
        assert image.mode == "I"
        assert np.asarray(open_image(image))[0, :, 0].tolist() == expected
    for values, expected in (([0, 0.5, 1], [0, 127, 255]), ([0, 99.5, 255], [0, 100, 255])):
        image = Image.fromarray(np.array([values], np.float32))
        assert image.mode == "F"
        assert np.asarray(open_image(image))[0, :, 0].tolist() == expected
    with pytest.raises(ImageError, match=r"PIL image F 2x1: values -1..3"):
        open_image(Image.fromarray(np.array([[-1, 3]], np.float32)))
    with pytest.raises(ImageError, match=r"PIL image I 2x1: values 0..70000"):
        open_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


# ---- orientation ----


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured_once(orientation: int, mode: str) -> None:
    stored = picture().convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert same(open_image(data), upright)
    opened = Image.open(io.BytesIO(data))
    assert same(open_image(opened), upright)
    assert same(open_image(opened.convert("RGB")), upright)  # what people hand to a processor
    assert same(open_image(open_image(data)), upright)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "block", [b"garbage", b"MM", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\2\1\x12\0"]
)
def test_damaged_exif_does_not_cost_the_image(block: bytes) -> None:
    image = picture()
    assert same(open_image(encoded(image, exif=b"Exif\0\0" + block)), image)
    assert open_image(encoded(image, "JPEG", exif=b"Exif\0\0" + block)).size == image.size
    image.info["exif"] = block
    assert open_image(image) is image


# ---- what cannot be opened ----


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    cases = {
        tmp_path / "none.png": "none.png: no such file; expected the path .*: check the spelling",
        tmp_path: ": a directory; expected the path of an image file",
        Path("/dev/null"): "/dev/null: not a regular file",
        "https://example.org/a.png": "https://example.org/a.png: a web address; .*download it first",
        "a\0b.png": "cannot be opened|no such file",
        "x" * 5000: "cannot be opened|no such file",
    }
    for source, message in cases.items():
        with pytest.raises(ImageError, match=message):
            open_image(source)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\); expected an image file"),
        (
            b"hello, this is text\n" * 9,
            r"not an image that Pillow [\d.]+ can read \(it starts with b'hello, this is",
        ),
        (b"%PDF-1.7\n" + bytes(500), "not an image .* convert it"),
        (encoded(picture(400, 300))[:2000], "damaged or cut short .*: get the file again"),
        (encoded(picture(400, 300), "JPEG")[:2000], "damaged or cut short .*truncated"),
        (encoded(picture(400, 300), "TIFF")[:2000], "damaged or cut short|not an image"),
        (png(0, 5), "damaged|not an image|0x5 pixels"),
        (png(10, 10, data=b"\0"), "damaged or cut short"),
    ],
)
def test_files_that_hold_no_image(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"bad.png: (.*{message})"):
        open_image(path)
    with pytest.raises(ImageError, match=f"{len(data)} bytes: .*({message})"):
        open_image(data)


def test_truncated_images_opened_by_the_user() -> None:
    lazy = Image.open(io.BytesIO(encoded(picture(400, 300), "JPEG")[:2000]))
    with pytest.raises(ImageError, match="PIL image RGB 400x300: damaged or cut short"):
        open_image(lazy)


@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (20000, 20000), (2**31 - 1, 1)])
def test_huge_images_are_refused_before_they_are_decoded(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=f"expected at most {MAX_IMAGE_PIXELS} pixels: crop it"):
            open_image(png(width, height))
        with pytest.raises(ImageError, match=f"{width}x{height} = |{width * height} pixels"):
            open_image(png(width, height))


def test_sizes_of_pil_images() -> None:
    with pytest.raises(ImageError, match=r"PIL image RGB 0x5: 0x5 pixels \(width x height\); expected"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="8193x8192 = 67117056 pixels"):
        open_image(Image.new("1", (8193, 8192)))


def test_things_that_are_no_images(tmp_path: Path) -> None:
    for source in (None, 5, {"a": 1}, object()):
        with pytest.raises(ImageError, match=f"{type(source).__name__}: not an image; expected a path"):
            open_image(source)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture()))
    with path.open() as text, pytest.raises(ImageError, match=r"a.png'.*: opened as text.*mode 'rb'"):
        open_image(text)
    with path.open("rb") as closed:
        pass
    with pytest.raises(ImageError, match=r"cannot be read .*closed"):
        open_image(closed)


def test_nothing_is_warned_about() -> None:
    big = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 100  # Pillow warns above, and refuses above twice that
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_image(encoded(picture(15, 10))).size == (15, 10)
            with pytest.raises(ImageError, match=r"decompression bomb.*crop it"):
                open_image(encoded(picture(40, 24)))
            open_image(encoded(picture(9, 9).quantize(4), transparency=b"\0\1"))
            open_image(encoded(picture(9, 9), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    finally:
        Image.MAX_IMAGE_PIXELS = big


WHOLE_FILES = [encoded(picture(), name) for name in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_give_an_image_or_one_kind_of_error(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(WHOLE_FILES))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        if position < len(damaged):
            damaged[position] = data.draw(st.integers(0, 255))
    try:
        mode, message = open_image(bytes(damaged)).mode, ""
    except ImageError as error:
        mode, message = "", str(error)
    assert mode == "RGB" or f"{len(damaged)} bytes: " in message


def test_threads_may_open_images_at_once() -> None:
    data, expected, wrong = encoded(picture(), "JPEG"), open_image(encoded(picture(), "JPEG")), []

    def work() -> None:
        wrong.extend(1 for _ in range(50) if not same(open_image(data), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
