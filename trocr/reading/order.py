"""Lines in the order of their images, whatever order they are read in.

Source: original work.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from trocr.image import ImageError
from trocr.line import Line
from trocr.reading.images import ReadyImage
from trocr.reading.recognisers import Found

OnError = Callable[[str, ImageError], None]


class LineOrder:
    """Lines in the order of their images, however they are found.

    Args:
        make: makes a line of a source and what was found.
        on_error: see `Reader.read`.
    """

    def __init__(self, make: Callable[[str, Found], Line], on_error: OnError | None) -> None:
        self.found: dict[int, Found] = {}
        self._make, self._on_error = make, on_error
        self._expected: deque[tuple[int, str, Exception | None]] = deque()

    def expect(self, images: Sequence[ReadyImage]) -> None:
        """Note the images to come."""
        for image in images:
            error = image.pixels if isinstance(image.pixels, Exception) else None
            self._expected.append((image.number, image.source, error))

    @property
    def is_blocked(self) -> bool:
        """Whether what ends the reading is among the images expected."""
        return any(error is not None and self._is_last(error) for _, _, error in self._expected)

    def _is_last(self, error: Exception) -> bool:
        return self._on_error is None or not isinstance(error, ImageError)

    def ready(self) -> Iterator[Line]:
        """Give the lines whose turn it is.

        Raises:
            ImageError: it is the turn of an image that cannot be read, and there is no `on_error`.
            Exception: what the iterable of the images has raised, in its turn.
        """
        while self._expected:
            number, source, error = self._expected[0]
            if error is None and number not in self.found:
                return
            self._expected.popleft()
            if error is None:
                yield self._make(source, self.found.pop(number))
            elif self._on_error is not None and isinstance(error, ImageError):
                self._on_error(source, error)
            else:
                raise error
