import time

import torch

from trocr.generation.stopping import Stop

ROWS = torch.tensor([[2, 5, 2], [2, 2, 7], [2, 5, 9]])


def test_end_tokens():
    assert Stop(end_tokens=[2], max_length=9)(ROWS).tolist() == [True, False, False]
    assert Stop(end_tokens=[2, 9], max_length=9)(ROWS).tolist() == [True, False, True]
    assert Stop(end_tokens=[], max_length=9)(ROWS).tolist() == [False, False, False]


def test_length():
    assert Stop(end_tokens=[2], max_length=3)(ROWS).all()
    assert not Stop(end_tokens=[4], max_length=4)(ROWS).any()


def test_time():
    stop = Stop(end_tokens=[], max_length=9, max_time_s=0.01)
    time.sleep(0.02)
    assert stop(ROWS).all()
    assert not Stop(end_tokens=[], max_length=9, max_time_s=60.0)(ROWS).any()


def test_criteria_are_added():
    seen = []

    def row_wise(ids, scores):
        seen.append(scores)
        return ids[:, -1] == 7

    stop = Stop(end_tokens=[2], max_length=9, criteria=[row_wise, lambda ids, scores: False])
    assert stop(ROWS, ("scores",)).tolist() == [True, True, False]
    assert seen == [("scores",)]
    assert Stop(end_tokens=[], max_length=9, criteria=[lambda ids, scores: True])(ROWS).all()


def test_finished_rows_are_padded_where_tokens_end_them():
    def criterion(ids, scores):
        return False

    assert Stop(end_tokens=[2], max_length=9).pads_finished
    assert not Stop(end_tokens=[], max_length=9, criteria=[criterion]).pads_finished
    criterion.eos_token_id = 5  # as the reference's EosTokenCriteria has
    assert Stop(end_tokens=[], max_length=9, criteria=[criterion]).pads_finished
