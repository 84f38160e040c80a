"""Learning rates against values worked out by hand."""

import pytest

from trocr.training.option_fields import OptionsError
from trocr.training.option_tables import OptimizerOptions, ScheduleOptions
from trocr.training.schedule import build_schedule


def rates(kind, steps, *, total=1000, lr=2e-5, **options):
    rate = build_schedule(ScheduleOptions(kind=kind, **options), OptimizerOptions(lr=lr), total_steps=total)
    return [rate(step) for step in steps]


def test_inverse_sqrt_is_fairseqs():
    # IAM's recipe: lr 2e-5, 500 steps of warm-up from 1e-8. fairseq: 1e-8 + n * (2e-5 - 1e-8) / 500, then
    # 2e-5 * sqrt(500) / sqrt(n).
    found = rates("inverse_sqrt", [0, 1, 250, 499, 500, 2000, 8000], warmup_steps=500, warmup_init_lr=1e-8)
    expected = [1e-8, 4.998e-8, 1.0005e-5, 1.996002e-5, 2e-5, 1e-5, 5e-6]
    assert found == pytest.approx(expected, rel=1e-9)


def test_inverse_sqrt_without_warmup_begins_at_the_rate():
    assert rates("inverse_sqrt", [0, 1, 4], lr=1.0) == [1.0, 1.0, 0.5]


def test_cosine():
    found = rates("cosine", [0, 50, 100, 325, 550, 1000, 2000], lr=1.0, warmup_steps=100, min_lr=0.1)
    # A quarter of the way, cos(45 degrees) = 0.70711: 0.1 + 0.9 * 1.70711 / 2.
    assert found == pytest.approx([0, 0.5, 1, 0.8681981, 0.55, 0.1, 0.1], abs=1e-6)


def test_linear_and_its_own_end():
    found = rates("linear", [0, 10, 60, 110, 500], lr=1.0, warmup_steps=10, min_lr=0.2, decay_steps=110)
    assert found == pytest.approx([0, 1, 0.6, 0.2, 0.2])


def test_constant():
    assert rates("constant", [0, 1, 2, 999], lr=1.0, warmup_steps=2) == [0, 0.5, 1, 1]


def test_a_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(OptionsError, match=r"schedule\.warmup_steps=1000 must be below the 1000 steps"):
        rates("cosine", [0], warmup_steps=1000)
