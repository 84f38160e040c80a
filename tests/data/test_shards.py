import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from made import Lines, write_images

from trocr.data.packing import write_shards
from trocr.data.records import DataError
from trocr.data.shards import open_shards, stream_shards
from trocr.data.sources import open_source
from trocr.image_array import ImageError

LINES = Lines(("w/a.png", "One né", "w"), ("w/b.png", "two  ", "w"), ("c.png", "three"))


def rows(source):
    return [(r.name, r.text, r.group, np.asarray(r.open()).tolist()) for r in source]


def test_shards_give_back_what_was_packed(tmp_path):
    packed = write_shards(LINES, tmp_path, lines_per_shard=2)
    assert packed.num_lines == 3
    assert [file.name for file in packed.files] == ["lines-00000.tar", "lines-00001.tar"]
    assert rows(open_source(tmp_path)) == rows(LINES)
    assert rows(stream_shards(packed.files)) == rows(LINES)
    parts = [rows(stream_shards(packed.files, part=part, parts=2)) for part in (0, 1)]
    assert parts[0] + parts[1] == rows(LINES)
    assert rows(pickle.loads(pickle.dumps(open_shards(tmp_path)))) == rows(LINES)
    assert len(open_shards(f"{tmp_path}/lines-*.tar")) == 3
    assert len(open_shards(f"{tmp_path}/lines-{{00000..00001}}.tar")) == 3
    assert len(open_source(packed.files[0])) == 2


def test_a_pipe_can_be_streamed(tmp_path):
    packed = write_shards(LINES, tmp_path)
    read, write = os.pipe()
    if os.fork() == 0:  # pragma: no cover
        os.close(read)
        with os.fdopen(write, "wb") as file:
            file.write(packed.files[0].read_bytes())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert rows(stream_shards([file])) == rows(LINES)


def test_the_same_lines_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_shards(LINES, tmp_path / name)
    first, second = (next((tmp_path / name).glob("*.tar")).read_bytes() for name in "ab")
    assert first == second


def test_files_are_packed_as_they_are(tmp_path):
    write_images(tmp_path / "src", ["a.jpg", "b.png"])
    (tmp_path / "src/labels.tsv").write_text("a.jpg\tone\nb.png\ttwo\n")
    write_shards(open_source(tmp_path / "src"), tmp_path / "dst")
    with tarfile.open(next((tmp_path / "dst").glob("*.tar"))) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    assert content["000000000.jpg"] == (tmp_path / "src/a.jpg").read_bytes()
    assert content["000000001.png"] == (tmp_path / "src/b.png").read_bytes()


def shard(folder, **files):
    path = folder / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


PNG = io.BytesIO()
Lines(("a", "a"))[0].open().save(PNG, "PNG")
PNG = PNG.getvalue()


def test_shards_of_others(tmp_path):
    path = shard(
        tmp_path,
        a__png=PNG,
        a__txt="né\n".encode(),
        b__json=json.dumps({"text": "two"}).encode(),
        b__extra__png=b"-",
        b__png=PNG,
    )
    assert [(r.name, r.text, r.group) for r in open_shards(path)] == [("a", "né", None), ("b", "two", None)]


def test_keys_with_dots_after_the_first(tmp_path):
    path = shard(
        tmp_path,
        p__1__png=PNG,
        p__1__txt=b"one",
        p__2__png=PNG,
        p__2__json=b'{"label": "two", "cls": 3}',
        q__png=PNG,
        q__gt__txt="\ufeffthree".encode(),
    )
    assert [(r.name, r.text) for r in open_shards(path)] == [("p.1", "one"), ("p.2", "two"), ("q", "three")]


def test_files_that_are_no_lines(tmp_path):
    path = shard(tmp_path, README=b"hi", ___a__png=b"\0\5", a__png=PNG, a__txt=b"x", index__json=b'{"n": 1}')
    with tarfile.open(path) as tar:
        assert "._a.png" in tar.getnames()
    assert [r.name for r in open_shards(path)] == ["a"]
    assert [r.name for r in stream_shards([path])] == ["a"]


