import pytest
import torch

from trocr.generation.ranker import WORST, Finished, Rules, take


def rules(penalty: float = 1.0, early: bool | str = False, longest: int = 10) -> Rules:
    return Rules(length_penalty=penalty, early_stopping=early, max_new_tokens=longest)


def places(made: Rules, num: int = 2) -> Finished:
    sequences = torch.full((1, num, 6), 1)
    sequences[:, :, 0] = 2
    return Finished.empty(made, sequences, torch.full((1, num, 5), -1))


def offer(held: Finished, token: int, log_prob: float, num_tokens: int = 1, *, ended: bool = True) -> None:
    sequence = torch.full((1, 1, num_tokens + 1), token)
    rows = torch.zeros((1, 1, num_tokens), dtype=torch.long)
    held.offer(sequence, rows, torch.tensor([[log_prob]]), torch.tensor([[ended]]), num_tokens)


def test_scores_divide_by_length():
    assert rules(2.0).score(torch.tensor(-9.0), 3) == -1.0
    assert rules(0.0).score(torch.tensor(-9.0), 3) == -9.0
    assert rules(-1.0).score(torch.tensor(-9.0), 3) == -27.0


@pytest.mark.parametrize(
    ("penalty", "early", "expected"),
    [(1.0, False, -3.0), (1.0, "never", -0.9), (-1.0, "never", -27.0), (0.0, "never", -9.0)],
)
def test_what_a_running_row_might_reach(penalty, early, expected):
    assert float(rules(penalty, early).best_possible(torch.tensor(-9.0), 3)) == pytest.approx(expected)


def test_the_best_are_kept_in_order():
    held = places(rules())
    for token, log_prob in ((5, -2.0), (6, -1.0), (7, -3.0), (8, -0.5)):
        offer(held, token, log_prob)
    assert held.sequences[0, :, 1].tolist() == [8, 6]
    assert held.scores.tolist() == [[-0.5, -1.0]]
    assert held.taken.all()
    assert held.rows[0, :, 0].tolist() == [0, 0]


def test_rows_that_run_on_are_not_taken():
    held = places(rules())
    offer(held, 5, -1.0, ended=False)
    assert not held.taken.any()
    assert (held.scores <= WORST).all()


def test_early_stopping_closes_full_places():
    held = places(rules(early=True))
    offer(held, 5, -2.0)
    assert bool(held.open)
    offer(held, 6, -3.0)
    assert not bool(held.open)
    offer(held, 7, -1.0)
    assert held.sequences[0, :, 1].tolist() == [5, 6]


def test_hope_is_lost_when_no_running_row_can_be_better():
    held = places(rules(), num=1)
    held.lose_hope(torch.tensor([[-8.0]]), 4)
    assert held.hopeful.all(), "while a place is free there is hope"
    offer(held, 5, -1.0)
    held.lose_hope(torch.tensor([[-3.0]]), 4)
    assert held.hopeful.all(), "-3/4 is better than -1"
    held.lose_hope(torch.tensor([[-8.0]]), 4)
    assert not held.hopeful.any()
    offer(held, 6, -0.1)
    assert held.sequences[0, 0, 1] == 5, "nothing is taken afterwards"
    held.lose_hope(torch.tensor([[-0.1]]), 5)
    assert not bool(held.open), "hope does not come back"


def test_results_of_images_can_be_taken_apart_and_joined():
    sequences = torch.arange(12).view(3, 2, 2)
    held = Finished.empty(rules(), sequences, sequences)
    held.scores = torch.arange(6.0).view(3, 2)
    held.hopeful = torch.tensor([[True], [False], [True]])
    assert held.hopeless.tolist() == [False, True, False]
    again = Finished.join([held.of_images(torch.tensor([1])), held.of_images(torch.tensor([0, 2]))])
    assert again.scores.tolist() == [[2.0, 3.0], [0.0, 1.0], [4.0, 5.0]]
    assert torch.equal(again.of_images(torch.tensor([1, 0, 2])).sequences, sequences)


def test_take_picks_along_the_second_dimension():
    values = torch.arange(12).view(2, 3, 2)
    assert take(values, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
