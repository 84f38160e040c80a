"""Added tokens: what is matched, and contradictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr.tokenizers import AddedToken, TokenizerError
from trocr.tokenizers.added import AddedVocabulary


def vocabulary(*tokens: AddedToken | str) -> AddedVocabulary:
    added = AddedVocabulary({"a": 0, "b": 1, "gap": 7}, str.lower)
    for token in tokens:
        added.add(AddedToken(token, normalized=False) if isinstance(token, str) else token)
    return added


def cut(added: AddedVocabulary, text: str) -> list[tuple[str, int | None]]:
    return [(piece.text, piece.token_id) for piece in added.split(text)]


def test_new_ids_come_after_the_last_one_and_known_tokens_keep_theirs() -> None:
    added = vocabulary("x", "a", "y", "x")
    assert added.ids == {"x": 8, "a": 0, "y": 9}


def test_the_leftmost_and_longest_token_wins() -> None:
    added = vocabulary("ab", "abc", "bcd")
    assert cut(added, "zabcdab") == [("z", None), ("abc", 9), ("d", None), ("ab", 8)]


def test_stripping_swallows_white_space_once() -> None:
    added = vocabulary(AddedToken("<m>", lstrip=True, rstrip=True, normalized=False))
    assert cut(added, "x \t<m> \u3000<m>\x1fy") == [
        ("x", None),
        (" \t<m> \u3000", 8),
        ("<m>", 8),
        ("\x1fy", None),
    ]


def test_a_single_word_is_not_matched_inside_another() -> None:
    added = vocabulary(AddedToken("he", single_word=True, normalized=False))
    assert [
        piece for piece, found in cut(added, "he the hex .he\u0301 he_ (he) he²") if found is not None
    ] == ["he"] * 3


def test_normalized_tokens_match_the_normalised_text() -> None:
    added = vocabulary(AddedToken("ÀB"), AddedToken("ÇD", normalized=False))
    assert cut(added, "x àB Çd ÇD Y") == [("x ", None), ("àb", 8), (" çd ", None), ("ÇD", 9), (" y", None)]


def test_special_tokens_can_be_left_in_the_text() -> None:
    added = vocabulary(AddedToken("<S>", special=True), "<n>")
    assert [piece.token_id for piece in added.split("<S><n>", split_special_tokens=True)] == [None, 9]


def test_flags_are_resolved_when_a_token_is_added() -> None:
    assert AddedToken("x").resolve().normalized is True
    assert AddedToken("x", special=True).resolve().normalized is False
    assert AddedToken("x").resolve(special=True) == AddedToken("x", special=True, normalized=False)
    data = {"id": 3, "__type": "AddedToken", **AddedToken("x", lstrip=True).to_dict()}
    assert AddedToken.from_dict(data) == AddedToken("x", lstrip=True).resolve()


def test_adding_again_changes_the_flags_and_nothing_else() -> None:
    added = vocabulary("x")
    assert not added.add(AddedToken("x", normalized=False))
    assert added.add(AddedToken("x", normalized=False, lstrip=True))
    assert added.ids == {"x": 8}
    assert cut(added, "a x") == [("a", None), (" x", 8)]


def test_contradicting_ids_are_refused() -> None:
    added = vocabulary("x")
    with pytest.raises(
        TokenizerError, match=r"added token 'a' has id 5 but the vocabulary says 0; .*contradict"
    ):
        added.add(AddedToken("a"), 5)
    with pytest.raises(TokenizerError, match="id 8 is given to two added tokens, 'x' and 'y'"):
        added.add(AddedToken("y"), 8)


ALPHABET = "aab <>\u0301é\n"


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=3), max_size=5), st.text(ALPHABET, max_size=30))
def test_the_pieces_are_the_text(tokens: list[str], text: str) -> None:
    added = AddedVocabulary({}, lambda part: part)
    for token in tokens:
        added.add(AddedToken(token, normalized=False))
    pieces = added.split(text)
    assert "".join(piece.text for piece in pieces) == text
    for piece in pieces:
        if piece.token_id is None:
            assert not any(token in piece.text for token in tokens)
        else:
            assert added.tokens[piece.token_id].content == piece.text
