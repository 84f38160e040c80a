"""Processors: what they do, that they change nothing they are given, and that the reference's do the same."""

import math

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trocr.generation import GenerationConfig, GenerationError, filters, processors
from trocr.generation.processors import (
    AddBias,
    AllowOnly,
    BanRepeatedNgrams,
    Chain,
    FavourEnd,
    Force,
    PenalizeRepetition,
    Renormalize,
    ReplaceInvalid,
    Suppress,
)

V = 12
CPU = torch.device("cpu")
EXACT = {"rtol": 0.0, "atol": 0.0}
ROUNDING = {"rtol": 1e-6, "atol": 1e-6}


def tensor(*tokens: int) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long)


def allow(image: int, ids: Tensor) -> list[int]:
    return [3, 4 + image % 3, int(ids[-1])]


# ours, and the reference's processor that must give the same
PAIRS = {
    "suppress": (Suppress(tensor(3, 5)), hf.SuppressTokensLogitsProcessor([3, 5])),
    "begin": (Suppress(tensor(3, 5), 3, 4), hf.SuppressTokensAtBeginLogitsProcessor([3, 5], 3)),
    "min length": (Suppress(tensor(2, 4), end=4), hf.MinLengthLogitsProcessor(4, [2, 4])),
    "min new": (Suppress(tensor(2), end=1 + 3), hf.MinNewTokensLengthLogitsProcessor(1, 3, [2])),
    "first": (Force(tensor(7), 1), hf.ForcedBOSTokenLogitsProcessor(7)),
    "last": (Force(tensor(2, 4), 4), hf.ForcedEOSTokenLogitsProcessor(5, [2, 4])),
    "repetition": (PenalizeRepetition(1.7), hf.RepetitionPenaltyLogitsProcessor(1.7)),
    "encouraged": (PenalizeRepetition(0.5), hf.RepetitionPenaltyLogitsProcessor(0.5)),
    "padded": (
        PenalizeRepetition(1.7, tensor(0, 2, 1)),
        hf.RepetitionPenaltyLogitsProcessor(1.7, prompt_ignore_length=tensor(0, 2, 1)),
    ),
    "1-grams": (BanRepeatedNgrams(1), hf.NoRepeatNGramLogitsProcessor(1)),
    "2-grams": (BanRepeatedNgrams(2), hf.NoRepeatNGramLogitsProcessor(2)),
    "3-grams": (BanRepeatedNgrams(3), hf.NoRepeatNGramLogitsProcessor(3)),
    "bad words": (
        AddBias.of([((3,), -math.inf), ((4, 3), -math.inf), ((2, 2, 5), -math.inf)], CPU),
        hf.NoBadWordsLogitsProcessor([[3], [4, 3], [2, 2, 5], [2]], eos_token_id=2),
    ),
    "bias": (
        AddBias.of([((3,), 1.5), ((4, 3), -2.0), ((5, 3), 1.0), ((2, 2, 5), 4.0)], CPU),
        hf.SequenceBiasLogitsProcessor([[[3], 1.5], [[4, 3], -2.0], [[5, 3], 1.0], [[2, 2, 5], 4.0]]),
    ),
    "allow": (AllowOnly(allow, 1), hf.PrefixConstrainedLogitsProcessor(allow, 1)),
    "allow beams": (AllowOnly(allow, 3), hf.PrefixConstrainedLogitsProcessor(allow, 3)),
    "invalid": (ReplaceInvalid(), hf.InfNanRemoveLogitsProcessor()),
    "decay": (FavourEnd(tensor(2, 4), 2, 1.4), hf.ExponentialDecayLengthPenalty((1, 1.4), [2, 4], 1)),
    "renormalize": (Renormalize(), hf.LogitNormalization()),
    "temperature": (filters.Temperature(0.7), hf.TemperatureLogitsWarper(0.7)),
    "top k": (filters.TopK(3), hf.TopKLogitsWarper(3)),
    "top k of beams": (filters.TopK(1, keep=3), hf.TopKLogitsWarper(1, min_tokens_to_keep=3)),
    "top k of all": (filters.TopK(50), hf.TopKLogitsWarper(50)),
    "top p": (filters.TopP(0.6), hf.TopPLogitsWarper(0.6)),
    "top p of nothing": (filters.TopP(0.0), hf.TopPLogitsWarper(0.0)),
    "top p of beams": (filters.TopP(0.01, keep=2), hf.TopPLogitsWarper(0.01, min_tokens_to_keep=2)),
    "min p": (filters.MinP(0.2, keep=2), hf.MinPLogitsWarper(0.2, min_tokens_to_keep=2)),
    "typical": (filters.Typical(0.5), hf.TypicalLogitsWarper(0.5)),
    "typical of beams": (filters.Typical(0.1, keep=3), hf.TypicalLogitsWarper(0.1, min_tokens_to_keep=3)),
    "epsilon": (filters.EpsilonCutoff(0.1), hf.EpsilonLogitsWarper(0.1)),
    "eta": (filters.EtaCutoff(0.1, keep=2), hf.EtaLogitsWarper(0.1, min_tokens_to_keep=2)),
}


