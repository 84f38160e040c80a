"""The precompiled normaliser, against tokenizers' Precompiled and sentencepiece's own normaliser."""

import random
import struct
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_spm import RULES, train
from tokenizers import normalizers

from trocr.tokenizers.charsmap import Charsmap
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.sentencepiece_model import SentencePieceModel

# a -> x, ab -> y, é (e + acute) -> z, ﬁ -> "", Ω -> ΩΩΩ, か -> かな
TSV = "61\t78\n61 62\t79\n65 301\t7A\nFB01\t\n3A9\t3A9 3A9 3A9\n304B\t304B 306A\n"
ASSIGNED = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
MARKS = [c for c in ASSIGNED if unicodedata.category(c)[0] == "M"]
SHORT = [c for c in ASSIGNED if c < "\u3100"]
CONTROLS = [c for c in ASSIGNED if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp")]


def charsmap_bytes(rule: str = "nmt_nfkc", **options: str) -> bytes:
    return SentencePieceModel.from_bytes(train(rule, **options)).normalizer.precompiled_charsmap


def random_text(rng: random.Random) -> str:
    kinds = (ASSIGNED, MARKS, SHORT, CONTROLS, "abefi Ωか\u0301ﬁ")
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(1, 10)))


@pytest.fixture(scope="module", params=[rule for rule in RULES if rule != "identity"])
def pair(request):
    data = charsmap_bytes(request.param)
    return Charsmap(data), normalizers.Precompiled(data)


def test_the_identity_has_no_rules():
    assert charsmap_bytes("identity") == b""


def test_every_character_alone_as_the_judge(pair):
    ours, judge = pair
    for start in range(0, len(ASSIGNED), 8192):
        text = "\n".join(ASSIGNED[start : start + 8192])  # a line feed ends a cluster: each stands alone
        assert ours.normalize(text) == judge.normalize_str(text)


def test_random_clusters_as_the_judge(pair):
    ours, judge = pair
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(4000)]
    different = [text for text in texts if ours.normalize(text) != judge.normalize_str(text)]
    assert different == []


@pytest.mark.parametrize("base", ["ª", "ª\u0301", "™", "o\u031b", "é", "e", "\u0600ª"])
def test_every_mark_after_a_base_as_the_judge(base):
    data = charsmap_bytes()
    ours, judge = Charsmap(data), normalizers.Precompiled(data)
    texts = [base + mark for mark in MARKS]
    assert list(map(ours.normalize, texts)) == list(map(judge.normalize_str, texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("aab", "xxb"),  # clusters are single letters: the rule for "ab" is never reached
        ("a\u0301", "x"),  # shortest rule, and the mark of the cluster is lost
        ("e\u0301", "z"),
        ("e\u0301\u0302", "z"),  # 5 bytes: the whole cluster is replaced
        ("e\u0301\u0302\u0303", "e\u0301\u0302\u0303"),  # 7 bytes: character by character
        ("ﬁ\u0301", ""),  # 5 bytes
        ("\u0301ﬁ", "\u0301"),
        ("ΩbΩ", "ΩΩΩbΩΩΩ"),
        ("か", "かな"),
        ("か\u3099", "かな\u3099"),  # 6 bytes
        ("\0a", "\0x"),
        ("a\r\na", "x\r\nx"),
    ],
)
def test_rules_of_ones_own(text, expected):
    data = charsmap_bytes(tsv=TSV)
    assert Charsmap(data).normalize(text) == expected
    assert normalizers.Precompiled(data).normalize_str(text) == expected


def test_where_sentencepiece_itself_differs():
    """Both facts of the module's docstring: who keeps which mark, and that plain composed text is equal."""
    model = train()
    ours = Charsmap(charsmap_bytes())
    theirs = sentencepiece.SentencePieceNormalizer(
        model_proto=model, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
    )
    assert (ours.normalize("o\u031b\u0309"), theirs.normalize("o\u031b\u0309")) == ("ơ", "ở")
    assert (ours.normalize("か\u3099"), theirs.normalize("か\u3099")) == ("か\u3099", "が")
    assert (ours.normalize("a\r\nb"), theirs.normalize("a\r\nb")) == ("a b", "a  b")
    rng = random.Random(2)
    letters = [
        c for c in ASSIGNED if unicodedata.category(c)[0] in "LNSP" and unicodedata.is_normalized("NFC", c)
    ]
    for _ in range(3000):
        text = unicodedata.normalize("NFC", "".join(rng.choices(letters, k=12)))
        assert ours.normalize(text) == theirs.normalize(text), ascii(text)


