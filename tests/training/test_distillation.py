"""A teacher's losses: by hand, with itself, and in training."""

import copy
import dataclasses
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from drawn import drawn_lines, processor, small_model
from torch import nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.training.batches import BatchSettings, Windows, training_batches
from trocr.training.distillation import (
    DistillationError,
    DistillationObjective,
    Weights,
    attention_divergence,
    logit_loss,
    matched_blocks,
    relative_error,
)
from trocr.training.objective import Objective
from trocr.training.optimizer import freeze_unused
from trocr.training.options import TrainingOptions
from trocr.training.prepare import prepare
from trocr.training.run import build_run
from trocr.training.steps import train_steps

ALL = Weights(labels=0.25, logits=0.5, hidden=0.3, attention=0.2)


def windows(**more) -> Windows:
    settings = BatchSettings(size=4, window=2, width_buckets=(64, 160))
    return Windows(drawn_lines(12), processor(), settings, **more)


def batch():
    return next(training_batches(windows()))[0]


def shallow(model: VisionEncoderDecoderModel) -> VisionEncoderDecoderModel:
    """A copy of a model with the last block of each stack alone."""
    student = copy.deepcopy(model)
    student.encoder.blocks = nn.ModuleList([student.encoder.blocks[1]])
    student.decoder.blocks = nn.ModuleList([student.decoder.blocks[1]])
    return student


def narrow() -> VisionEncoderDecoderModel:
    config = small_model().config
    decoder = dataclasses.replace(
        config.decoder, d_model=16, decoder_layers=1, cross_attention_hidden_size=32, decoder_ffn_dim=24
    )
    torch.manual_seed(7)
    return VisionEncoderDecoderModel(dataclasses.replace(config, decoder=decoder))


def test_blocks_are_matched_evenly():
    assert matched_blocks(3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert matched_blocks(3, 12) == [(0, 3), (1, 7), (2, 11)]
    assert matched_blocks(2, 3) == [(0, 1), (1, 2)]
    assert matched_blocks(4, 2) == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_the_three_losses_by_hand():
    torch.manual_seed(0)
    mine, theirs = torch.randn(5, 7), torch.randn(5, 9)
    p, q = (theirs[:, :7] / 3).softmax(1), (mine / 3).softmax(1)
    assert logit_loss(mine, theirs, 3.0).item() == pytest.approx(
        9 * float((p * (p / q).log()).sum()), rel=1e-5
    )
    state, target = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0]]])
    assert relative_error(state, target).tolist() == [[pytest.approx(4 / 12.5)]]
    one, two = torch.tensor([[[[0.5, 0.5]], [[0.1, 0.9]]]]), torch.tensor([[[[0.2, 0.8]]]])
    expected = 0.2 * torch.tensor(0.2 / 0.3).log() + 0.8 * torch.tensor(0.8 / 0.7).log()
    assert attention_divergence(one, two).tolist() == [[pytest.approx(float(expected), rel=1e-5)]]


def test_a_model_differs_from_itself_by_nothing():
    model, lines = small_model(), batch()
    objective = DistillationObjective(model, copy.deepcopy(model), weights=ALL)
    found = objective(lines.pixel_values, lines.labels)
    plain = Objective(model)(lines.pixel_values, lines.labels)
    assert found.distilled.item() == pytest.approx(0.0, abs=1e-4)
    assert found.tokens.item() == pytest.approx(0.25 * plain.tokens.item(), rel=1e-5)  # eager, not fused
    other = DistillationObjective(model, small_model(seed=3), weights=ALL)
    assert float(other(lines.pixel_values, lines.labels).distilled) > 0.1


@pytest.mark.parametrize("part", ["logits", "hidden", "attention"])
def test_each_loss_is_weighted(part):
    model, teacher, lines = small_model(), small_model(seed=3), batch()
    values = []
    for weight in (0.5, 1.0):
        weights = Weights(**{"labels": 1.0, "logits": 0.0, part: weight})
        objective = DistillationObjective(model, teacher, weights=weights)
        values.append(float(objective(lines.pixel_values, lines.labels).distilled))
    assert values[0] > 0
    assert values[1] == pytest.approx(2 * values[0], rel=1e-5)


def test_padding_and_images_of_other_lines_do_not_matter():
    """A sum over lines: two lines together give what each gives alone."""
    objective = DistillationObjective(
        small_model(), small_model(seed=3), weights=Weights(logits=1.0, hidden=0.0)
    )
    lines = batch()
    whole = objective(lines.pixel_values, lines.labels)
    alone = [objective(lines.pixel_values[i : i + 1], lines.labels[i : i + 1]) for i in range(4)]
    assert float(whole.distilled) == pytest.approx(sum(float(a.distilled) for a in alone), rel=1e-4)


