"""What a command says while it works: messages and a progress bar on standard error, results elsewhere.

Source: original work.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from tqdm import tqdm

HANDFUL = 5
"""Things to do up to which there is no progress bar."""


class OutputError(OSError):
    """A file cannot be written where the user wants it."""


class Console:
    """Standard error.

    Attributes:
        failed: whether anything went wrong that the exit status must tell.
    """

    def __init__(self) -> None:
        self.failed = False
        self._bar: tqdm[Any] | None = None

    @contextmanager
    def progress(self, total: int | None) -> Iterator[None]:
        """Show a bar on a terminal, for more than a handful of things or (None) an unknown number."""
        if sys.stderr.isatty() and (total is None or total > HANDFUL):
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=" lines", file=sys.stderr, dynamic_ncols=True)
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def advance(self) -> None:
        """Note that one thing is done."""
        if self._bar is not None:
            self._bar.update()

    def aside(self) -> AbstractContextManager[object]:
        """Take the bar away while something is written to the terminal."""
        if self._bar is None:
            return nullcontext()
        aside: AbstractContextManager[object] = self._bar.external_write_mode(file=sys.stderr)
        return aside

    def say(self, message: str) -> None:
        """Write a line."""
        with self.aside():
            click.echo(to_bytes(message), err=True)

    def fail(self, message: str) -> None:
        """Write a line about something that could not be done."""
        self.failed = True
        self.say(message)


def to_bytes(text: str) -> bytes:
    """UTF-8, with what cannot be, such as a file name that is not Unicode, escaped."""
    return text.encode("utf-8", "backslashreplace")


def check_outputs(*paths: str | None) -> None:
    """Find out before the work whether files can be written after it.

    Args:
        paths: None is no file.
    Raises:
        OutputError: one cannot be written there.
    """
    for path in filter(None, paths):
        target = os.path.realpath(path)
        folder = os.path.dirname(target)
        if os.path.isdir(target):
            raise OutputError(f"{path}: is a folder, expected a file to write; give another file")
        if not os.path.isdir(folder):
            raise OutputError(
                f"{path}: there is no folder {os.path.dirname(path)}; make it, or give another file"
            )
        if not os.access(target if os.path.exists(target) else folder, os.W_OK):
            raise OutputError(f"{path}: cannot be written (Permission denied); give another file")


@contextmanager
def open_output(path: str | None) -> Iterator[BinaryIO | None]:
    """Open a file that appears under its name only once all of it is written, for `click.echo`.

    Args:
        path: None is standard output.
    Yields:
        The file, or None for standard output.
    Raises:
        OutputError: the file cannot be written there.
    """
    if path is None:
        yield None
        return
    target = os.path.realpath(path)
    special = os.path.exists(target) and not os.path.isfile(target)  # a pipe, /dev/null
    part = target if special else f"{target}.{os.getpid()}.part"
    try:
        file = open(part, "wb")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another file") from error
    try:
        with file:
            yield file
        if not special:
            os.replace(part, target)
    finally:
        if not special and os.path.exists(part):
            os.unlink(part)
