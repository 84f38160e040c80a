"""What can go wrong with exported models.

Source: original work.
"""


class ExportError(ValueError):
    """A model cannot be exported, or what was exported does not read as the model does."""


class ExportedModelError(ValueError):
    """An exported model cannot be used: files missing or damaged, another version, or another request."""


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "")
