"""Float16, recomputed blocks and compiled blocks: the same learning by other ways."""

import copy
import dataclasses
from itertools import islice

import pytest
import torch
from drawn import drawn_lines, processor, small_model
from torch.amp.grad_scaler import GradScaler

from trocr.training.batches import Batch, BatchSettings, Windows, training_batches
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer
from trocr.training.option_tables import ModelOptions, OptimizerOptions
from trocr.training.start import load_start
from trocr.training.state import load_state, restore, save_state
from trocr.training.steps import TrainingError, train_steps

LR = 1e-3
FLOAT16_TOLERANCE = 2e-3
"""Relative, of losses after some steps: numbers of eleven bits."""

COMPILE_TOLERANCE = 1e-4
"""Relative, of losses after some steps: sums in another order."""


class Run:
    """A model, its optimizer and a scaler for float16."""

    def __init__(self, model, *, scale: float = 0.0, clip_norm: float | None = 1.0):
        self.objective = Objective(model)
        self.optimizer = build_optimizer(self.objective, OptimizerOptions(lr=LR))
        self.scaler = GradScaler("cpu", init_scale=scale, growth_interval=3) if scale else None
        self.clip_norm = clip_norm
        self.step = 0
        torch.manual_seed(1)

    def train(self, count: int, batches=None):
        settings = BatchSettings(size=2, lanes=2, window=2, width_buckets=(64, 160))
        lines = Windows(drawn_lines(16), processor(), settings)
        steps = train_steps(
            self.objective,
            batches or training_batches(lines, start_step=self.step),
            self.optimizer,
            schedule=lambda _: LR,
            start_step=self.step,
            clip_norm=self.clip_norm,
            autocast_dtype=torch.float16 if self.scaler else None,
            scaler=self.scaler,
        )
        taken = list(islice(steps, count))
        self.step += count
        return taken


def losses(steps) -> list[float]:
    return [step.loss for step in steps]


def saved(folder, **options):
    """A checkpoint that `load_start` reads."""
    small_model(**options).save_pretrained(folder)
    processor().save_pretrained(folder)
    return str(folder)


def test_float16_learns_as_float32_does():
    model = small_model()
    single, half = Run(copy.deepcopy(model)), Run(model, scale=1024.0)
    expected = single.train(5)
    found = half.train(5)
    assert losses(found) == pytest.approx(losses(expected), rel=FLOAT16_TOLERANCE)
    assert losses(found) != losses(expected)
    for mine, other in zip(found, expected, strict=True):  # norms without the scale
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=20 * FLOAT16_TOLERANCE)
    assert half.scaler.get_scale() > 1024.0  # it grew


def test_a_step_that_overflows_is_left_out_and_the_scale_lowered():
    run = Run(small_model(), scale=2.0**25)
    before = copy.deepcopy(run.objective.state_dict())
    (step,) = run.train(1)
    assert step.loss == pytest.approx(6.3, abs=0.5)
    assert run.scaler.get_scale() == 2.0**24
    assert all(torch.equal(value, before[name]) for name, value in run.objective.state_dict().items())
    run.train(10)
    assert run.scaler.get_scale() < 2.0**24
    assert not torch.equal(run.objective.model.encoder.norm.weight, before["model.encoder.norm.weight"])


def test_overflow_without_end_stops_with_the_names():
    run = Run(small_model(), scale=1.0)
    run.objective.model.encoder.norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(
        TrainingError, match=r"step 14: the gradient overflowed in float16 .* line\d+\.png.*bfloat16"
    ):
        run.train(20)


def test_a_float16_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = Run(small_model(dropout=0.1), scale=2.0**28)  # steps are left out, and later the scale grows
    expected = losses(whole.train(12))
    first = Run(small_model(dropout=0.1), scale=2.0**28)
    assert losses(first.train(6)) == expected[:6]
    save_state(tmp_path, first.objective, first.optimizer, step=first.step, scaler=first.scaler)
    second = Run(small_model(dropout=0.1, seed=5), scale=4.0)
    state = load_state(tmp_path)
    second.step = restore(state, second.objective, second.optimizer, scaler=second.scaler)
    assert losses(second.train(6)) == expected[6:]
    assert second.scaler.get_scale() == whole.scaler.get_scale()


@pytest.mark.parametrize("scale", [0.0, 1024.0], ids=["float32", "float16"])
def test_recomputed_blocks_take_the_same_steps(tmp_path, scale):
    options = ModelOptions(checkpoint=saved(tmp_path, dropout=0.2))
    plain = Run(load_start(options)[0], scale=scale)
    frugal = Run(load_start(dataclasses.replace(options, gradient_checkpointing=True))[0], scale=scale)
    assert frugal.objective.model.encoder.gradient_checkpointing
    torch.manual_seed(2)
    expected = plain.train(4)
    torch.manual_seed(2)
    assert losses(frugal.train(4)) == losses(expected)


def batches_of_one_shape(count: int) -> list[list[Batch]]:
    settings = BatchSettings(size=2, window=1, full_width_share=1.0, length_multiple=16)
    return list(islice(training_batches(Windows(drawn_lines(16), processor(), settings)), count))


@pytest.mark.slow
def test_compiled_blocks_take_the_same_steps(tmp_path):
    options = ModelOptions(checkpoint=saved(tmp_path / "start"))
    plain = Run(load_start(options)[0])
    compiled = Run(load_start(dataclasses.replace(options, compile=True))[0])
    assert all(block._compiled_call_impl is not None for block in compiled.objective.model.decoder.blocks)
    steps = batches_of_one_shape(4)
    expected = losses(plain.train(4, steps))
    assert losses(compiled.train(4, steps)) == pytest.approx(expected, rel=COMPILE_TOLERANCE)
    # Compiled or not is no part of the weights' names.
    compiled.objective.model.save_pretrained(tmp_path / "trained")
    again = ModelOptions(checkpoint=str(tmp_path / "trained"))
    processor().save_pretrained(tmp_path / "trained")
    model = load_start(again)[0]
    for name, value in plain.objective.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=2 * LR)
