"""Texts that a vocabulary is measured on, cut for or trained on.

Source: original work; tokens per character is the fertility of arXiv:2012.15613 counted without word
boundaries, which many scripts do not write.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from trocr.surgery.patterns import SurgeryError
from trocr.tokenizers import TokenizerError
from trocr.tokenizers.editing import Editor

Corpus = str | PathLike[str] | Iterable[str | PathLike[str]]
"""The path of a UTF-8 file with one text a line; or texts, among which a `Path` stands for a file of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a tokenizer writes a corpus.

    Attributes:
        fertility: tokens per character.
        unknown_rate: share of tokens that are unknown; a byte that no token has counts as one.
        changed_rate: share of texts that are another text when they are read from their tokens.
    """

    fertility: float
    unknown_rate: float
    changed_rate: float


def read_corpus(corpus: Corpus) -> list[str]:
    """Texts of a corpus; empty ones are left out.

    Raises:
        SurgeryError: a file cannot be read, something is no text, or there is no text.
    """
    parts: Iterable[str | PathLike[str]]
    parts = [Path(corpus)] if isinstance(corpus, str | PathLike) else corpus
    if not isinstance(parts, Iterable):
        raise SurgeryError(f"the corpus is {corpus!r}, expected the path of a text file, or a list of texts")
    texts: list[str] = []
    for part in parts:
        if isinstance(part, PathLike):
            texts += _lines(Path(part))
        elif isinstance(part, str):
            texts.append(part)
        else:
            raise SurgeryError(f"the corpus holds {part!r}, expected texts (strings), or paths of text files")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise SurgeryError("the corpus has no text; give a file with one text a line, or a list of texts")
    for text in texts:
        expect_unicode(text, "the corpus")
    return texts


def expect_unicode(text: str, where: str) -> None:
    """Check that a text can be written.

    Raises:
        SurgeryError: it has a lone surrogate, which is no character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SurgeryError(
            f"{where}: {text[error.start]!r} at {error.start} is a lone surrogate, which is no Unicode "
            "character; clean the text first: text.encode('utf-8', 'replace').decode()"
        ) from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SurgeryError(
            f"{path}: byte {error.start} is no UTF-8 text; save the corpus as UTF-8, one text a line"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: no path at all
        raise SurgeryError(
            f"{str(path)[:200]}: the corpus cannot be read ({getattr(error, 'strerror', None) or error}); "
            "expected a UTF-8 file with one text a line"
        ) from error


def measure(editor: Editor, texts: Sequence[str]) -> Measured:
    """Write a corpus with a tokenizer and count.

    Raises:
        SurgeryError: a text that is no Unicode text.
    """
    unknown_id = editor.tokenizer.unk_token_id
    tokens = unknown = lost = changed = 0
    for text in texts:
        try:
            ids = editor.ids(text)
        except TokenizerError as error:
            raise SurgeryError(f"the corpus: {error}") from error
        tokens += len(ids)
        unknown += ids.count(unknown_id) if unknown_id is not None else 0
        lost += editor.num_lost(text)
        changed += editor.tokenizer.decode(ids) != text
    return Measured(
        fertility=tokens / sum(map(len, texts)),
        unknown_rate=(unknown + lost) / max(tokens + lost, 1),
        changed_rate=changed / len(texts),
    )


def compared(before: Editor, after: Editor, texts: Sequence[str] | None) -> dict[str, float]:
    """Numbers of a report: the measures of two tokenizers on a corpus; none without one."""
    if texts is None:
        return {}
    old, new = measure(before, texts), measure(after, texts)
    return {
        "fertility_before": old.fertility,
        "fertility_after": new.fertility,
        "unknown_rate_before": old.unknown_rate,
        "unknown_rate_after": new.unknown_rate,
        "changed_rate_before": old.changed_rate,
        "changed_rate_after": new.changed_rate,
    }
