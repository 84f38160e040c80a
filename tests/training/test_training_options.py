"""Training files: what is read, and what is said about a wrong one."""

import json
from pathlib import Path

import pytest

from trocr.training.option_fields import OptionsError
from trocr.training.option_tables import BatchOptions, OptimizerOptions
from trocr.training.options import TrainingOptions, load_options

GOOD = """
[model]
checkpoint = "tiny-printed"
freeze = ["encoder.embeddings"]
[data]
train = ["lines/a", "lines/b"]
synthetic = { min_chars = 1 }
synthetic_share = 0.5
[batch]
width_buckets = [128, 256]
[optimizer]
lr = 1
betas = [0.9, 0.98]
[run]
steps = 10
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my-run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(OptionsError) as caught:
        load_options(write(folder, text), overrides)
    return str(caught.value)


def test_reads_tables_lists_and_whole_numbers(tmp_path):
    options = load_options(write(tmp_path, GOOD))
    assert options.model.freeze == ("encoder.embeddings",)
    assert options.data.train == ("lines/a", "lines/b")
    assert options.data.synthetic == {"min_chars": 1}
    assert options.batch.width_buckets == (128, 256)
    assert isinstance(options.optimizer.lr, float)
    assert options.optimizer.betas == (0.9, 0.98)
    assert options.model.dropout is None
    assert options.run.output == str(Path("runs/my-run"))


def test_overrides_are_toml_or_plain_text(tmp_path):
    options = load_options(
        write(tmp_path, GOOD),
        [
            "optimizer.lr=1e-4",
            "model.checkpoint=other/folder",
            "data.train=one",
            "data.synthetic.min_chars=5",
            "model.dropout=0",
            "run.output=elsewhere",
            "run.tensorboard=true",
        ],
    )
    assert options.optimizer.lr == 1e-4
    assert options.model.checkpoint == "other/folder"
    assert options.data.train == ("one",)
    assert options.data.synthetic == {"min_chars": 5}
    assert options.model.dropout == 0.0
    assert options.run.output == "elsewhere"
    assert options.run.tensorboard is True


def test_to_dict_is_json_and_comes_back(tmp_path):
    options = load_options(write(tmp_path, GOOD))
    values = json.loads(json.dumps(options.to_dict()))
    assert TrainingOptions.from_dict(values) == options
    assert values["batch"]["size"] == 32


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer.learning_rate=1", "optimizer.learning_rate is unknown"),
        ("optimizer.clip_nrom=1", "optimizer.clip_nrom is unknown, did you mean 'clip_norm'?"),
        ("optimizer.warmup_steps=1", "optimizer.warmup_steps is unknown; it belongs into [schedule]"),
        ("optimiser.lr=1", "[optimiser] is an unknown table, did you mean 'optimizer'?"),
        ("optimizer.lr=fast", "optimizer.lr='fast' must be a number"),
        ("optimizer.lr=0", "optimizer.lr=0.0 must be above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan must be a number"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9] must be a list of 2 values, each a number"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas=[0.9, 1.0] must be at least 0 and below 1"),
        ("run.steps=1.5", "run.steps=1.5 must be a whole number"),
        ("run.steps=true", "run.steps=true must be a whole number"),
        ("run.epochs=2", "run.steps=10 and epochs=2.0: exactly one of them must be set"),
        ("model.compile=1", "model.compile=1 must be true or false"),
        (
            "model.autocast=half",
            "model.autocast='half' must be one of 'float32', 'bfloat16', 'float16'",
        ),
        ("model.image_size=[32]", "model.image_size=[32] must be [height, width] in pixels"),
        ("data.synthetic_share=1.0", "data.synthetic_share=1.0 would never read train"),
        ("data.shares=[1]", "data.shares has 1 numbers for 2 sources of train"),
        ("batch.width_buckets=[64, 0]", "batch.width_buckets=[64, 0] must be at least 1"),
        ("batch.micro_batch_size=5", "batch.size=32 must be a multiple of micro_batch_size=5"),
        ("schedule.min_lr=2", "schedule.min_lr must not be above optimizer.lr"),
        ("run.patience=3", "run.patience=3 counts validations, and eval_every=0 has one at the end: set it"),
        (
            "loss.ctc_head=x",
            "loss.ctc_head is set and ctc_weight=0.0 trains without the head: set ctc_weight",
        ),
        ("loss.ctc_alphabet=ab", "loss.ctc_alphabet is set and ctc_weight=0.0 trains without the head"),
        ("run=3", "must be table.key=value"),
        ("run.steps.more=3", "steps is a value, not a table"),
    ],
)
def test_wrong_values_are_named(tmp_path, change, expected):
    assert expected in message(tmp_path, GOOD, change)


def test_early_stopping_needs_lines(tmp_path):
    text = message(tmp_path, GOOD, "run.patience=3", "run.eval_every=2")
    assert "run.patience needs lines to validate on: set data.val" in text


def test_all_problems_come_in_one_error_that_names_the_file(tmp_path):
    text = message(tmp_path, GOOD.replace("lr = 1", "lr = -1\nlrr = 2").replace("steps = 10", "step = 10"))
    assert str(tmp_path / "my-run.toml") in text
    for part in ("optimizer.lrr is unknown", "optimizer.lr=-1.0 must be above 0", "did you mean 'steps'?"):
        assert part in text


def test_missing_keys_and_stray_keys(tmp_path):
    assert "model.checkpoint is missing, it must be a text in quotes" in message(tmp_path, "[run]\nsteps=1")
    assert "lr stands outside a table; it belongs into [optimizer]" in message(tmp_path, "lr = 1\n" + GOOD)
    text = message(tmp_path, '[model]\ncheckpoint = "x"\n[run]\nsteps = 1')
    assert "data.train=[] leaves no lines to train on" in text
    assert "model='x' must be a table: write [model]" in message(tmp_path, 'model = "x"\n[run]\nsteps = 1')


def test_files_that_are_no_toml(tmp_path):
    assert "not valid TOML" in message(tmp_path, "[model\n")
    with pytest.raises(OptionsError, match=r"absent\.toml: cannot be read \(No such file or directory\)"):
        load_options(tmp_path / "absent.toml")


def test_dataclasses_check_without_a_file():
    with pytest.raises(OptionsError, match=r"lr=-1 must be above 0"):
        OptimizerOptions(lr=-1)


@pytest.mark.parametrize(
    ("size", "micro", "world", "lanes"), [(32, 0, 1, 1), (32, 0, 4, 1), (32, 8, 1, 4), (32, 8, 2, 4)]
)
def test_lanes(size, micro, world, lanes):
    assert BatchOptions(size=size, micro_batch_size=micro).lanes(world) == lanes


def test_lanes_that_cannot_be_shared():
    with pytest.raises(OptionsError, match=r"batch\.size=32 .* 3 processes .* micro-batches of 8; .* 24"):
        BatchOptions(size=32, micro_batch_size=8).lanes(3)
    with pytest.raises(OptionsError, match="cannot be shared evenly by 3 processes; make it a multiple of 3"):
        BatchOptions(size=32).lanes(3)
    assert BatchOptions(size=6).lanes(2) == 1