def test_the_teacher_is_not_trained_and_not_saved():
    teacher = small_model(seed=3)
    before = copy.deepcopy(teacher.state_dict())
    objective = DistillationObjective(narrow(), teacher, weights=ALL)
    freeze_unused(objective.model)
    names = [name for name, _ in objective.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"model", "projections"}
    assert {name.split(".")[0] for name in objective.state_dict()} == {"model", "projections"}
    assert objective.train().teacher.training is False
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    list(islice(train_steps(objective, training_batches(windows()), optimizer, schedule=lambda _: 1e-3), 2))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(p.grad is not None for p in teacher.parameters())


def test_every_parameter_gets_a_gradient():
    objective, lines = DistillationObjective(narrow(), small_model(seed=3), weights=ALL), batch()
    freeze_unused(objective.model)
    found = objective(lines.pixel_values, lines.labels)
    (found.tokens + found.distilled).backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    widths = {name: tuple(p.shape) for name, p in objective.named_parameters() if "projections" in name}
    assert widths == {"projections.decoder.0.weight": (32, 16)}


def test_a_shortened_student_comes_nearer_to_its_teacher():
    teacher = small_model(seed=3)
    with torch.no_grad():  # starting values are so small that blocks change next to nothing
        for block in teacher.decoder.blocks:
            block.mlp.fc2.weight.mul_(40)
        teacher.decoder.embed_tokens.weight.mul_(10)
    objective = DistillationObjective(shallow(teacher), teacher, weights=Weights(labels=0.0, logits=1.0))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    steps = train_steps(objective, training_batches(windows()), optimizer, schedule=lambda _: 3e-3)
    found = [step.distillation_loss for step in islice(steps, 12)]
    assert found[0] > 0.02
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_micro_batches_give_the_same_step():
    lines = [next(training_batches(windows()))[0] for _ in range(2)]
    losses = []
    for batches in ([lines], [[lines[0]]]):
        objective = DistillationObjective(small_model(), small_model(seed=3), weights=ALL)
        optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
        [step] = train_steps(objective, batches, optimizer, schedule=lambda _: 1.0)
        losses.append((step.loss, step.distillation_loss, step.grad_norm))
        assert step.loss == pytest.approx(step.token_loss + step.distillation_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def saved(folder, model, change=None) -> str:
    found = processor()
    if change is not None:
        change(found)
    model.save_pretrained(folder)
    found.save_pretrained(folder)
    return str(folder)


def options(start: str, teacher: str, **distillation) -> TrainingOptions:
    return TrainingOptions.from_dict(
        {
            "model": {"checkpoint": start},
            "data": {"train": ["examples"]},
            "batch": {"size": 2, "window": 1},
            "distillation": {"teacher": teacher, **distillation},
            "run": {"steps": 1, "output": "unused"},
        }
    )


def test_a_run_learns_from_a_teacher_that_sees_other_images(tmp_path):
    def larger(found: TrOCRProcessor) -> None:
        found.image_processor.size = {"height": 64, "width": 320}

    config = small_model().config
    encoder = dataclasses.replace(config.encoder, image_size=(64, 320))
    teacher = VisionEncoderDecoderModel(dataclasses.replace(config, encoder=encoder))
    start = saved(tmp_path / "start", small_model())
    place = saved(tmp_path / "teacher", teacher, larger)
    from trocr.training.distributed import Processes

    run = build_run(options(start, place), Processes(device=torch.device("cpu")))
    [step] = run.steps()
    assert step.distillation_loss > 0
    assert run.windows[0][0].teacher_pixel_values.shape[2:] == (64, 320)
    with pytest.raises(DistillationError, match=r"sees 1x80 patches .* the teacher 2x40"):
        prepare(options(start, place, hidden=0.5))
    same = prepare(options(start, saved(tmp_path / "same", small_model(seed=3))))
    assert same.teacher_processor is None


def test_a_teacher_with_other_tokens_is_refused(tmp_path):
    def fewer(found: TrOCRProcessor) -> None:
        found.tokenizer.add_tokens(["<extra>"])

    start, other = saved(tmp_path / "start", small_model()), tmp_path / "other"
    with pytest.raises(DistillationError, match=r"1 of its tokens are not the student's, such as '<extra>'"):
        prepare(options(start, saved(other, small_model(), fewer)))


def test_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    mine, theirs = torch.randn(4, 6), torch.randn(4, 6)
    expected = F.kl_div(mine.log_softmax(1), theirs.softmax(1), reduction="sum")
    assert logit_loss(mine, theirs, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)
