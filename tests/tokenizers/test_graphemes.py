"""Grapheme clusters, against the judge: its normaliser replaces them whole, which shows where it cuts."""

import random
import time

import pytest
from tiny_spm import train
from tokenizers import normalizers

from trocr.tokenizers.charsmap import Charsmap
from trocr.tokenizers.graphemes import graphemes
from trocr.tokenizers.sentencepiece_model import SentencePieceModel

# The planes beyond hold ideographs and private characters, without properties: a sample of them is enough.
CODE_POINTS = [chr(c) for c in [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0xE0000, 997)]]
CODE_POINTS += [chr(c) for c in [*range(0xE0000, 0xE1000), *range(0xE1000, 0x110000, 997)]]
KINDS = {
    "any": "aé的",
    "mark": "\u0301\u093c\U000e0100",
    "spacing mark": "\u0903",
    "joiner": "\u200d",
    "non-joiner": "\u200c",
    "prepend": "\u0600",
    "control": "\xad\n\r\u200b",
    "hangul": "\u1100\u1161\u11a8가각",
    "flag": "\U0001f1eb",
    "pictograph": "©™❤\U0001f469",
    "consonant": "क",
    "virama": "\u094d",
}
SAMPLES = "".join(KINDS.values())


def judges(characters: str) -> tuple[Charsmap, normalizers.Precompiled]:
    """Our normaliser and the judge's, with a rule for each character: to a capital letter of its own."""
    rules = "".join(f"{ord(char):X}\t{0x100 + index:X}\n" for index, char in enumerate(characters))
    model = SentencePieceModel.from_bytes(train(tsv=rules, vocab_size=120))
    data = model.normalizer.precompiled_charsmap
    return Charsmap(data), normalizers.Precompiled(data)


@pytest.mark.parametrize("frame", ["a{}", "{}a\u0301\u0301", "\u0600{}", "a{}\u0301"])
def test_every_code_point_as_the_judge(frame):
    ours, judge = judges("a\u0600\u0301")
    for start in range(0, len(CODE_POINTS), 1 << 16):
        text = "\n".join(frame.format(char) for char in CODE_POINTS[start : start + (1 << 16)])
        if ours.normalize(text) != judge.normalize_str(text):
            lines = text.split("\n")
            assert [x for x in lines if ours.normalize(x) != judge.normalize_str(x)] == []


def test_sequences_of_all_kinds_as_the_judge():
    ours, judge = judges(SAMPLES)
    rng = random.Random(5)
    kinds = list(KINDS.values())
    texts = ["".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(2, 7))) for _ in range(30_000)]
    texts = [text + "\u0301" * rng.randint(0, 1) for text in texts]
    assert [text for text in texts if ours.normalize(text) != judge.normalize_str(text)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab é", ["a", "b", " ", "é"]),
        ("e\u0301\u0302x", ["e\u0301\u0302", "x"]),
        ("a\r\n\r\n\n", ["a", "\r\n", "\r\n", "\n"]),
        ("\u0301a", ["\u0301", "a"]),
        ("\n\u0301", ["\n", "\u0301"]),
        ("\u0600\u0600a", ["\u0600\u0600a"]),
        ("\u0600\n\u0600", ["\u0600", "\n", "\u0600"]),
        ("각\u1100\u1161\u11a8가\u11a8각\u1161", ["각", "\u1100\u1161\u11a8", "가\u11a8", "각", "\u1161"]),
        ("🇫🇷🇺🇳🇩", ["🇫🇷", "🇺🇳", "🇩"]),
        ("👩\u200d🚀👩🏽\u200d\u200d🚀", ["👩\u200d🚀", "👩🏽\u200d\u200d", "🚀"]),
        ("a\u200d🚀", ["a\u200d", "🚀"]),
        ("क\u094dषक", ["क\u094dष", "क"]),
        ("क\u093c\u094d\u200dषि", ["क\u093c\u094d\u200dषि"]),
        ("क\u094d\u200cष", ["क\u094d\u200c", "ष"]),
        (";\u094dष", [";\u094d", "ष"]),
    ],
)
def test_examples(text, expected):
    assert graphemes(text) == expected


def test_clusters_join_to_the_text():
    rng = random.Random(6)
    for _ in range(2000):
        text = "".join(rng.choices(SAMPLES, k=20)) + chr(rng.randrange(0xD800))
        assert "".join(graphemes(text)) == text
    assert graphemes("\ud800a") == ["\ud800", "a"]


@pytest.mark.parametrize(
    "pattern",
    ["{}", "e{}", "\u0915{}", "\u2764{}"],
)
@pytest.mark.parametrize(
    "repeated",
    [
        "\u0301",
        "\u094d",
        "\u200d",
        "\u0600",
        "\u1100",
        "\u1161",
        "\u11a8",
        "🇫",
        "\u0915\u094d",
        "❤\u200d",
        "\r",
    ],
)
def test_long_sequences_take_linear_time(pattern, repeated):
    text = pattern.format(repeated * 30_000) + "\n"
    started = time.process_time()
    assert "".join(graphemes(text)) == text
    assert time.process_time() - started < 2  # quadratic time would be minutes
