"""The same learning: steps on the same batches give the losses of a plain loop over the reference."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import FAMILIES, Family, Pair, images, labels, load_hf, load_ours, make_pair
from torch import Tensor, nn
from torch.nn.functional import pad

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.data.sources import open_source
from trocr.hub import PRETRAINED
from trocr.training.batches import Batch, BatchSettings, Windows, training_batches
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer, freeze_unused
from trocr.training.option_tables import OptimizerOptions
from trocr.training.steps import Step, train_steps

STEPS = 20
RELATIVE = 1e-5
"""Of losses in float32; the project's bound is 1e-4. Adam divides by roots of small numbers, which magnifies
rounding. Measured after 20 steps: 3e-7, of the shipped reader 2e-6; gradient norms 3e-7 and 6e-6."""

OPTIONS = OptimizerOptions(lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-8)


def lr_at(step: int, lr: float = OPTIONS.lr) -> float:
    """A warm-up and a fall: a rate that is one step late shows."""
    return lr * min((step + 1) / 5, 5 / (step + 1))


def batches_of(family: Family, *, lanes: int = 1, rows: int = 3) -> list[list[Batch]]:
    """Steps of micro-batches with texts of unequal lengths."""
    steps = []
    for step in range(STEPS):
        lane_batches = []
        for lane in range(lanes):
            seed = step % 4 * lanes + lane  # images come again, so that there is something to learn
            lane_batches.append(
                Batch(
                    pixel_values=images(family, rows, seed=10 + seed),
                    labels=labels(rows, 6 + 2 * (seed % 3), seed=50 + seed),
                    texts=("",) * rows,
                    names=("drawn",) * rows,
                )
            )
        steps.append(lane_batches)
    return steps


def joined(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """The micro-batches of a step as one batch."""
    length = max(batch.labels.shape[1] for batch in batches)
    rows = [pad(batch.labels, (0, length - batch.labels.shape[1]), value=-100) for batch in batches]
    return torch.cat([batch.pixel_values for batch in batches]), torch.cat(rows)


def reference_losses(
    model: nn.Module, steps: Sequence[Sequence[Batch]], lr: float = OPTIONS.lr
) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step of a loop as tutorials have it."""
    model.train()
    spared = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = {
        id(m.weight)
        for m in model.modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and id(m.weight) not in spared
    }
    groups = [
        {
            "params": [p for p in model.parameters() if id(p) in matrices],
            "weight_decay": OPTIONS.weight_decay,
        },
        {"params": [p for p in model.parameters() if id(p) not in matrices], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIONS.lr, betas=OPTIONS.betas, eps=OPTIONS.eps)
    found = []
    for number, batches in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(number, lr)
        pixels, targets = joined(batches)
        loss = model(pixel_values=pixels, labels=targets).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


def our_steps(
    model: VisionEncoderDecoderModel, steps: Sequence[Sequence[Batch]], lr: float = OPTIONS.lr
) -> list[Step]:
    freeze_unused(model)
    objective = Objective(model)
    optimizer = build_optimizer(objective, OPTIONS)
    return list(
        train_steps(objective, steps, optimizer, schedule=lambda step: lr_at(step, lr), clip_norm=1.0)
    )


def assert_same_learning(found: list[Step], expected: list[tuple[float, float]]) -> None:
    assert len(found) == len(expected) == STEPS
    for step, (loss, norm) in zip(found, expected, strict=True):
        assert step.loss == pytest.approx(loss, rel=RELATIVE), f"step {step.step}"
        assert step.grad_norm == pytest.approx(norm, rel=5 * RELATIVE), f"gradient of step {step.step}"
    assert found[-1].loss < 0.9 * found[0].loss, "nothing was learned, so nothing is compared"


@pytest.mark.parametrize("lanes", [1, 2], ids=["whole", "accumulated"])
@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_are_those_of_the_reference(name: str, lanes: int, tmp_path: Path) -> None:
    pair = make_pair(name, tmp_path, gain=1.0)
    steps = batches_of(pair.family, lanes=lanes)
    assert_same_learning(our_steps(pair.ours, steps), reference_losses(pair.hf, steps))
    assert_both_read_alike(pair, tmp_path / "trained")


def assert_both_read_alike(pair: Pair, folder: Path) -> None:
    """What was trained here and saved is, in the reference, what the reference trained."""
    pair.ours.save_pretrained(folder)
    pixels, targets = images(pair.family, 3, seed=99), labels(3, 8, seed=98)
    with torch.no_grad():
        loss = load_hf(folder)(pixel_values=pixels, labels=targets).loss
        expected = pair.hf.eval()(pixel_values=pixels, labels=targets).loss
    assert float(loss) == pytest.approx(float(expected), rel=RELATIVE)


def test_the_reference_goes_on_where_we_stopped_and_back(tmp_path: Path) -> None:
    """Ten steps here and ten there, whichever comes first, through saved checkpoints."""
    pair = make_pair("unilm", tmp_path / "start", gain=1.0)
    steps = batches_of(pair.family)
    first, second = steps[: STEPS // 2], steps[STEPS // 2 :]
    ours_first = [step.loss for step in our_steps(pair.ours, first)]
    pair.ours.save_pretrained(tmp_path / "ours")
    then_theirs = [loss for loss, _ in reference_losses(load_hf(tmp_path / "ours"), second)]
    theirs_first = [loss for loss, _ in reference_losses(pair.hf, first)]
    pair.hf.save_pretrained(tmp_path / "theirs")
    then_ours = [step.loss for step in our_steps(load_ours(tmp_path / "theirs"), second)]
    assert ours_first + then_theirs == pytest.approx(theirs_first + then_ours, rel=RELATIVE)


def test_twenty_steps_of_the_shipped_reader_on_lines_of_text(repo: Path) -> None:
    """Real lines through the data pipeline, from real weights."""
    folder = PRETRAINED / "tiny-printed"
    config = VisionEncoderDecoderModel.config_class.from_pretrained(folder)
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, dropout=0.0))
    ours = VisionEncoderDecoderModel.from_pretrained(folder, config=config)
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder)
    for module in theirs.modules():  # the reference's decoder keeps its rates as numbers
        module.dropout = (
            0.0 if isinstance(getattr(module, "dropout", None), float) else getattr(module, "dropout", None)
        )
    processor = TrOCRProcessor.from_pretrained(folder)
    settings = BatchSettings(size=1, lanes=2, window=2, length_multiple=4)
    endless = training_batches(Windows(open_source(repo / "examples"), processor, settings))
    steps = [next(endless) for _ in range(STEPS)]
    lr = 5e-5  # what it knows is not to be shaken
    assert_same_learning(our_steps(ours, steps, lr), reference_losses(theirs, steps, lr))
