"""What a message says about a name that does not exist: the nearest one that does.

Source: original work; likeness is `difflib`'s.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """Give the end of a message: the known name that is most like a given one.

    Args:
        name: what was given.
        known: names that there are.
        otherwise: the end where none is like it; None lists all of them.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f", expected one of {', '.join(names)}" if names else ", it takes none"
