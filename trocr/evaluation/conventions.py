"""The ways in which papers and tools score readings, each by its name.

Rates are 0..1 (error rates can pass 1), not percent.

Source: each convention names its own; docs/evaluation.md has them in one table.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trocr.evaluation.characters import script
from trocr.evaluation.distance import EvaluationError, confusions, count_edits, distance, total
from trocr.evaluation.texts import alphanumeric
from trocr.tokenizers import Tokenizer

Scores = dict[str, float]

_SPACES = re.compile(r"\s\s+")


class UnfitError(EvaluationError):
    """A convention needs what these lines, or this machine, lack; others can score them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A line's target and reading.

    Attributes:
        target: what it says.
        reading: what was read.
        group: its receipt, page or writer, or None.
    """

    target: str
    reading: str
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Convention:
    """A way of scoring.

    Attributes:
        score: from all pairs to named numbers.
        summary: what it does, in a line, with its source.
    """

    score: Callable[[Sequence[Pair]], Scores]
    summary: str


def _micro(pairs: Sequence[Pair], cut: Callable[[str], Sequence[object]]) -> float:
    return total(count_edits(cut(p.target), cut(p.reading)) for p in pairs).rate


def _collapsed(text: str) -> str:
    """jiwer's RemoveMultipleSpaces and Strip: a single tab or no-break space stays what it is."""
    return _SPACES.sub(" ", text).strip()


def _jiwer_words(text: str) -> list[str]:
    """jiwer's words: after the same, between spaces only."""
    return [word for word in _collapsed(text).split(" ") if word]


def _pieces(text: str) -> list[str]:
    """fastwer's words, those of C++'s getline: a double space gives an empty word, a last one none."""
    pieces = text.split(" ")
    return pieces if pieces[-1] else pieces[:-1]


def _raw(pairs: Sequence[Pair]) -> Scores:
    return {"cer": _micro(pairs, list), "wer": _micro(pairs, str.split)}


def _bytes(text: str) -> Sequence[int]:
    return list(text.encode("utf-8", "surrogatepass"))  # labels can be broken


def _unilm_bytes(pairs: Sequence[Pair]) -> Scores:
    return {"cer": _micro(pairs, _bytes), "wer": _micro(pairs, _pieces)}


def _evaluate_old(pairs: Sequence[Pair]) -> Scores:
    return {"cer": _micro(pairs, lambda t: list(_collapsed(t))), "wer": _micro(pairs, _jiwer_words)}


def _evaluate_new(pairs: Sequence[Pair]) -> Scores:
    return {"cer": _micro(pairs, lambda t: list(t.strip())), "wer": _micro(pairs, _jiwer_words)}


def _hf_notebook(pairs: Sequence[Pair]) -> Scores:
    return {"cer": _micro(pairs, lambda t: list(_collapsed(Tokenizer.clean_up_tokenization(t))))}


def _macro(pairs: Sequence[Pair]) -> Scores:
    scored = [count_edits(p.target, p.reading).rate for p in pairs if p.target]
    if not scored:
        raise EvaluationError("macro: the targets hold no text")
    return {"cer": sum(scored) / len(scored)}


def _words(pairs: Sequence[Pair]) -> tuple[int, int, int]:
    """Words that match (each occurrence once, in any order), words read, words there."""
    read = Counter(word for pair in pairs for word in pair.reading.split())
    there = Counter(word for pair in pairs for word in pair.target.split())
    return (read & there).total(), read.total(), there.total()


def _word_f1(pools: Sequence[Sequence[Pair]]) -> Scores:
    matched, read, there = (sum(counts) for counts in zip(*map(_words, pools), strict=True))
    precision = matched / read if read else 0.0
    recall = matched / there if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _sroie_line(pairs: Sequence[Pair]) -> Scores:
    return _word_f1([[pair] for pair in pairs])


def _sroie_image(pairs: Sequence[Pair]) -> Scores:
    pools: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.group is None:
            raise UnfitError(
                "sroie-image pools the words of a receipt, and these lines have no group: open SROIE in its "
                "own layout, or give labels.tsv a third column with the receipt"
            )
        pools[pair.group].append(pair)
    return _word_f1(list(pools.values()))


def _share(pairs: Sequence[Pair], key: Callable[[str], str]) -> float:
    return sum(key(p.target) == key(p.reading) for p in pairs) / len(pairs)


def _wpa(pairs: Sequence[Pair]) -> Scores:
    return {"accuracy": _share(pairs, alphanumeric)}


def _one_ned(pairs: Sequence[Pair], key: Callable[[str], str] = str) -> float:
    """Mean over lines of one minus the distance by the longer text's length; two empty texts are alike."""
    scores = []
    for pair in pairs:
        target, reading = key(pair.target), key(pair.reading)
        longest = max(len(target), len(reading))
        scores.append(1 - distance(target, reading) / longest if longest else 1.0)
    return sum(scores) / len(scores)


