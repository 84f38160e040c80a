import pytest
import torch

from trocr.generation.search import LARGE, SPAN, WIDE, TokenChooser, first_best, half_of_many
from trocr.generation.stopping import Stop

PAD, EOS = 1, 2


def chooser(rows: int = 3, max_length: int = 5, ends=(EOS,), **options) -> TokenChooser:
    ids = torch.full((rows, 1), EOS)
    return TokenChooser(ids, Stop(end_tokens=ends, max_length=max_length), **{"pad_token_id": PAD, **options})


def scores(*tokens: int, vocab_size: int = 8) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens), vocab_size).float() * 5


def test_greedy_pads_what_is_finished():
    search = chooser()
    assert not search.choose(scores(5, EOS, 6), None).done
    assert not search.choose(scores(6, 7, EOS), None).done
    assert search.choose(scores(EOS, 7, 7), None).done
    found = search.results()
    assert found.sequences.tolist() == [[2, 5, 6, 2], [2, 2, 1, 1], [2, 6, 2, 1]]
    assert found.finished.tolist() == [True, True, True]
    assert not found.cut.any()


def test_rows_that_reach_the_limit_are_cut():
    search = chooser(max_length=3)
    assert not search.choose(scores(5, EOS, 6), None).done
    assert search.choose(scores(6, 7, EOS), None).done
    found = search.results()
    assert found.finished.tolist() == [False, True, True]
    assert found.cut.tolist() == [True, False, False]


def test_the_first_of_equal_scores_is_taken():
    search = chooser(rows=1)
    search.choose(torch.tensor([[0.0, 3.0, 1.0, 3.0]]), None)
    assert search.results().sequences.tolist() == [[2, 1]]


def test_without_end_tokens_rows_go_on():
    search = chooser(ends=(), rows=2)
    search.stop.criteria = (lambda ids, scores: ids[:, -1] == 5,)
    assert not search.choose(scores(5, 6), None).done
    assert search.choose(scores(7, 5), None).done
    assert search.results().sequences.tolist() == [[2, 5, 7], [2, 6, 5]], "as the reference, without padding"
    assert not search.results().finished.any()


def test_log_probabilities_of_the_chosen_tokens():
    search = chooser(rows=2, with_log_probs=True)
    first = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    first[0, EOS] = 9
    search.choose(first, None)
    search.choose(scores(5, 6), None)
    found = search.results()
    expected = first.log_softmax(-1).amax(-1)
    torch.testing.assert_close(found.token_log_probs[:, 0], expected)
    assert found.token_log_probs[0, 1] == 0.0, "padding has none"
    torch.testing.assert_close(found.token_log_probs[1, 1], scores(6).log_softmax(-1)[0, 6])


def test_sampling_follows_the_seed_and_the_probabilities():
    def draws(seed: int) -> list[int]:
        search = chooser(rows=400, sample=True, generator=torch.Generator().manual_seed(seed))
        search.choose(torch.tensor([0.5, 0.25, 0.25]).log().expand(400, 3), None)
        return search.results().sequences[:, 1].tolist()

    assert draws(1) == draws(1) != draws(2)
    counts = [draws(1).count(token) for token in range(3)]
    assert 160 < counts[0] < 240
    assert min(counts[1:]) > 60


def test_sampling_never_draws_what_is_banned():
    search = chooser(rows=200, sample=True)
    search.choose(torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]]).expand(200, 4), None)
    assert set(search.results().sequences[:, 1].tolist()) <= {1, 3}


@pytest.mark.parametrize("may_drop", [False, True])
def test_dropping_finished_rows_changes_no_result(may_drop):
    rows = 8 * LARGE
    random = torch.Generator().manual_seed(3)
    table = torch.randn(12, rows, 8, generator=random)
    table[..., EOS] += 1.0
    search = chooser(rows=rows, max_length=12, may_drop=may_drop, with_log_probs=True)
    plain = chooser(rows=rows, max_length=12, with_log_probs=True)
    here, drops = torch.arange(rows), 0
    for step in range(12):
        choice, expected = search.choose(table[step, here], None), plain.choose(table[step], None)
        assert choice.tokens.tolist() == expected.tokens.tolist()
        assert choice.done == expected.done
        if choice.rows is not None:
            drops += 1
            here = here[choice.rows]
        assert search.ids.shape[0] == len(here)
        if choice.done:
            break
    found, expected = search.results(), plain.results()
    assert drops >= 2 if may_drop else drops == 0
    assert len(here) >= LARGE // 4
    for name in ("sequences", "finished", "cut", "token_log_probs"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("width", [WIDE - 1, WIDE, WIDE + 1, WIDE + SPAN - 1, 50265])
def test_the_best_of_many_scores_is_argmax(width):
    random = torch.Generator().manual_seed(width)
    few_values = torch.randint(0, 40, (6, width), generator=random).float()
    many = torch.randn(6, 2, width, generator=random)[:, 1]  # rows that are not neighbours in memory
    for place, row in enumerate(many):
        row[[0, SPAN - 1, SPAN, width // 2, width - 2, width - 1][place]] = 9.0
    odd = torch.full((4, width), -torch.inf)
    odd[1, width - 1] = 0.0
    odd[2, 700] = odd[2, 5000] = torch.nan
    odd[3, [5, SPAN + 5]] = torch.inf
    for scores in (few_values, many, odd):
        assert torch.equal(first_best(scores), scores.argmax(dim=-1))


def test_a_decoder_may_have_rows_dropped_as_soon_as_they_end():
    asked = []

    def at_once(num_rows: int, num_finished: int) -> bool:
        asked.append((num_rows, num_finished))
        return True

    search = chooser(rows=3, may_drop=True, drops=at_once, with_log_probs=True)
    assert search.choose(scores(5, 6, 7), None).rows is None
    assert search.choose(scores(5, EOS, 7), None).rows.tolist() == [0, 2]
    assert search.ids.tolist() == [[2, 5, 5], [2, 7, 7]]
    choice = search.choose(scores(EOS, 6), None)
    assert (choice.tokens.tolist(), choice.rows.tolist()) == ([EOS, PAD, 6], [1])
    assert search.choose(scores(EOS), None).done
    found = search.results()
    assert found.sequences.tolist() == [[2, 5, 5, EOS, PAD], [2, 6, EOS, PAD, PAD], [2, 7, 7, 6, EOS]]
    assert (found.token_log_probs != 0).sum(dim=1).tolist() == [3, 2, 4]
    assert found.finished.all()
    assert asked == [(3, 1), (2, 1)]


def test_many_rows_are_dropped_once_half_of_them_are_finished():
    assert [half_of_many(LARGE, done) for done in (LARGE // 2 - 1, LARGE // 2)] == [False, True]
    assert not half_of_many(LARGE - 1, LARGE - 2)