def draw(seed: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows of few tokens, so that they repeat, and scores with ties and banned tokens among them."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 6, (3, length), generator=random)
    values = torch.randn(3, V, generator=random) * 3
    values = torch.where(torch.rand(3, V, generator=random) < 0.4, values.round(), values)
    banned = torch.rand(3, V, generator=random) < 0.3
    banned[torch.arange(3), torch.randint(0, V, (3,), generator=random)] = False
    return ids, values.masked_fill(banned, -math.inf)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 8))
def test_same_as_the_reference_and_pure(name, seed, length):
    ours, theirs = PAIRS[name]
    ids, values = draw(seed, length)
    given_ids, given_values = ids.clone(), values.clone()
    found = ours(ids, values)
    assert torch.equal(ids, given_ids)
    assert torch.equal(values, given_values)
    expected = theirs(ids, values.clone())
    assert torch.equal(found.isinf(), expected.isinf())
    torch.testing.assert_close(found, expected, **(ROUNDING if name in ("renormalize", "decay") else EXACT))
    assert found.shape == values.shape
    assert found.dtype == values.dtype


def test_repetition_of_many_equal_tokens():
    ids = torch.full((1, 512), 5)
    assert PenalizeRepetition(2.0)(ids, torch.ones(1, V))[0, 5] == 0.5


def test_ngrams_ban_what_would_repeat():
    found = BanRepeatedNgrams(2)(torch.tensor([[2, 5, 6, 5]]), torch.zeros(1, V))
    assert found.isinf().nonzero()[:, 1].tolist() == [6]


def test_constraint_wins_over_bans():
    banned = torch.full((2, V), -math.inf)
    found = AllowOnly(lambda image, ids: [3], 1)(tensor(2, 2)[:, None], banned)
    assert found[:, 3].tolist() == [0.0, 0.0]
    banned[1, 3] = 1.0  # of two beams of one image the second is allowed to go on: the first stays banned
    found = AllowOnly(lambda image, ids: [3], 2)(tensor(2, 2)[:, None], banned)
    assert found[:, 3].tolist() == [-math.inf, 1.0]


def test_constraint_without_tokens():
    with pytest.raises(GenerationError, match=r"named no token for image 1 after \[2, 7\]"):
        AllowOnly(lambda image, ids: [3] if image == 0 else [], 1)(
            torch.tensor([[2, 6], [2, 7]]), torch.zeros(2, V)
        )


def test_constraint_that_forgets_to_return():
    with pytest.raises(GenerationError, match="named no token for image 0"):
        AllowOnly(lambda image, ids: None, 1)(torch.tensor([[2]]), torch.zeros(1, V))