def test_the_official_rules_as_the_judge(reference: Path):
    model = SentencePieceModel.from_file(reference / "trocr-small-printed" / "sentencepiece.bpe.model")
    ours = Charsmap(model.normalizer.precompiled_charsmap)
    judge = normalizers.Precompiled(model.normalizer.precompiled_charsmap)
    rng = random.Random(3)
    texts = [random_text(rng) for _ in range(4000)] + [
        "ﬁne Ⅻ ½ ｆｕｌｌ ｶﾞ",
        "\t\n\x0b \x85\u2028",
        "Ａ" * 1000,
    ]
    assert list(map(ours.normalize, texts)) == list(map(judge.normalize_str, texts))


def test_long_texts_take_linear_time():
    ours = Charsmap(charsmap_bytes())
    assert ours.normalize("e" + "\u0302" * 200_000) == "e" + "\u0302" * 200_000
    assert ours.normalize("Ａ" * 200_000) == "A" * 200_000
    ideographs = [*range(0x4E00, 0x9FE0), *range(0xAC00, 0xD7A4), *range(0x20000, 0x2A6D0)]
    many = "".join(
        f"{chr(0x61 + i % 26)}{chr(0x300 + i // 26 % 80)}{chr(c)}" for i, c in enumerate(ideographs)
    )
    assert ours.normalize(many) == normalizers.Precompiled(ours.data).normalize_str(many)
    assert len(ours._cache) < len(ideographs)  # bounded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"at byte 0 of 0 found 0 bytes, expected the size of the trie \(4 bytes\)"),
        (b"\x01\x02", r"at byte 0 of 2 found 2 bytes"),
        (struct.pack("<I", 0), r"found a trie of 0 bytes, expected a multiple of 4"),
        (struct.pack("<II", 6, 0), r"found a trie of 6 bytes"),
        (struct.pack("<II", 400, 0), r"found a trie of 400 bytes, expected a multiple of 4 from 4 to 4"),
        (struct.pack("<II", 4, 0) + b"ab\xff\0", r"at byte 10 of 12 found bytes that are not text, .* UTF-8"),
    ],
)
def test_damage_is_named(data, message):
    with pytest.raises(TokenizerError, match="^some.model: invalid precompiled charsmap: .*" + message):
        Charsmap(data, source="some.model")


def unit(label: int, offset: int, leaf: bool = False) -> int:
    return offset << 10 | leaf << 8 | label


@pytest.mark.parametrize(
    ("units", "blob", "message"),
    [
        ([unit(0, 5)], b"", r"at byte 4 .* found a link to unit 37, expected a unit below 1"),
        ([unit(0, 1)] + [0] * 95 + [unit(ord("a"), 900, leaf=True)] * 2, b"", r"found a link to unit 996"),
        ([unit(0, 1)] + [0] * 95 + [unit(ord("a"), 1, leaf=True), 7], b"ab\0", r"replacement 7, .* up to 3"),
        ([unit(0, 1)] + [0] * 95 + [unit(ord("a"), 1, leaf=True), 1], "é\0".encode(), r"inside a character"),
    ],
)
def test_rules_that_point_outside_are_named(units, blob, message):
    data = struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + blob
    with pytest.raises(TokenizerError, match=message):
        Charsmap(data).normalize("a")


@given(st.integers(0, 2**32), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_damaged_rules_never_raise_anything_else(seed, text):
    data = bytearray(charsmap_bytes(tsv=TSV))
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        result = Charsmap(bytes(data)).normalize(text + "abΩe\u0301")
    except TokenizerError as error:
        result = str(error)
    assert isinstance(result, str)
