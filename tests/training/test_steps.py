import copy
import dataclasses
import math
from itertools import islice

import pytest
import torch
from drawn import drawn_lines, processor, small_model

from trocr.training.batches import Batch, BatchSettings, Windows, training_batches
from trocr.training.ctc import PRINTABLE_ASCII, CTCHead
from trocr.training.objective import Objective
from trocr.training.steps import TrainingError, train_steps

SUM_TOLERANCE = 2e-5
"""Float32 sums of some hundred losses in another order."""


@pytest.fixture(scope="module")
def proc():
    return processor()


def steps_of(proc, **settings):
    chosen = {"size": 4, "lanes": 2, "window": 2, "width_buckets": (64, 160)} | settings
    windows = Windows(source=drawn_lines(32), processor=proc, settings=BatchSettings(**chosen))
    return training_batches(windows)


def objective(*, with_ctc: bool = False, **options) -> Objective:
    model = small_model(**options)
    head = None
    if with_ctc:
        embeddings = model.encoder.embeddings
        head = CTCHead(
            width=32, alphabet=PRINTABLE_ASCII, grid=embeddings.grid, num_prefix=embeddings.num_prefix
        )
    return Objective(model, ctc=head)


def run(module, batches, count, *, lr=1e-3, **options):
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
    return list(islice(train_steps(module, batches, optimizer, schedule=lambda _: lr, **options), count))


def test_the_loss_is_the_models(proc):
    module = objective()
    (batch,) = next(steps_of(proc, lanes=1, full_width_share=1.0))
    with torch.no_grad():
        expected = module.model.eval()(pixel_values=batch.pixel_values, labels=batch.labels).loss
        found = module(batch.pixel_values, batch.labels).tokens / batch.num_tokens
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (step,) = run(module, [[batch]], 1)
    assert step.token_loss == pytest.approx(float(expected), rel=1e-6)
    assert step.num_tokens == batch.num_tokens
    assert step.num_lines == 4


def test_training_lowers_the_loss(proc):
    module = objective()
    steps = run(module, steps_of(proc, lanes=1), 30, lr=3e-3, clip_norm=1.0)
    assert [step.step for step in steps] == list(range(1, 31))
    assert math.log(520) - 1 < steps[0].loss < math.log(520) + 1
    assert steps[-1].loss < steps[0].loss - 1.5


def test_micro_batches_are_weighted_by_their_tokens(proc):
    """Two unequal micro-batches in a step are one batch of all their lines."""
    (first, second) = next(steps_of(proc, full_width_share=1.0, length_multiple=1))
    second = dataclasses.replace(
        second,
        pixel_values=second.pixel_values[:1],
        labels=second.labels[:1],
        texts=second.texts[:1],
        names=second.names[:1],
    )
    length = max(first.labels.shape[1], second.labels.shape[1])
    joined = Batch(
        pixel_values=torch.cat((first.pixel_values, second.pixel_values)),
        labels=torch.cat(
            [
                torch.nn.functional.pad(b.labels, (0, length - b.labels.shape[1]), value=-100)
                for b in (first, second)
            ]
        ),
        texts=first.texts + second.texts,
        names=first.names + second.names,
    )
    one = objective(with_ctc=True)
    other = copy.deepcopy(one)
    (apart,) = run(one, [[first, second]], 1, ctc_weight=0.5)
    (together,) = run(other, [[joined]], 1, ctc_weight=0.5)
    assert apart.loss == pytest.approx(together.loss, rel=SUM_TOLERANCE)
    assert apart.ctc_loss == pytest.approx(together.ctc_loss, rel=SUM_TOLERANCE)
    assert apart.grad_norm == pytest.approx(together.grad_norm, rel=SUM_TOLERANCE)


def test_the_ctc_loss_is_added(proc):
    module = objective(with_ctc=True)
    batches = [next(steps_of(proc))]
    (with_head,) = run(copy.deepcopy(module), batches, 1, ctc_weight=0.5)
    (without,) = run(copy.deepcopy(module), batches, 1)
    assert without.ctc_loss is None
    assert with_head.token_loss == pytest.approx(without.token_loss)
    assert with_head.loss == pytest.approx(with_head.token_loss + 0.5 * with_head.ctc_loss)


def test_clipping_shortens_the_gradient(proc):
    module = objective()
    batches = [next(steps_of(proc))]
    before = copy.deepcopy(module.state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    (step,) = train_steps(module, batches, optimizer, schedule=lambda _: 1.0, clip_norm=1e-2)
    moved = torch.sqrt(
        sum(
            ((after - before[name]) ** 2).sum()
            for name, after in module.state_dict().items()
            if "projection" not in name
        )
    )
    assert step.grad_norm > 1e-1
    assert float(moved) == pytest.approx(1e-2, rel=1e-3)


def test_the_schedule_and_the_scale_of_a_group(proc):
    module = objective()
    names = dict(module.named_parameters())
    groups = [
        {"params": [p for n, p in names.items() if "decoder" in n]},
        {"params": [p for n, p in names.items() if "decoder" not in n], "scale": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    seen = []
    for step in islice(
        train_steps(module, steps_of(proc), optimizer, schedule=lambda s: 1e-4 * (s + 1), start_step=3), 2
    ):
        seen.append((step.step, step.lr, [group["lr"] for group in optimizer.param_groups]))
    assert seen == [(4, 4e-4, [4e-4, 2e-4]), (5, 5e-4, [5e-4, 2.5e-4])]


def test_bfloat16_autocast_is_near_float32(proc):
    module = objective()
    batches = [next(steps_of(proc))]
    (single,) = run(copy.deepcopy(module), batches, 1)
    (half,) = run(copy.deepcopy(module), batches, 1, autocast_dtype=torch.bfloat16)
    assert half.loss == pytest.approx(single.loss, rel=2e-2)
    assert half.loss != single.loss


def test_a_loss_that_is_not_a_number_stops_with_the_names(proc):
    (good, _) = next(steps_of(proc))
    bad = dataclasses.replace(good, pixel_values=good.pixel_values * float("nan"))
    module = objective()
    with pytest.raises(
        TrainingError, match=r"step 2: the loss is nan; the lines are line\d+\.png, .*trocr data"
    ):
        run(module, [[good], [bad]], 2)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_a_gradient_that_is_not_finite_stops(proc):
    module = objective()
    module.model.decoder.embed_tokens.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingError, match=r"step 1: the gradient's norm is (inf|nan).*line\d+\.png"):
        run(module, [next(steps_of(proc))], 1)


def test_what_was_left_out_is_reported(proc):
    (good, other) = next(steps_of(proc))
    batch = dataclasses.replace(good, skipped=("a.png: not an image",), too_long=("b.png",))
    (step,) = run(objective(), [[batch, other]], 1)
    assert step.skipped == ("a.png: not an image",)
    assert step.too_long == ("b.png",)
