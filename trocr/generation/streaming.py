"""Handing out tokens while they are generated.

Source: `transformers` 5.23, `generation/streamers.py`, for the two methods of a streamer.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

TokenCallback = Callable[[Tensor], object]
"""Called with the newest token (R,) of every row, on the CPU."""


@runtime_checkable
class Streamer(Protocol):
    """An object as `transformers` has them: `TextStreamer` for instance."""

    def put(self, value: Tensor) -> object:
        """Take the rows' start (R, T) first, then the newest tokens (R,) step by step, on the CPU."""

    def end(self) -> object:
        """Learn that nothing more comes."""


class Outlet:
    """Feeds a streamer or a callback, or nothing.

    Args:
        target: where tokens go.
    """

    def __init__(self, target: Streamer | TokenCallback | None) -> None:
        self.target = target

    def start(self, ids: Tensor) -> None:
        """Hand the rows' start (R, T) to a streamer; a callback gets new tokens only."""
        if isinstance(self.target, Streamer):
            self.target.put(ids.cpu())

    def put(self, tokens: Tensor) -> None:
        """Hand out the newest token (R,) of every row."""
        if isinstance(self.target, Streamer):
            self.target.put(tokens.cpu())
        elif self.target is not None:
            self.target(tokens.cpu())

    def end(self) -> None:
        """Say that nothing more comes."""
        if isinstance(self.target, Streamer):
            self.target.end()
