"""Comparison of a tokenizer with its judge, string by string."""

from collections.abc import Sequence
from typing import Any

from trocr.tokenizers import Tokenizer


def assert_same(ours: Tokenizer, judge: Any, strings: Sequence[str]) -> None:
    """The same ids, and from these ids the same text, with and without special tokens."""
    ids = ours(list(strings)).input_ids
    expected = judge(list(strings)).input_ids
    differing = [text for text, a, b in zip(strings, ids, expected, strict=True) if a != b]
    assert not differing, report("ids", differing)
    for skip in (False, True):
        texts = ours.batch_decode(ids, skip_special_tokens=skip)
        expected_texts = judge.batch_decode(ids, skip_special_tokens=skip)
        differing = [text for text, a, b in zip(strings, texts, expected_texts, strict=True) if a != b]
        assert not differing, report(f"texts (skip_special_tokens={skip})", differing)


def report(what: str, differing: Sequence[str]) -> str:
    return f"{len(differing)} {what} differ, first for " + ", ".join(
        ascii(text[:80]) for text in differing[:5]
    )
