"""Every table against the judge, over every code point that matters."""

import re

import pytest

from trocr.tokenizers import unicode_tables, wordpiece
from trocr.tokenizers.added import SPACES
from trocr.tokenizers.unicode_tables import character_class

tokenizers = pytest.importorskip("tokenizers")
TABLES = (
    unicode_tables.LETTERS,
    unicode_tables.NUMBERS,
    unicode_tables.BERT_REMOVED,
    unicode_tables.BERT_ACCENTS,
)
ENDS = {int(end, 16) for table in TABLES for end in table.replace("-", " ").split()}
# Every code point of the planes 0 and 1; of the others a sample and what lies around the ends of ranges.
CODES = sorted(
    {*range(0x20000), *range(0x20000, 0x110000, 0x101), *(end + step for end in ENDS for step in (-1, 0, 1))}
    - {-1, 0x110000, *range(0xD800, 0xE000)}
)
LETTERS = [chr(code) for code in CODES]


def members(*tables: str) -> set[str]:
    return set(re.findall(f"[{character_class(*tables)}]", "".join(LETTERS)))


def bert_normalizer(**wanted: bool) -> "tokenizers.normalizers.BertNormalizer":
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return tokenizers.normalizers.BertNormalizer(**{**off, **wanted})


def joined_to(neighbour: str) -> set[str]:
    """Letters that the judge's byte-level pattern leaves in one word with a neighbour on their left."""
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    found: set[str] = set()
    for start in range(0, len(LETTERS), 1000):
        letters = LETTERS[start : start + 1000]
        ends = dict(span for _, span in cut("".join(f"\n{neighbour}{letter}\n" for letter in letters)))
        found |= {letter for place, letter in enumerate(letters) if ends.get(4 * place + 1) == 4 * place + 3}
    return found


def test_the_classes_of_the_byte_level_pattern() -> None:
    letters, numbers, others = joined_to("a"), joined_to("1"), joined_to("!")
    assert members(unicode_tables.LETTERS) == letters
    assert members(unicode_tables.NUMBERS) == numbers
    assert members(unicode_tables.WHITE_SPACE) == set(LETTERS) - letters - numbers - others


def test_white_space_is_the_same_everywhere() -> None:
    assert members(unicode_tables.WHITE_SPACE) == set(SPACES)
    assert len(SPACES) == 25


def test_what_bert_removes_and_strips() -> None:
    clean = bert_normalizer(clean_text=True).normalize_str
    assert members(unicode_tables.BERT_REMOVED) == {letter for letter in LETTERS if not clean(letter)}
    strip = bert_normalizer(strip_accents=True).normalize_str
    assert members(unicode_tables.BERT_ACCENTS) == {
        letter for letter in LETTERS if strip("a" + letter) == "a"
    }


def test_what_bert_splits_at() -> None:
    cut = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    pieces = {letter: len(cut(f"a{letter}b")) for letter in LETTERS}
    assert members(unicode_tables.BERT_PUNCTUATION) == {letter for letter in LETTERS if pieces[letter] == 3}
    assert {letter for letter in LETTERS if pieces[letter] == 2} == set(SPACES)


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("clean_text", wordpiece.clean),
        ("handle_chinese_chars", wordpiece.separate_ideographs),
        ("strip_accents", wordpiece.strip_accents),
        ("lowercase", wordpiece.lowercase),
    ],
)
def test_each_step_of_bert(option, ours) -> None:
    judge = bert_normalizer(**{option: True}).normalize_str
    # A mark of low combining class behind each letter shows the canonical order too.
    differing = [letter for letter in LETTERS if ours(f"e{letter}\u0327x") != judge(f"e{letter}\u0327x")]
    assert not differing, [hex(ord(letter)) for letter in differing[:10]]
