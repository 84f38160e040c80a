import errno
import tarfile

import pytest
from click.testing import CliRunner
from made import Lines, image, write_images

from trocr.cli import main
from trocr.data.lmdb_source import write_lmdb
from trocr.data.packing import UNFINISHED, write_shards
from trocr.data.records import DataError
from trocr.data.sources import open_source

LINES = Lines(("a", "a"), ("b", "b"), ("c", "c"))
WRITERS = pytest.mark.parametrize("write", [write_shards, write_lmdb])


def run(*arguments):
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


@WRITERS
def test_packing_names_what_it_leaves_out(tmp_path, write):
    packed = write(Lines(("a", "a"), ("b", "damaged")), tmp_path)
    assert packed.num_lines == 1
    assert packed.skipped == ("b: not an image",)
    assert all(file.is_file() for file in packed.files)
    assert not (tmp_path / UNFINISHED).exists()
    with pytest.raises(DataError, match="already; choose an empty folder"):
        write(LINES, tmp_path)
    with pytest.raises(DataError, match="none of 1 lines can be read: b: not an image"):
        write(Lines(("b", "damaged")), tmp_path / "new")


class Interrupted(Lines):
    def __getitem__(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@WRITERS
def test_interrupted_packing_leaves_nothing(tmp_path, write):
    options = {"lines_per_shard": 1} if write is write_shards else {}
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(*(("x", "x"),) * 3), tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / UNFINISHED).mkdir()  # as a killed process leaves it
    (tmp_path / UNFINISHED / "lines-00000.tar").touch()
    write(LINES, tmp_path)
    assert len(open_source(tmp_path)) == 3


@WRITERS
def test_where_nothing_can_be_written(tmp_path, write, monkeypatch):
    (tmp_path / "file").touch()
    for place in ("file", "file/folder"):
        with pytest.raises(DataError, match=r"file.*: cannot be written \(.*\); name another folder"):
            write(LINES, tmp_path / place)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trocr.data.packing.os.replace", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        write(LINES, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_lmdb_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("trocr.data.lmdb_source.MAP_BYTES", 2**14)
    with pytest.raises(DataError, match=r"cannot be written \(.*MDB_MAP_FULL"):
        write_lmdb(Lines(*((str(i), "x" * 300) for i in range(100))), tmp_path)


def test_image_files_are_packed_as_they_are_from_any_format(tmp_path):
    (tmp_path / "src").mkdir()
    image().save(tmp_path / "src/a.jpg", quality=60)
    image().save(tmp_path / "src/b.bmp")
    (tmp_path / "src/labels.tsv").write_text("a.jpg\tone\nb.bmp\ttwo\n")
    content = (tmp_path / "src/a.jpg").read_bytes()
    write_shards(open_source(tmp_path / "src"), tmp_path / "1")
    write_lmdb(open_source(tmp_path / "1"), tmp_path / "2")
    packed = write_shards(open_source(tmp_path / "2"), tmp_path / "3")
    with tarfile.open(packed.files[0]) as tar:
        names = tar.getnames()
        assert tar.extractfile(names[0]).read() == content
    assert names == ["000000000.jpg", "000000000.json", "000000001.png", "000000001.json"]


def test_pack_command(tmp_path):
    write_images(tmp_path / "src", ["a.png", "b.png"])
    (tmp_path / "src/labels.tsv").write_text("a.png\tone\nb.png\ttwo\n")
    for form in ("tar", "lmdb"):
        target = tmp_path / form
        done = run("pack", tmp_path / "src", target, "--format", form)
        assert done.exit_code == 0, done.output
        assert "2 lines in " in done.output
        assert [r.text for r in open_source(target)] == ["one", "two"]
    (tmp_path / "src/b.png").write_bytes(b"-")
    done = run("pack", tmp_path / "src", tmp_path / "new")
    assert done.exit_code == 1
    assert "b.png" in done.output
    done = run("pack", tmp_path / "src", tmp_path / "src")
    assert done.exit_code == 2
    assert "is SRC itself" in done.output


def test_lines_without_text_can_be_left_out(tmp_path):
    write_images(tmp_path / "src", ["a.png", "b.png"])
    (tmp_path / "src/labels.tsv").write_text("a.png\t\nb.png\ttwo\n")
    done = run("pack", tmp_path / "src", tmp_path / "new")
    assert done.exit_code == 1
    assert "trocr data pack SRC DST --skip-empty" in done.output
    done = run("pack", tmp_path / "src", tmp_path / "new", "--skip-empty")
    assert done.exit_code == 0, done.output
    assert [r.text for r in open_source(tmp_path / "new")] == ["two"]
    done = run("inspect", tmp_path / "src", "--skip-empty")
    assert "no text     1, left out" in done.output
