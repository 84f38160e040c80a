"""Files that are either the old ones or the new ones, whatever happens while they are written.

Source: original work.
"""

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(directory: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write files so that each is either the old one or the new one, whatever happens.

    All contents are on disk under other names before the first file is replaced.

    Args:
        directory: made where it is missing.
        files: name -> content.
    Raises:
        OSError: a file cannot be written; those in the directory are whole then.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / f".{name}.{os.getpid()}.tmp": folder / name for name in files}
    try:
        for temporary, content in zip(written, files.values(), strict=True):
            temporary.write_bytes(content)
        for temporary, path in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
