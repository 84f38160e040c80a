"""Names of the parts of a data set: a validation part is "val" here and "valid" or "validation" there.

Source: the names that IAM's split files, Laia's lists and unilm's gt_*.txt have.
"""

_SPELLINGS = (("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing"))


def spellings(part: str) -> tuple[str, ...]:
    """Give the names of a part, the one that was asked for first."""
    same: tuple[str, ...] = next((names for names in _SPELLINGS if part in names), ())
    return (part, *(name for name in same if name != part))


def is_part(name: str) -> bool:
    """Whether a name is one of a part: lines of several such must not be mixed."""
    return any(name in names for names in _SPELLINGS)
