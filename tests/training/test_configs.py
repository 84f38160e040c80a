"""The training files that come with the project: each is read, and has the figures of its source."""

from pathlib import Path

import pytest

from trocr.data.augmentation import build_augmentation
from trocr.data.synthetic import SyntheticSettings
from trocr.official import OFFICIAL_MODELS
from trocr.training.options import TrainingOptions, load_options
from trocr.training.schedule import build_schedule

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NOT_TRAINING = {"benchmark.toml", "benchmark-training.toml"}
FILES = sorted(path for path in CONFIGS.glob("*.toml") if path.name not in NOT_TRAINING)

STAGE_1_LINES, BATCH = 684_000_000, 2048
STAGE_2_LINES = {"printed": 3_300_000, "handwritten": 17_900_000, "scene-text": 16_000_000}
"""arXiv:2109.10282 sec. 4.1."""


def options_of(name: str) -> TrainingOptions:
    return load_options(CONFIGS / f"{name}.toml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_read_and_says_how_to_run_it(path):
    options = load_options(path)
    text = path.read_text(encoding="utf-8")
    header = text.split("\n\n")[0]
    assert f"scripts/train.py configs/{path.name}" in header, "the header has no command"
    assert any(word in header for word in ("Cost", "Result")), "the header has no cost or result"
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) <= 70
    assert options.run.output == str(Path("runs") / path.stem)
    build_augmentation(options.augmentation.preset, options.augmentation.settings)
    if options.data.has_synthetic:
        SyntheticSettings.from_dict(options.data.synthetic)
    if options.run.steps:
        build_schedule(options.schedule, options.optimizer, total_steps=options.run.steps)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_checkpoints_are_official_shipped_or_made_by_another_file(path):
    checkpoint = load_options(path).model.checkpoint
    made = {f"runs/{other.stem}/last" for other in FILES}
    assert checkpoint in {"tiny-printed", "models/base-parts", *OFFICIAL_MODELS, *made}


@pytest.mark.parametrize(
    ("task", "sizes", "expected"),
    [
        # lr, warm-up, lines a step, lines on a GPU, epochs, patience, augmentation, precision
        ("iam", "small base large", (2e-5, 500, 8 * 8, 8, 300, 20, "da2", "float16")),
        ("sroie", "small base large", (5e-5, 800, 16 * 8 * 16, 16, 300, 10, "da2", "float16")),
        ("scene-text", "base large", (2e-5, 500, 8 * 8, 8, 500, 20, "scene-text", "float32")),
    ],
)
def test_fine_tuning_has_the_authors_figures(task, sizes, expected):
    """Source: README of microsoft/unilm, trocr (commit 768a3c8)."""
    for size in sizes.split():
        options = options_of(f"finetune-{task}-{size}")
        found = (
            options.optimizer.lr,
            options.schedule.warmup_steps,
            options.batch.size,
            options.batch.micro_batch_size,
            options.run.epochs,
            options.run.patience,
            options.augmentation.preset,
            options.model.autocast,
        )
        assert found == expected, size
        assert options.model.checkpoint == f"microsoft/trocr-{size}-stage1"
        assert options.schedule.kind == "inverse_sqrt"
        assert (options.optimizer.name, options.optimizer.weight_decay) == ("adamw", 1e-4)
        assert (options.schedule.warmup_init_lr, options.optimizer.layer_decay) == (1e-8, 1.0)
        assert (options.loss.label_smoothing, options.loss.ctc_weight) == (0.0, 0.0)
        assert (options.data.seed, options.run.seed) == (1111, 1111)
        assert options.batch.lanes(8) % 8 == 0


@pytest.mark.parametrize("stage", ["stage1", *(f"stage2-{kind}" for kind in STAGE_2_LINES)])
def test_pretraining_has_the_papers_figures(stage):
    """Source: arXiv:2109.10282 sec. 4.1: batch, learning rate and lines; one pass is a choice of ours."""
    options = options_of(f"pretrain-{stage}")
    lines = STAGE_2_LINES.get(stage.removeprefix("stage2-"), STAGE_1_LINES)
    assert (options.batch.size, options.optimizer.lr) == (BATCH, 5e-5)
    assert options.run.steps == pytest.approx(lines / BATCH, abs=1)
    assert options.batch.lanes(32) % 32 == 0  # 32 GPUs


def test_an_epoch_of_iam_is_a_validation():
    for size in ("small", "base", "large"):
        assert options_of(f"finetune-iam-{size}").run.eval_every == -(-6161 // 64)
