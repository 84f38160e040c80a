"""Named and added special tokens, and ids, against transformers."""

from typing import Any

import pytest

from trocr.tokenizers import AddedToken, RobertaTokenizer, TokenizerError

transformers = pytest.importorskip("transformers")
VOCAB = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "ab"])}
VIEWS = ("special_tokens_map", "all_special_tokens", "all_special_ids", "extra_special_tokens", "vocab_size")


@pytest.fixture
def ours() -> RobertaTokenizer:
    return RobertaTokenizer(VOCAB, ["a b"])


@pytest.fixture
def judge() -> Any:
    return transformers.RobertaTokenizer(vocab=VOCAB, merges=[("a", "b")])


def assert_alike(ours: RobertaTokenizer, judge: Any) -> None:
    for view in VIEWS:
        assert getattr(ours, view) == getattr(judge, view), view
    for name in ours.SPECIAL_TOKENS_ATTRIBUTES:
        assert getattr(ours, name) == getattr(judge, name), name
        assert getattr(ours, f"{name}_id") == getattr(judge, f"{name}_id"), name
    assert len(ours) == len(judge)
    assert ours.get_vocab() == judge.get_vocab()
    assert ours.added_tokens_encoder == judge.added_tokens_encoder
    assert {key: token.to_dict() for key, token in ours.added_tokens_decoder.items()} == {
        key: AddedToken(
            token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, token.special
        ).to_dict()
        for key, token in sorted(judge.added_tokens_decoder.items())
    }
    for text in ("ab<mask> <new>  b", "<extra><s>ab"):
        ids = ours.encode(text)
        assert ids == judge.encode(text)
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == judge.decode(ids, skip_special_tokens=skip)
            assert ours.convert_ids_to_tokens(ids, skip) == judge.convert_ids_to_tokens(ids, skip)


def test_a_missing_special_token_gets_the_next_id(ours: RobertaTokenizer, judge: Any) -> None:
    assert ours.mask_token_id == 8
    assert_alike(ours, judge)


def test_add_tokens(ours: RobertaTokenizer, judge: Any) -> None:
    for tokens, special in (
        (["<new>", "a", "<new>"], False),
        ("<extra>", True),
        (["<new>"], False),
        (["b"], True),
    ):
        assert ours.add_tokens(tokens, special_tokens=special) == judge.add_tokens(
            tokens, special_tokens=special
        )
        assert_alike(ours, judge)


def test_add_special_tokens(ours: RobertaTokenizer, judge: Any) -> None:
    for given in (
        {"pad_token": "<new>", "extra_special_tokens": ["<extra>"]},
        {"additional_special_tokens": ["b"]},
        {"unk_token": "a"},
    ):
        assert ours.add_special_tokens(given) == judge.add_special_tokens(dict(given))
        assert_alike(ours, judge)
    more = {"extra_special_tokens": ["<m>"]}
    assert ours.add_special_tokens(more, replace_extra_special_tokens=False) == judge.add_special_tokens(
        more, replace_extra_special_tokens=False
    )
    assert_alike(ours, judge)


def test_setting_a_special_token_by_string_or_id(ours: RobertaTokenizer, judge: Any) -> None:
    for name, value in (
        ("eos_token", "a"),
        ("pad_token_id", 5),
        ("bos_token", None),
        ("sep_token", "nowhere"),
    ):
        setattr(ours, name, value)
        setattr(judge, name, value)
        assert_alike(ours, judge)


def test_setting_what_is_no_token(ours: RobertaTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"pad_token is 5; expected a string.*assign to pad_token_id"):
        ours.pad_token = 5  # type: ignore[assignment]
    with pytest.raises(
        TokenizerError, match="pad_token_id is 20, an id without a token; add the token first"
    ):
        ours.pad_token_id = 20
    with pytest.raises(TokenizerError, match="cannot set 'name' to 'x'; expected a token"):
        ours.add_special_tokens({"name": "x"})


def test_an_unknown_token_has_the_id_of_the_unknown_token(ours: RobertaTokenizer, judge: Any) -> None:
    for tokens in ("nowhere", ["a", "nowhere", "<mask>"]):
        assert ours.convert_tokens_to_ids(tokens) == judge.convert_tokens_to_ids(tokens)


@pytest.mark.parametrize(
    ("token_id", "message"),
    [
        (-1, "token id -1 is negative; expected 0 to 8$"),
        (-100, "token id -100 is negative; expected 0 to 8; -100 marks labels.*replace it by pad_token_id"),
        (8 + 1 + 128, "token id 137 is out of range: the tokenizer has 9 ids, 0 to 8; .*another tokenizer"),
    ],
)
def test_ids_out_of_range(ours: RobertaTokenizer, token_id: int, message: str) -> None:
    for call in (ours.decode, ours.convert_ids_to_tokens, ours.batch_decode):
        with pytest.raises(TokenizerError, match=message):
            call([4, token_id])


def test_ids_that_pad_the_embedding_give_no_text(ours: RobertaTokenizer, judge: Any) -> None:
    ids = [4, 9, 8 + 128, 5]
    assert ours.decode(ids) == judge.decode(ids) == "ab"
    assert ours.convert_ids_to_tokens(ids) == judge.convert_ids_to_tokens(ids) == ["a", None, None, "b"]


@pytest.mark.parametrize("ids", [[4.0], ["4"], [None], [True]])
def test_ids_that_are_no_numbers(ours: RobertaTokenizer, ids: Any) -> None:
    with pytest.raises(TokenizerError, match=r"token id .* is a \w+; expected a whole number"):
        ours.decode(ids)