def test_shards_that_number_their_lines_alike(tmp_path):
    for name in ("one", "two"):
        shard(tmp_path, a__png=PNG, a__txt=name.encode()).rename(tmp_path / f"{name}.tar")
    shard(tmp_path, b__png=PNG, b__txt=b"three")
    source = open_source(tmp_path)
    assert [(r.name, r.text) for r in source] == [("one/a", "one"), ("b", "three"), ("two/a", "two")]
    shard(tmp_path, a__png=PNG, a__txt=b"x", b__png=PNG, b__txt=b"x", A__png=PNG)
    with pytest.raises(DataError, match="A has no text"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__txt": b"x"}, "a has no image"),
        ({"a__png": PNG}, "a has no text"),
        ({"a__gt__txt": b"x", "a__bin__png": PNG}, "a has no image"),
        ({"a__png": PNG, "a__txt": b"\xe9"}, "the text of a is not UTF-8"),
        ({"a__png": PNG, "a__json": b"{"}, "a.json is no JSON"),
        ({"a__png": PNG, "a__json": b'{"text": 5}'}, "a has no text"),
        ({"README": b"x"}, "no lines"),
        ({}, "no lines"),
    ],
)
def test_mistakes_in_shards(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        open_shards(shard(tmp_path, **files))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"text": "two\\nlines"}', "the text 'two.nlines' has a line's end"),
        (b'{"text": "a\\tb"}', "has a tab"),
        (b'{"text": "\\ud800"}', "has U.D800, which is no character"),
        (b'{"text": " "}', "no text.* --skip-empty"),
    ],
)
def test_texts_that_are_not_a_line(tmp_path, text, message):
    path = shard(tmp_path, a__png=PNG, a__json=text)
    for read in (open_shards, lambda path: list(stream_shards([path]))):
        with pytest.raises(DataError, match=message):
            read(path)


def test_lines_without_text_can_be_skipped(tmp_path):
    path = shard(tmp_path, a__png=PNG, a__txt=b"", b__png=PNG, b__txt=b"x")
    assert [r.name for r in open_shards(path, on_empty="skip")] == ["b"]
    assert [r.name for r in stream_shards([path], on_empty="skip")] == ["b"]


def test_a_shard_that_is_cut_short_anywhere(tmp_path):
    path = shard(tmp_path, a__png=PNG, a__txt=b"x", b__png=PNG, b__txt=b"y")
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    places = [place for member in members for place in (member.offset, member.offset_data)]
    end = places[-1] + 512
    assert content[end : end + 512] == bytes(512)
    for place in (*places[1:], end):
        for length in (place, place + 1, place + 300):
            if length <= end:
                path.write_bytes(content[:length])
                with pytest.raises(DataError, match=r"s.tar: (cut short|damaged|not a tar)"):
                    open_shards(path)
                with pytest.raises(DataError, match=r"s.tar: (cut short|damaged|not a tar)"):
                    list(stream_shards([path]))
    path.write_bytes(content[: end + 512])
    assert len(open_shards(path)) == len(list(stream_shards([path]))) == 2
    path.write_bytes(content[: places[4]] + b"x" * 512 + content[places[4] + 512 :])
    with pytest.raises(DataError, match=r"s.tar: damaged or cut short"):
        open_shards(path)
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="not a tar file"):
        open_shards(path)


def test_a_damaged_image_in_a_shard_is_named(tmp_path):
    [record] = open_shards(shard(tmp_path, a__png=b"not an image", a__txt=b"x"))
    with pytest.raises(ImageError, match=r"s.tar:a.png"):
        record.open()


def test_missing_shards(tmp_path):
    with pytest.raises(DataError, match=r"2 shards are missing"):
        open_shards(f"{tmp_path}/x-{{0..1}}.tar")
    with pytest.raises(DataError, match=r"no .tar files"):
        open_shards(tmp_path)
