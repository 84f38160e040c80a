"""Smaller batches where memory does not suffice.

Source: original work.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_SIGNS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "failed to allocate"),
    *("could not create a memory", "could not create a primitive", "could not execute a primitive"),  # oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that there was no memory, by its kind or, as PyTorch's on CPUs, its text."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


class Room:
    """How many lines go together: fewer, and for good, after an attempt for which there was no memory.

    Args:
        most: to begin with.
        doing: what is done with them, for the warning: "read", "decode" ...

    Attributes:
        most: lines that go together from now on.
    """

    def __init__(self, most: int, doing: str) -> None:
        self.most = most
        self.doing = doing
        self._refused: int | None = None

    def shrink(self, error: BaseException, tried: int) -> None:
        """Halve what was tried.

        Args:
            error: why it failed; raised again where it has another reason than memory, or one line alone is
                too much.
            tried: lines that were too many.
        """
        if not is_out_of_memory(error) or tried < 2:
            raise error
        self._refused = max(tried, self._refused or 0)
        self.most = tried // 2

    def confirm(self) -> None:
        """Say once, after the first attempt that succeeds, how many lines go together now.

        Warns:
            RuntimeWarning: fewer than were asked for.
        """
        if self._refused is not None:
            warnings.warn(
                f"no memory to {self.doing} {self._refused} lines together; from now on {self.most} at a "
                "time. A smaller batch_size avoids the attempt",
                RuntimeWarning,
                stacklevel=5,
            )
            self._refused = None


def in_parts(
    work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], room: Room
) -> Iterator[list[Result]]:
    """Do some work on items, as many together as memory allows, in order.

    Args:
        work: gives one result for each item.
        items: any number.
        room: how many go together; it is made smaller where memory does not suffice.
    Raises:
        MemoryError: one item alone is too much; or whatever the platform raises instead.
    Warns:
        RuntimeWarning: see `Room.confirm`.
    """
    done = 0
    while done < len(items):
        part = items[done : done + room.most]
        try:
            results = work(part)
        except (MemoryError, RuntimeError) as error:
            room.shrink(error, len(part))
            results = None
        if results is None:
            release()
            continue
        room.confirm()
        yield results
        done += len(part)


def release() -> None:
    """Give back what an attempt that failed still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
