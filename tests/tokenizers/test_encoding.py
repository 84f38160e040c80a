"""Calls, padding and truncation against transformers over a grid of options, and the errors."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr.tokenizers import BatchEncoding, BertTokenizer, RobertaTokenizer, Tokenizer, TokenizerError

transformers = pytest.importorskip("transformers")
TEXTS: list[tuple[Any, Any]] = [
    ("Some text, 12", None),
    ("", None),
    ("Some text, 12", "and more of it here"),
    ("Some text", ""),
    (["Some text, 12", "a", ""], None),
    (["Some text, 12", "a"], ["b", "and more of it here"]),
    ([("one", "two and three"), ("four <mask> five", "")], None),
]
GRID = [
    dict(
        zip(
            ("padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side"), values, strict=True
        )
    )
    for values in itertools.product(
        (False, True, "max_length"),
        (None, False, True, "only_first", "only_second"),
        (None, 4, 7, 12, 16),
        (None, 8),
        (None, "left"),
    )
]
FIELDS = {"return_token_type_ids": True, "return_special_tokens_mask": True, "return_length": True}


@pytest.fixture(scope="module", params=["roberta", "bert"])
def pair(request: pytest.FixtureRequest, tiny_dir: Path) -> tuple[Tokenizer, Any]:
    if request.param == "roberta":
        return (
            RobertaTokenizer.from_pretrained(tiny_dir, model_max_length=10),
            transformers.RobertaTokenizer.from_pretrained(tiny_dir, model_max_length=10),
        )
    words = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] some text , 12 and more of it a b one two ##e three four five <mask>"
    )
    vocab = {word: index for index, word in enumerate(words.split())}
    return BertTokenizer(vocab), transformers.BertTokenizer(vocab=vocab)


def outcome(tokenizer: Any, text: Any, text_pair: Any, **options: Any) -> Any:
    # The judge raises bare exceptions where it cannot cut as asked.
    expected = TokenizerError if isinstance(tokenizer, Tokenizer) else Exception
    try:
        return dict(tokenizer(text, text_pair, **options))
    except expected:
        return "an error"


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("specials", [True, False], ids=["specials", "plain"])
def test_the_grid(pair: tuple[Tokenizer, Any], side: str, specials: bool) -> None:
    ours, judge = pair
    ours.truncation_side = judge.truncation_side = side
    errors = results = 0
    for (text, text_pair), options in itertools.product(TEXTS, GRID):
        fields = FIELDS if options["pad_to_multiple_of"] else {}
        expected = outcome(judge, text, text_pair, add_special_tokens=specials, **options, **fields)
        got = outcome(ours, text, text_pair, add_special_tokens=specials, **options, **fields)
        assert got == expected, (text, text_pair, options, got, expected)
        errors += got == "an error"
        results += got != "an error"
    assert errors > 100
    assert results > 1000


def test_a_length_below_the_special_tokens_is_an_error(pair: tuple[Tokenizer, Any]) -> None:
    """transformers cuts nothing then, so the row is longer than asked for."""
    ours, judge = pair
    assert len(judge("some text and more", truncation=True, max_length=1).input_ids) > 1
    with pytest.raises(TokenizerError, match="max_length is 1, too small for the 2 special tokens alone"):
        ours("some text", truncation=True, max_length=1)


def test_fields_and_their_order(pair: tuple[Tokenizer, Any]) -> None:
    ours, judge = pair
    for options in ({}, FIELDS, {"return_attention_mask": False}, {"return_token_type_ids": True}):
        assert list(ours("a", **options)) == list(judge("a", **options))


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors(pair: tuple[Tokenizer, Any], kind: str) -> None:
    ours, judge = pair
    for text in ("some text", ["some text", "a"]):
        got, expected = (
            t(text, padding=True, return_tensors=kind, return_length=True) for t in (ours, judge)
        )
        assert list(got) == list(expected)
        for name in got:
            assert type(got[name]) is type(expected[name])
            assert got[name].dtype == expected[name].dtype
            assert got[name].tolist() == expected[name].tolist()
    row = ours.encode("some text", return_tensors=kind)
    assert row.tolist() == [ours.encode("some text")]
    assert ours.batch_decode(row) == [ours.decode(ours.encode("some text"))]


def test_rows_of_different_length_make_no_tensor(pair: tuple[Tokenizer, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"'input_ids' has rows of \d to \d+ tokens.*pass padding=True"):
        pair[0](["a", "some text and more"], return_tensors="pt")
    with pytest.raises(TokenizerError, match="return_tensors is 'tf'; expected 'pt'"):
        pair[0]("a", return_tensors="tf")


def test_pad(pair: tuple[Tokenizer, Any]) -> None:
    ours, judge = pair
    rows = [ours(text) for text in ("some text and more", "a", "")]
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    single = {"input_ids": [5, 6], "special_tokens_mask": [1, 0]}
    for options in (
        {},
        {"padding": "max_length", "max_length": 9},
        {"pad_to_multiple_of": 8, "padding_side": "left"},
        {"padding": False},
    ):
        for inputs in (batch, single, {"input_ids": [[7, 8, 9], [1]]}):
            assert dict(ours.pad(inputs, **options)) == dict(judge.pad(dict(inputs), **options))
        listed = [dict(row) for row in rows]
        assert dict(ours.pad(listed, **options)) == dict(judge.pad(listed, **options))
    assert list(ours.pad({"input_ids": [[1, 2], [3]]}, return_attention_mask=False)) == ["input_ids"]
    tensors = ours.pad(ours(["a", "b"], return_tensors="pt"), pad_to_multiple_of=8)
    assert tensors.input_ids.shape == (2, 8)


def test_pad_refuses_what_it_cannot_pad(tiny_dir: Path) -> None:
    ours = RobertaTokenizer.from_pretrained(tiny_dir)
    with pytest.raises(TokenizerError, match=r"pad needs input_ids; got the fields \['attention_mask'\]"):
        ours.pad({"attention_mask": [1]})
    with pytest.raises(TokenizerError, match=r"differ in batch size: .*'input_ids': 2, 'labels': 1"):
        ours.pad({"input_ids": [[1], [2]], "labels": [[1]]})
    ours.pad_token = None
    with pytest.raises(TokenizerError, match="the tokenizer has none; set pad_token first"):
        ours(["a", "bb"], padding=True)


def test_labels(pair: tuple[Tokenizer, Any]) -> None:
    ours, judge = pair
    assert dict(ours(text_target=["a b"])) == dict(judge(text_target=["a b"]))
    assert dict(ours("some", text_target="text")) == dict(judge("some", text_target="text"))
    with pytest.raises(TokenizerError, match=r"neither text nor text_target"):
        ours()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((7,), {}, "text is a int; expected a string or a list of strings"),
        (([7],), {}, "got a int where a text belongs"),
        (("a", ["b"]), {}, "text is one string but text_pair is a list"),
        ((["a"], "b"), {}, "text has 1 texts but text_pair is one string"),
        ((["a"], ["b", "c"]), {}, "text has 1 texts but text_pair is 2 texts"),
        (
            ("a",),
            {"padding": "longset"},
            "padding is 'longset'; expected one of longest, max_length, do_not_pad",
        ),
        (("a",), {"truncation": "first"}, "truncation is 'first'; expected one of longest_first, only_first"),
        (("a",), {"padding_side": "top"}, "padding_side is 'top'; expected one of right, left"),
        (
            ("a",),
            {"max_length": -1, "truncation": True},
            "max_length is -1; expected a whole number of at least 0",
        ),
        (("a",), {"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0; expected a whole number of at least 1"),
        (
            ("a",),
            {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8},
            "max_length is 9, not a multiple of pad_to_multiple_of .8.",
        ),
        (
            ("a b c",),
            {"truncation": "only_second", "max_length": 3},
            "there is no second text; pass text_pair",
        ),
        (
            ("a", "b c d e f"),
            {"truncation": "only_first", "max_length": 5},
            r"must remove \d+ tokens but that text has only 1; use truncation='longest_first'",
        ),
    ],
)
def test_errors(pair: tuple[Tokenizer, Any], arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        pair[0](*arguments, **options)


def test_an_empty_batch(pair: tuple[Tokenizer, Any]) -> None:
    encoding = pair[0]([], padding=True, return_length=True)
    assert all(values == [] for values in encoding.values())


def test_special_tokens_around_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, judge = pair
    for text_pair in (None, "b"):
        encoding = ours("a", text_pair, return_special_tokens_mask=True)
        first, second = (ours.encode(text, add_special_tokens=False) for text in ("a", "b"))
        parts = (first,) if text_pair is None else (first, second)
        assert ours.build_inputs_with_special_tokens(*parts) == encoding.input_ids
        assert ours.get_special_tokens_mask(*parts) == encoding.special_tokens_mask
        assert ours.num_special_tokens_to_add(text_pair is not None) == judge.num_special_tokens_to_add(
            text_pair is not None
        )
    ids = encoding.input_ids
    assert ours.get_special_tokens_mask(
        ids, already_has_special_tokens=True
    ) == judge.get_special_tokens_mask(ids, already_has_special_tokens=True)


def test_batch_encoding() -> None:
    encoding = BatchEncoding({"input_ids": [1, 2], "length": [2]})
    assert encoding.input_ids == encoding["input_ids"] == encoding.data["input_ids"]
    assert {**encoding} == {"input_ids": [1, 2], "length": [2]}
    assert encoding.to("cpu") is encoding
    with pytest.raises(AttributeError, match=r"no field 'labels'; it has \['input_ids', 'length'\]"):
        _ = encoding.labels


@given(
    first=st.integers(0, 30),
    second=st.none() | st.integers(0, 30),
    limit=st.integers(4, 40),
    side=st.sampled_from(["right", "left"]),
)
def test_truncation_keeps_one_end_and_the_limit(
    first: int, second: int | None, limit: int, side: str
) -> None:
    letters = RobertaTokenizer(
        [*map(chr, range(0x100, 0x200)), "<s>", "</s>", "<pad>", "<unk>", "<mask>", *"ab"]
    )
    letters.truncation_side = side
    text, pair_text = "a" * first, None if second is None else "b" * second
    ids = letters(text, pair_text, truncation=True, max_length=limit).input_ids
    full = letters(text, pair_text).input_ids
    assert len(ids) == min(len(full), limit)
    kept = [ids.count(letters.convert_tokens_to_ids(letter)) for letter in "ab"]
    lengths = [first, second or 0]
    # Nothing is taken from the shorter text while the longer one is longer.
    for ours, other, length in ((0, 1, lengths[0]), (1, 0, lengths[1])):
        assert kept[ours] == length or kept[ours] >= kept[other] - 1
