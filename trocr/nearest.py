"""What a message says about a name that does not exist: the nearest one that does.

Source: original work; likeness is `difflib`'s.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Give the end of a message: the known name that is most like a given one, else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    return f", expected one of {', '.join(names)}" if names else ", it takes none"
