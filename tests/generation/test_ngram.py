"""The n-gram draft: what it guesses, how it learns, and its files."""

import json

import numpy as np
import pytest
import torch
from toys import EOS, pixels, spell

from trocr.generation import DraftError, GenerationError, NGramDraft, generate
from trocr.generation.drafts import DraftSource
from trocr.generation.ngram import BEGIN, NGramProposer


class Letters:
    """A tokenizer of letters: a is 3, b is 4; with special tokens, 0 and the end go around the text."""

    eos_token_id = EOS

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        ids = [ord(letter) - ord("a") + 3 for letter in text]
        return {"input_ids": [0, *ids, EOS] if add_special_tokens else ids}


def test_the_longest_context_counts():
    draft = NGramDraft(order=3, num_tokens=4, min_share=0.0)
    for row in ([3, 4, 5], [3, 4, 5], [6, 4, 7], [6, 4, 7], [8, 4, 7]):
        draft.learn(row)
    assert draft.guess([3, 4], 1) == [5]
    assert draft.guess([9, 4], 1) == [7], "only the shorter context was seen"
    assert draft.guess([BEGIN], 3) == [3, 4, 5]
    assert draft.guess([9], 3) == []


def test_doubtful_tokens_are_not_guessed():
    draft = NGramDraft(order=2, min_share=0.6)
    for row in ([3, 4], [3, 4], [3, 5]):
        draft.learn(row)
    assert draft.guess([3], 1) == [], "2 of 3, and one case more"
    draft.learn([3, 4])
    assert draft.guess([3], 1) == [4]


def test_a_guess_ends_at_the_end():
    draft = NGramDraft.from_texts(["ab"], Letters(), order=3)
    assert draft.guess([BEGIN], 9, frozenset({EOS})) == [3, 4, EOS]
    with_special = NGramDraft.from_texts(["ab"], Letters(), order=3, add_special_tokens=True)
    assert with_special.guess([BEGIN], 9, frozenset({EOS})) == [0, 3, 4, EOS]


def test_the_start_token_is_known_by_its_place():
    draft = NGramDraft.from_texts(["ab"], Letters(), order=4)
    proposer = NGramProposer(draft, DraftSource(prefix=1, vocab_size=9, end_tokens=frozenset({EOS})))
    assert proposer.propose(torch.tensor([[7], [7]]), 2, [0, 1]) == [[3, 4], [3, 4]]
    assert proposer.propose(torch.tensor([[7, 3], [7, 8]]), 5, [0, 1]) == [[4, EOS], []]
    assert proposer.propose(torch.tensor([[7, 8, 8, 8, 3]]), 5, [0]) == [[4, EOS]]


def test_learning_from_lines_that_were_read():
    text = [5, 6, 7, 3, 4, 5, 6, EOS]
    draft = NGramDraft(order=4, learns=True)
    first, second = spell(text), spell(text)
    for model in (first, second):
        assert generate(model, pixels(0), draft=draft, max_new_tokens=19).tolist() == [[2, *text]]
        if model is first:
            assert draft.counts.accepted == 0
    assert draft.counts.accepted > 0
    size = len(draft)
    generate(spell([5, 6, 3, 3]), pixels(0), draft=draft, max_new_tokens=4)
    assert len(draft) == size, "rows without an end are not learnt"
    fixed = NGramDraft.from_texts(["ab"], Letters())
    size = len(fixed)
    generate(spell(text), pixels(0), draft=fixed)
    assert len(fixed) == size


def test_counts_are_halved_where_there_are_too_many():
    draft = NGramDraft(order=2, max_entries=20, min_share=0.0)
    for token in range(100, 140):
        draft.learn([token, token])
        draft.learn([3, 4])
        assert len(draft) <= 20
    assert draft.guess([3], 1) == [4], "what was seen often is kept longest"
    assert draft.guess([100], 1) == []


def test_files(tmp_path):
    draft = NGramDraft.from_texts(["abc", "abd", "abd"], Letters(), order=3, num_tokens=6, min_share=0.4)
    draft.save(tmp_path / "sub" / "lines.ngrams")
    loaded = NGramDraft.load(tmp_path / "sub" / "lines.ngrams")
    assert (loaded.order, loaded.num_tokens, loaded.min_share, loaded.learns) == (3, 6, 0.4, False)
    assert len(loaded) == len(draft)
    assert loaded.guess([BEGIN], 9) == draft.guess([BEGIN], 9) == [3, 4, 6, EOS]
    changed = NGramDraft.load(tmp_path / "sub" / "lines.ngrams", learns=True, num_tokens=2)
    assert (changed.learns, changed.num_tokens) == (True, 2)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["lines.ngrams"]


def test_damaged_files(tmp_path):
    path = tmp_path / "lines.ngrams"
    NGramDraft.from_texts(["abc"], Letters(), order=3).save(path)
    whole = path.read_bytes()

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(DraftError, match=message):
            NGramDraft.load(path)

    refused(whole[: len(whole) // 2], "cannot be read as n-grams")
    refused(b"", "cannot be read as n-grams")
    refused(json.dumps({"a": 1}).encode(), "cannot be read as n-grams")
    with pytest.raises(DraftError, match=r"missing\.ngrams: cannot be read as n-grams"):
        NGramDraft.load(tmp_path / "missing.ngrams")
    arrays = dict(np.load(_write(path, whole)))
    for name, value, message in (
        ("numbers", np.array([9, 3, 8, 0, 10]), "format 9 of n-gram files, expected 1"),
        ("numbers", np.array([1, 3]), "cannot be read as n-grams"),
        ("ngrams_2", np.zeros((2, 2), np.int32), "the 2-grams have shape"),
        ("ngrams_3", -np.ones((2, 4), np.int32), "negative ids, or counts below 1"),
        ("ngrams_3", None, "cannot be read as n-grams"),
    ):
        wrong = {**arrays, name: value}
        np.savez(tmp_path / "wrong.npz", **{key: array for key, array in wrong.items() if array is not None})
        refused((tmp_path / "wrong.npz").read_bytes(), message)


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 1}, "order is 1, expected a whole number, 2 or more"),
        ({"order": True}, "order is True"),
        ({"min_share": 1.5}, "min_share is 1.5, expected a share"),
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"max_entries": 0}, "max_entries is 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(DraftError, match=message):
        NGramDraft(**options)


def test_texts_that_do_not_serve():
    with pytest.raises(DraftError, match="no text to count n-grams in"):
        NGramDraft.from_texts([], Letters())
    without_end = Letters()
    without_end.eos_token_id = None
    with pytest.raises(DraftError, match="this Letters has no end token"):
        NGramDraft.from_texts(["a"], without_end)
    with pytest.raises(GenerationError, match="token ids up to 13, the model's vocabulary has ids 0 to 7"):
        generate(spell([EOS]), pixels(0), draft=NGramDraft.from_texts(["k"], Letters()))
