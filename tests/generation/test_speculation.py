"""Greedy search with a draft: the same tokens, log-probabilities and errors as without one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import EOS, PAD, ToyCache, ToyDecoder, pixels, spell, toy

from trocr.generation import GenerationError, ModelDraft, generate, stream
from trocr.generation.drafts import DraftCounts


class Oracle:
    """Guesses the texts it is told, right or wrong; `texts[image]` are the tokens after the start."""

    def __init__(self, texts: list[list[int]], num_tokens: int = 4) -> None:
        self.texts, self.num_tokens, self.counts = texts, num_tokens, DraftCounts()
        self.rows: list[int] = []
        self.finished: list[list[int]] = []

    def start(self, source: Any) -> "Oracle":
        self.source, self.rows = source, list(range(len(self.texts)))
        return self

    def propose(self, ids: torch.Tensor, most: int, rows: Any) -> list[list[int]]:
        place = ids.shape[1] - 1
        return [self.texts[row][place : place + most] for row in self.rows]

    def follow(self, rows: torch.Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]

    def finish(self, sequences: torch.Tensor) -> None:
        self.finished = sequences.tolist()


def test_right_guesses_save_calls():
    text = [5, 6, 7, 3, 4, 5, 6, EOS]
    model, draft = spell(text), Oracle([text], num_tokens=3)
    assert generate(model, pixels(0), draft=draft).tolist() == [[2, *text]]
    assert model.decoder.calls == [(1, 4), (1, 4)]
    assert draft.counts == DraftCounts(calls=2, guessed=6, accepted=6)
    assert draft.finished == [[2, *text]]


def test_wrong_guesses_cost_nothing_but_time():
    text = [5, 6, 7, EOS]
    model, draft = spell(text), Oracle([[5, 3, 7, 4, 4, 4]])
    assert generate(model, pixels(0), draft=draft).tolist() == [[2, *text]]
    assert model.decoder.calls == [(1, 5), (1, 5)]
    assert draft.counts.accepted == 2


def test_rows_advance_together_and_finished_ones_wait():
    texts = [[5, EOS], [6, 7, 3, 4, EOS], [7, 7, 7, EOS]]
    draft = Oracle([[5, EOS, 0, 0, 0], [6, 7, 3, 4, EOS], [7, 7, 6, 6, 6]], num_tokens=4)
    model = spell(*texts)
    found = generate(model, pixels(0, 1, 2), draft=draft)
    assert found.tolist() == generate(spell(*texts), pixels(0, 1, 2)).tolist()
    assert model.decoder.calls == [(3, 5), (3, 3)], "the third row held the others back"


def test_rows_are_dropped_in_the_middle_of_a_guess():
    texts = [[5] * (1 + row % 4) + [EOS] for row in range(40)]
    draft = Oracle([[*text, PAD, PAD] for text in texts])
    model = spell(*texts)
    found = generate(model, pixels(*range(40)), draft=draft, return_dict_in_generate=True)
    expected = generate(spell(*texts), pixels(*range(40)), return_dict_in_generate=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.token_log_probs, expected.token_log_probs)
    assert len(draft.rows) < 40


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12])
def test_any_guesses_give_the_same_tokens(seed, limit):
    random = torch.Generator().manual_seed(seed)
    texts = torch.randint(0, 8, (3, 20), generator=random).tolist()
    draft = Oracle(texts, num_tokens=1 + seed % 5)
    options = {"max_new_tokens": limit, "return_dict_in_generate": True, "repetition_penalty": 1.2}
    options |= {"output_scores": True, "output_logits": True}
    plain = generate(toy(seed=seed), pixels(0, 1, 2), **options)
    for guessed in (draft, Oracle([row[1:] for row in plain.sequences.tolist()], num_tokens=4)):
        found = generate(toy(seed=seed), pixels(0, 1, 2), draft=guessed, **options)
        assert torch.equal(found.sequences, plain.sequences)
        assert torch.equal(found.finished, plain.finished)
        assert torch.equal(found.token_log_probs, plain.token_log_probs)
        assert len(found.scores) == len(plain.scores) == len(found.logits)
        assert all(map(torch.equal, found.scores, plain.scores))
        assert all(map(torch.equal, found.logits, plain.logits))
        assert torch.equal(found.past_key_values.ids, plain.past_key_values.ids)


def test_criteria_and_processors_see_every_token_once():
    text = [5, 6, 7, 3, 4, EOS]
    seen: list[list[int]] = []

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.extend(ids.tolist())
        return scores

    found = generate(
        spell(text),
        pixels(0),
        draft=Oracle([text]),
        logits_processor=[watch],
        stopping_criteria=[lambda ids, scores: ids[:, -1] == 3],
    )
    assert found.tolist() == [[2, 5, 6, 7, 3]]
    assert seen == [[2], [2, 5], [2, 5, 6], [2, 5, 6, 7]]


def test_streams_token_by_token():
    text = [5, 6, 7, EOS]
    made = [tokens.tolist() for tokens in stream(spell(text), pixels(0), draft=Oracle([text]))]
    assert made == [[5], [6], [7], [EOS]]


def test_a_guess_ends_with_padding_and_with_the_end(monkeypatch):
    config = SimpleNamespace(vocab_size=8, max_position_embeddings=20, pad_token_id=PAD)
    monkeypatch.setattr(ToyDecoder, "config", config)
    text = [5, PAD, 6, 7, EOS]
    model = spell(text)
    assert generate(model, pixels(0), draft=Oracle([[*text, 3, 3, 3]], num_tokens=8)).tolist() == [[2, *text]]
    assert model.decoder.calls == [(1, 3), (1, 3)]


def test_a_model_as_draft():
    text, wrong = [5, 6, 7, 3, 4, EOS], [5, 6, 3, 3, 4, EOS]
    model, small = spell(text), spell(wrong)
    draft = ModelDraft(small, num_tokens=3)
    assert generate(model, pixels(0), draft=draft).tolist() == [[2, *text]]
    assert small.encoded == 1
    assert model.decoder.calls == [(1, 4), (1, 4)]
    assert draft.counts.accepted == 5
    again = spell(text)
    assert generate(again, pixels(0), assistant_model=spell(wrong)).tolist() == [[2, *text]]
    assert len(again.decoder.calls) == 2


def test_a_doubtful_guess_is_not_made():
    model, small = spell([5, 6, 7, EOS]), toy(num_images=1, scale=0.01)
    draft = ModelDraft(small, min_prob=0.9)
    generate(model, pixels(0), draft=draft)
    assert draft.counts.guessed == 0
    assert all(call[1] == 1 for call in model.decoder.calls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "a draft does not go together with num_beams=2"),
        ({"do_sample": True}, "do_sample=True"),
        ({"use_cache": False}, "use_cache=False"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions=True"),
        ({"num_beams": 2, "use_cache": False}, r"num_beams=1\); use_cache=False"),
    ],
)
def test_what_a_draft_does_not_go_with(options, message):
    model = toy()
    with pytest.raises(GenerationError, match=message):
        generate(model, pixels(0), draft=Oracle([[3]]), **options)
    assert model.encoded == 0, "nothing is computed before the options are checked"


def test_drafts_that_do_not_fit():
    with pytest.raises(GenerationError, match="draft is 'ngram', expected a model"):
        generate(toy(), pixels(0), draft="ngram")
    with pytest.raises(GenerationError, match="vocabulary of 9 tokens, the model one of 8"):
        generate(toy(), pixels(0), draft=toy(vocab_size=9))
    with pytest.raises(GenerationError, match="needs the images: give pixel_values beside encoder_outputs"):
        generate(toy(), encoder_outputs=toy().encode(pixels(0)), draft=toy())
    with pytest.raises(GenerationError, match="guessed token 8, the model's vocabulary has ids 0 to 7"):
        generate(toy(), pixels(0), draft=Oracle([[8]]))
    with pytest.raises(ValueError, match="num_tokens is 0, expected"):
        ModelDraft(toy(), num_tokens=0)
    with pytest.raises(ValueError, match="min_prob is 2, expected"):
        ModelDraft(toy(), min_prob=2)
    with pytest.raises(ValueError, match="a draft model is expected, int was given"):
        ModelDraft(3)


def test_a_cache_that_cannot_be_cut(monkeypatch):
    monkeypatch.delattr(ToyCache, "truncate")
    with pytest.raises(GenerationError, match="ToyCache cannot forget tokens"):
        generate(spell([5, 6, EOS]), pixels(0), draft=Oracle([[5, 3, 3]]))
