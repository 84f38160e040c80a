import os
from pathlib import Path

import pytest

from trocr.atomic_write import write_files


def test_files_have_the_usual_permissions_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_files(tmp_path / "new" / "folder", {"a.json": b"1", "b.txt": b"2"})
    folder = tmp_path / "new" / "folder"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.json": b"1", "b.txt": b"2"}
    assert os.stat(folder / "a.json").st_mode == os.stat(tmp_path / "plain").st_mode


def test_a_failure_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(b"old")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if content == b"2":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_files(tmp_path, {"a.json": b"1", "b.txt": b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"old"}