def _acc_ed(pairs: Sequence[Pair]) -> Scores:
    edits = sum(distance(p.target, p.reading) for p in pairs)
    return {"accuracy": _share(pairs, str), "edits_per_line": edits / len(pairs)}


def _ascii_alphanumeric(text: str) -> str:
    plain = unicodedata.normalize("NFKD", "".join(text.split())).encode("ascii", "ignore").decode()
    return alphanumeric(plain)


def _parseq(pairs: Sequence[Pair]) -> Scores:
    """Accents go; lines whose label is empty then are left out.

    Readings are treated alike: PARSeq's own, in ASCII, are not changed by it.
    """
    made = [Pair(target=_ascii_alphanumeric(p.target), reading=_ascii_alphanumeric(p.reading)) for p in pairs]
    kept = [pair for pair in made if pair.target]
    if not kept:
        raise UnfitError("parseq compares 0-9 and a-z, and no target holds any of them")
    return {"accuracy": _share(kept, str), "1-ned": _one_ned(kept)}


def _anyascii(text: str) -> str:
    try:
        from anyascii import anyascii
    except ImportError as error:
        raise UnfitError("doctr compares in ASCII too: pip install 'trocr[evaluate]'") from error
    return str(anyascii(text))


def _doctr(pairs: Sequence[Pair]) -> Scores:
    return {
        "raw": _share(pairs, str),
        "caseless": _share(pairs, str.lower),
        "anyascii": _share(pairs, _anyascii),
        "unicase": _share(pairs, lambda text: _anyascii(text).lower()),
    }


def _by_script(pairs: Sequence[Pair]) -> Scores:
    """Share of the targets' characters of each script that were read as they are."""
    there = Counter(script(character) for pair in pairs for character in pair.target)
    wrong = Counter(
        script(wanted) for pair in pairs for wanted, _ in confusions(pair.target, pair.reading) if wanted
    )
    return {f"{name}_accuracy": 1 - wrong[name] / count for name, count in there.most_common()}


def _kraken(pairs: Sequence[Pair]) -> Scores:
    return {
        "character_accuracy": 1 - _micro(pairs, list),
        "caseless_character_accuracy": 1 - _micro(pairs, lambda t: list(t.lower())),
        "word_accuracy": 1 - _micro(pairs, str.split),
        **_by_script(pairs),
    }


def _openocr(pairs: Sequence[Pair]) -> Scores:
    def key(text: str) -> str:
        return text.replace(" ", "").lower()

    return {"accuracy": _share(pairs, key), "1-ned": _one_ned(pairs, key)}


CONVENTIONS: dict[str, Convention] = {
    "raw": Convention(_raw, "all edits by all characters, code points as they are; words between spaces"),
    "unilm-bytes": Convention(
        _unilm_bytes, "the same over UTF-8 bytes; words between single spaces (fastwer)"
    ),
    "evaluate-old": Convention(
        _evaluate_old, "runs of spaces made one and stripped first (evaluate, jiwer before 4)"
    ),
    "evaluate-new": Convention(_evaluate_new, "spaces stripped only (evaluate, jiwer 4)"),
    "hf-notebook": Convention(_hf_notebook, "evaluate-old after tokenizer clean-up of both sides"),
    "macro": Convention(_macro, "mean of the lines' character error rates"),
    "exact": Convention(lambda p: {"accuracy": _share(p, str)}, "share of lines without an error"),
    "acc-ed": Convention(_acc_ed, "exact match, and the mean number of edits (unilm acc_ed)"),
    "wpa": Convention(_wpa, "exact match of lower-case 0-9a-z (unilm wpa, scene text)"),
    "sroie-line": Convention(_sroie_line, "words in any order, each line on its own (unilm sroie)"),
    "sroie-image": Convention(_sroie_image, "words in any order, pooled by receipt (SROIE's server)"),
    "1-ned": Convention(lambda p: {"1-ned": _one_ned(p)}, "mean of 1 - edits / longer length (ICDAR 2019)"),
    "parseq": Convention(
        _parseq, "exact match and 1-ned over lower-case 0-9a-z; labels without any are left out"
    ),
    "doctr": Convention(_doctr, "exact match raw, without case, in ASCII, and both"),
    "kraken": Convention(_kraken, "character accuracy with and without case and by script, word accuracy"),
    "openocr": Convention(_openocr, "exact match and 1-ned in lower case without spaces"),
}
"""Conventions by name."""


def score(name: str, pairs: Sequence[Pair]) -> Scores:
    """Score pairs by a convention.

    Raises:
        EvaluationError: there is no such convention, or no line.
        UnfitError: it needs what the lines lack.
    """
    if name not in CONVENTIONS:
        raise EvaluationError(f"convention {name!r} is unknown, expected one of {', '.join(CONVENTIONS)}")
    if not pairs:
        raise EvaluationError("there are no lines to score")
    return CONVENTIONS[name].score(pairs)
