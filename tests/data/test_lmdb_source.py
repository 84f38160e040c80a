import os
import pickle
import sys

import numpy as np
import pytest
from made import Lines

from trocr.data.lmdb_source import open_lmdb, write_lmdb
from trocr.data.records import DataError
from trocr.data.sources import open_source
from trocr.image_array import ImageError

lmdb = pytest.importorskip("lmdb")

LINES = Lines(("w/a.png", "One né", "w"), ("w/b.png", "two  ", "w"), ("c.png", "three"))


def test_lmdb_gives_back_texts_and_images(tmp_path):
    write_lmdb(LINES, tmp_path)
    source = open_source(tmp_path)
    found = [(r.text, np.asarray(r.open()).tolist()) for r in source]
    assert found == [(r.text, np.asarray(r.open()).tolist()) for r in LINES]
    again = pickle.loads(pickle.dumps(source))
    assert again[2].text == "three"
    assert again[2].name == "image-000000003"
    assert len(pickle.dumps(again[2])) < 500
    with pytest.raises(IndexError):
        source[3]


def changed(folder, **values):
    """A database with keys of other values, or (None) without them."""
    write_lmdb(LINES, folder)
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            name = key.replace("_", "-").encode()
            transaction.delete(name) if value is None else transaction.put(name, value)
    return folder


def test_lmdb_that_lacks_keys(tmp_path):
    source = open_lmdb(changed(tmp_path / "a", image_000000003=None))
    with pytest.raises(ImageError, match="image-000000003 is missing"):
        source[2].open()
    with pytest.raises(DataError, match="no key num-samples"):
        open_lmdb(changed(tmp_path / "b", num_samples=None))


def test_all_labels_are_looked_at_first(tmp_path):
    bad = {"label_000000001": None, "label_000000002": b"\xe9", "label_000000003": b"a\tb"}
    with pytest.raises(
        DataError,
        match=r"3 labels are not one line of UTF-8: .*1 is missing; .*2 is not UTF-8; .*3 has a tab",
    ):
        open_source(changed(tmp_path / "a", **bad))
    folder = changed(tmp_path / "b", label_000000002=b" ")
    with pytest.raises(DataError, match=r"1 labels have no text: label-000000002. .* --skip-empty"):
        open_source(folder)
    source = pickle.loads(pickle.dumps(open_source(folder, on_empty="skip")))
    assert [(r.name, r.text) for r in source] == [("image-000000001", "One né"), ("image-000000003", "three")]
    assert source.num_empty == 1


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_lmdb_that_is_cut_short(tmp_path, share):
    """Reading behind the end of such a file would end the process by a signal."""
    write_lmdb(Lines(*((f"{i}", f"line {i}") for i in range(40))), tmp_path)
    file = tmp_path / "data.mdb"
    whole = file.stat().st_size
    os.truncate(file, int(whole * share))
    with pytest.raises(DataError, match=rf"cut short: \d+ of {whole} bytes; copy it again"):
        open_source(tmp_path)


def test_lmdb_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "data.mdb").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="not an LMDB that can be read"):
        open_source(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'trocr\[data\]'"):
        open_source(tmp_path)
