"""Texts made comparable: Unicode form, case, punctuation, spaces.

Source: original work; every step that a convention takes is one of these.
"""

import string
import unicodedata
from dataclasses import dataclass
from typing import Literal

from trocr.evaluation.distance import EvaluationError

FORMS = ("none", "NFC", "NFD", "NFKC", "NFKD")
SPACES = ("keep", "strip", "collapse", "drop")

_ALPHANUMERIC = set(string.digits + string.ascii_lowercase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What is done to targets and readings alike before they are compared; nothing unless asked for.

    Attributes:
        form: Unicode normalisation form, or "none".
        ignore_case: fold upper and lower case.
        ignore_punctuation: leave out characters of Unicode's punctuation classes.
        spaces: "keep", "strip" those at the ends, "collapse" runs into one too, or "drop" all.
    """

    form: Literal["none", "NFC", "NFD", "NFKC", "NFKD"] = "none"
    ignore_case: bool = False
    ignore_punctuation: bool = False
    spaces: Literal["keep", "strip", "collapse", "drop"] = "keep"

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            EvaluationError: one does not exist.
        """
        for name, known in (("form", FORMS), ("spaces", SPACES)):
            if getattr(self, name) not in known:
                raise EvaluationError(f"{name}={getattr(self, name)!r}, expected one of {', '.join(known)}")

    def __call__(self, text: str) -> str:
        """Normalise a text; line ends on the right go in any case."""
        text = text.rstrip("\r\n")
        text = self._formed(text)
        if self.ignore_case:
            text = self._formed(text.casefold())  # folding can take a composed letter apart
        if self.ignore_punctuation:
            text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        match self.spaces:
            case "strip":
                return text.strip()
            case "collapse":
                return " ".join(text.split())
            case "drop":
                return "".join(text.split())
        return text

    def _formed(self, text: str) -> str:
        return text if self.form == "none" else unicodedata.normalize(self.form, text)


def alphanumeric(text: str) -> str:
    """Lower case, and only 0-9 and a-z of it: the 36 characters of scene-text benchmarks."""
    return "".join(character for character in text.lower() if character in _ALPHANUMERIC)
