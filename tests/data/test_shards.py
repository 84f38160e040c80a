import io
import json
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from made import Lines, write_images

from trocr.cli import main
from trocr.data.lmdb_source import open_lmdb, write_lmdb
from trocr.data.records import DataError
from trocr.data.shards import open_shards, stream_shards, write_shards
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


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__txt": b"x"}, "a has no image"),
        ({"a__png": PNG}, "a has no text"),
        ({"a__png": PNG, "a__txt": b"\xe9"}, "the text of a is not UTF-8"),
        ({"a__png": PNG, "a__json": b"{"}, "a.json is no JSON"),
        ({}, "no lines"),
    ],
)
def test_mistakes_in_shards(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        open_shards(shard(tmp_path, **files))


def test_a_shard_that_is_cut_short(tmp_path):
    path = shard(tmp_path, a__txt=b"x", a__png=PNG * 40)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"s.tar: (cut short|damaged)"):
        open_shards(path)
    with pytest.raises(DataError, match=r"s.tar: (cut short|damaged)"):
        list(stream_shards([path]))
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


@pytest.mark.parametrize("write", [write_shards, write_lmdb])
def test_packing_names_what_it_leaves_out(tmp_path, write):
    packed = write(Lines(("a", "a"), ("b", "damaged")), tmp_path)
    assert packed.num_lines == 1
    assert packed.skipped == ("b: not an image",)
    with pytest.raises(DataError, match="already; choose an empty folder"):
        write(LINES, tmp_path)
    with pytest.raises(DataError, match="none of 1 lines can be read: b: not an image"):
        write(Lines(("b", "damaged")), tmp_path / "new")


def test_lmdb_gives_back_texts_and_images(tmp_path):
    write_lmdb(LINES, tmp_path)
    source = open_source(tmp_path)
    assert [(r.text, np.asarray(r.open()).tolist()) for r in source] == [(r[1], r[3]) for r in rows(LINES)]
    again = pickle.loads(pickle.dumps(source))
    assert again[2].text == "three"
    assert again[2].name == "image-000000003"
    with pytest.raises(IndexError):
        source[3]


def without(folder, *keys):
    lmdb = pytest.importorskip("lmdb")
    write_lmdb(LINES, folder)
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.delete(key)
    return folder


def test_lmdb_that_lacks_keys(tmp_path):
    source = open_lmdb(without(tmp_path / "a", b"label-000000002", b"image-000000003"))
    with pytest.raises(DataError, match="label-000000002 is missing"):
        source[1]
    with pytest.raises(ImageError, match="image-000000003 is missing"):
        source[2].open()
    with pytest.raises(DataError, match="no key num-samples"):
        open_lmdb(without(tmp_path / "b", b"num-samples"))


def test_lmdb_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "data.mdb").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="not an LMDB that can be read"):
        open_source(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'trocr\[data\]'"):
        open_source(tmp_path)


def test_pack_command(tmp_path):
    write_images(tmp_path / "src", ["a.png", "b.png"])
    (tmp_path / "src/labels.tsv").write_text("a.png\tone\nb.png\ttwo\n")
    for form in ("tar", "lmdb"):
        target = str(tmp_path / form)
        done = CliRunner().invoke(main, ["data", "pack", str(tmp_path / "src"), target, "--format", form])
        assert done.exit_code == 0, done.output
        assert "2 lines in " in done.output
        assert [r.text for r in open_source(target)] == ["one", "two"]
    (tmp_path / "src/b.png").write_bytes(b"-")
    done = CliRunner().invoke(main, ["data", "pack", str(tmp_path / "src"), str(tmp_path / "new")])
    assert done.exit_code == 1
    assert "b.png" in done.output
