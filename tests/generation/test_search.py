import pytest
import torch

from trocr.generation.search import LARGE, TokenChooser
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