@pytest.mark.parametrize(("tokens", "found"), [([3, V], "3 to 12"), (torch.tensor([-1, 3]), "-1 to 3")])
def test_constraint_outside_the_vocabulary(tokens, found):
    with pytest.raises(GenerationError, match=f"named tokens from {found}, the vocabulary has ids 0 to 11"):
        AllowOnly(lambda image, ids: tokens, 1)(torch.tensor([[2]]), torch.zeros(1, V))


def test_invalid_values_are_replaced():
    found = ReplaceInvalid()(tensor(2)[:, None], torch.tensor([[math.nan, math.inf, -math.inf, 1.0]]))
    assert found.tolist() == [[0.0, torch.finfo(torch.float32).max, torch.finfo(torch.float32).min, 1.0]]


def build(prefix: int = 1, max_length: int = 9, **options) -> Chain:
    made = GenerationConfig(**{"eos_token_id": 2, **options}).completed()
    return processors.build(made, prefix=prefix, max_length=max_length, device=CPU)


def kinds(chain: Chain) -> list[str]:
    return [type(step).__name__ for step in chain.steps]


def test_nothing_to_do():
    assert kinds(build()) == []
    assert kinds(build(temperature=0.5, top_k=3)) == [], "filters are for sampling"


def test_order_is_that_of_the_reference():
    everything = {
        "sequence_bias": [[[3], 1.0]],
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[3]],
        "min_length": 3,
        "min_new_tokens": 3,
        "forced_bos_token_id": 4,
        "forced_eos_token_id": 2,
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": (2, 1.1),
        "suppress_tokens": [5],
        "begin_suppress_tokens": [6],
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.1,
        "eta_cutoff": 0.1,
        "renormalize_logits": True,
    }
    custom = Suppress(tensor(9))
    made = GenerationConfig(eos_token_id=2, **everything).completed()
    chain = processors.build(
        made, prefix=1, max_length=9, device=CPU, allowed=lambda image, ids: [3], custom=[custom]
    )
    order = """
        AddBias PenalizeRepetition BanRepeatedNgrams AddBias Suppress Suppress AllowOnly Force Force
        ReplaceInvalid FavourEnd Suppress Suppress Suppress
        Temperature TopK TopP MinP Typical EpsilonCutoff EtaCutoff Renormalize
    """
    assert kinds(chain) == order.split()
    assert chain.steps[13] is custom


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({}, 1),
        ({"num_beams": 2}, 2),
        ({"num_beams": 2, "eos_token_id": [2, 3]}, 3),
        ({"num_beams": 2, "eos_token_id": None}, 2),
    ],
)
def test_filters_keep_enough_tokens_for_beams(options, keep):
    chain = build(do_sample=True, top_k=1, **options)
    assert chain.steps == (filters.TopK(1, keep),)


@pytest.mark.parametrize(("prefix", "forced", "begin"), [(1, None, 1), (1, 4, 2), (3, None, 3), (3, 4, 3)])
def test_where_the_beginning_is(prefix, forced, begin):
    chain = build(prefix=prefix, begin_suppress_tokens=[6], forced_bos_token_id=forced)
    assert (chain.steps[-1].start, chain.steps[-1].end) == (begin, begin + 1)


def test_the_end_token_is_no_bad_word():
    (step,) = build(bad_words_ids=[[2], [3], [2, 3]]).steps
    found = step(tensor(2)[:, None], torch.zeros(1, V))
    assert found.isinf().nonzero()[:, 1].tolist() == [3]


def test_minimum_lengths_count_differently():
    of_row, of_new = build(prefix=4, min_length=6, min_new_tokens=6).steps
    assert (of_row.end, of_new.end) == (6, 10)


def test_without_end_token_there_is_no_minimum():
    assert kinds(build(eos_token_id=None, min_length=5, min_new_tokens=5)) == []
