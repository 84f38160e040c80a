"""Runs of scripts/train.py on drawn lines, from its command line."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from drawn import drawn_lines, processor, small_model
from safetensors.torch import load_file

from trocr import Reader, VisionEncoderDecoderModel
from trocr.surgery.adapters import load_adapter
from trocr.training import run as run_module
from trocr.training.distributed import Processes
from trocr.training.options import load_options
from trocr.training.state import load_state

REPO = Path(__file__).resolve().parents[2]
CONFIG = """
[model]
checkpoint = "{folder}/start"
dropout = 0.1

[data]
train = ["{folder}/lines"]
val = ["{folder}/lines"]

[batch]
size = 8
window = 2

[optimizer]
lr = 1e-3

[loss]
ctc_weight = 0.3
label_smoothing = 0.1

[run]
steps = 6
output = "{folder}/out"
save_every = 3
eval_every = 6
eval_lines = 4
log_every = 1
ema_decay = 0.9
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a small checkpoint, twelve lines and a training file."""
    start = tmp_path / "start"
    model = small_model()
    model.generation_config = model.generation_config.update(max_length=6)
    model.save_pretrained(start)
    processor().save_pretrained(start)
    lines = tmp_path / "lines"
    lines.mkdir()
    records = drawn_lines(12)
    for record in records:
        record.open().save(lines / record.name)
    labels = "".join(f"{record.name}\t{record.text}\n" for record in records)
    (lines / "labels.tsv").write_text(labels, encoding="utf-8")
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_script", REPO / "scripts/train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(place, script, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", str(place / "run.toml"), *arguments])
        script.main()
        lines = (place / "out/log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return call


def losses(log):
    return {line["step"]: line["loss"] for line in log if "loss" in line}


def test_a_run_writes_log_states_and_checkpoints(place, train):
    log = train()
    assert list(losses(log)) == [1, 2, 3, 4, 5, 6]
    [found] = [line for line in log if "cer" in line]
    assert found["step"] == 6
    assert found["num_lines"] == 4
    out = place / "out"
    assert sorted(path.name for path in (out / "states").iterdir()) == [
        "state-00000003.pt",
        "state-00000006.pt",
    ]
    assert json.loads((out / "options.json").read_text())["run"]["steps"] == 6
    for name in ("best", "last"):
        assert (out / name / "ctc_head.safetensors").is_file()
        assert len(list(Reader(out / name).read([place / "lines/line000.png"]))) == 1


def test_three_and_three_steps_are_six(place, train):
    whole = losses(train())
    weights = load_state(place / "out/states")["model"]
    train(f"run.output={place}/out2", "run.steps=3", "schedule.decay_steps=6")
    train(f"run.output={place}/out2")
    lines = (place / "out2/log.jsonl").read_text(encoding="utf-8").splitlines()
    found = losses([json.loads(line) for line in lines])
    assert found == whole
    again = load_state(place / "out2/states")["model"]
    assert all((again[name] == tensor).all() for name, tensor in weights.items())


def test_a_change_at_resumption_is_said(train):
    train("run.steps=3")
    log = train("optimizer.lr=5e-4")
    messages = [line["message"] for line in log if "message" in line]
    assert any("resumed with another optimizer.lr: 0.001 -> 0.0005" in text for text in messages)


def test_an_adapter_is_trained_saved_and_merged(place, train):
    more = [
        'adapters.modules=["*_attn.[qv]_proj"]',
        "adapters.rank=2",
        "run.ema_decay=0",
        "loss.ctc_weight=0",
    ]
    whole = losses(train(*more, "optimizer.lr=0.05"))
    assert whole[6] < whole[1]
    best = place / "out/best"
    start, merged = (VisionEncoderDecoderModel.from_pretrained(p) for p in (place / "start", best))
    changed = {
        name.rpartition(".")[0].rpartition(".")[2]
        for (name, before), after in zip(start.named_parameters(), merged.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert changed == {"q_proj", "v_proj"}
    load_adapter(start, best / "adapter")
    images = torch.randn(1, 3, 32, 640)
    ids = torch.tensor([[2, 5, 6]])
    with torch.no_grad():
        expected, found = (m(images, decoder_input_ids=ids).logits for m in (merged, start))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    train(*more, "optimizer.lr=0.05", f"run.output={place}/out2", "run.steps=3", "schedule.decay_steps=6")
    train(*more, "optimizer.lr=0.05", f"run.output={place}/out2")
    lines = (place / "out2/log.jsonl").read_text(encoding="utf-8").splitlines()
    assert losses([json.loads(line) for line in lines]) == whole


def test_a_recipe_is_done_before_training(place, train):
    recipe = place / "shorter.toml"
    recipe.write_text('[[operation]]\nname = "keep_blocks"\nstack = "decoder"\nblocks = "last:1"\n')
    train(f"model.recipe={recipe}", "run.steps=3")
    config = json.loads((place / "out/best/config.json").read_text())
    assert config["decoder"]["decoder_layers"] == 1
    train(f"model.recipe={recipe}", "run.steps=4")  # goes on
    recipe.write_text('[[operation]]\nname = "keep_block"\n')
    with pytest.raises(SystemExit, match=r"name='keep_block' is unknown, did you mean 'keep_blocks'"):
        train(f"model.recipe={recipe}", "run.steps=5")


def test_fresh_refuses_to_go_on(train):
    train("run.steps=3")
    with pytest.raises(SystemExit, match=r"holds a run of 3 steps: choose another run.output"):
        train("--fresh")


def test_early_stopping(place, train):
    log = train("run.steps=40", "run.eval_every=1", "run.patience=2", "optimizer.lr=1e-12", "run.ema_decay=0")
    assert max(losses(log)) == 3  # the first is the best, two are not better
    assert "stopped early: 2 validations without a better CER" in log[-2]["message"]
    assert len(train("run.steps=40", "run.patience=2")) > len(log)  # says so again, and takes no step
    assert max(losses(train("run.steps=40", "run.patience=2"))) == 3
    assert (place / "out/last/config.json").is_file()


def test_epochs_count_lines(train):
    log = train("run.steps=0", "run.epochs=2")
    assert max(losses(log)) == 3  # 24 lines, 8 a step


def test_a_damaged_image_is_skipped_and_named(place, train, capsys):
    (place / "lines/line004.png").write_bytes(b"not an image")
    log = train()
    [skipped] = {name for line in log for name in line.get("skipped", []) if "loss" not in line}
    assert "line004.png" in skipped
    assert "skipped 1 lines that cannot be read" in capsys.readouterr().err
    assert max(losses(log)) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.weight_decays=1", "did you mean 'weight_decay'"),
        ('data.train=["missing"]', "missing"),
        ("model.image_size=[30, 640]", "not a multiple of the patch"),
        ("model.checkpoint=./nowhere", "nowhere"),
    ],
)
def test_mistakes_are_messages(train, override, message):
    with pytest.raises(SystemExit, match=message):
        train(override)


def test_an_empty_data_set(place, train):
    (place / "lines/labels.tsv").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"labels\.tsv"):
        train()


def test_a_loss_that_is_no_number_stops_with_the_names(train):
    with pytest.raises(SystemExit, match=r"step \d: the (loss|gradient).*; the lines are .*line0\d\d\.png"):
        train("optimizer.lr=1e30", "run.ema_decay=0", "schedule.kind=constant")


def test_a_folder_that_is_a_file(place, train):
    (place / "out").write_text("")
    with pytest.raises(SystemExit, match=r"out: cannot be written \(File exists\); make room, or choose"):
        train()


def in_child(*command, **options) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=300, **options)


def test_a_disk_that_is_full_at_the_best_checkpoint_costs_nothing(place, train):
    code = """
        import resource, signal, sys
        sys.path.insert(0, "scripts")
        import train
        whole = train.Run.save
        def save(run):
            whole(run)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # files end here, as on a full disk
        train.Run.save = save
        train.main()
    """
    done = in_child("-c", textwrap.dedent(code), place / "run.toml", "run.steps=3", "schedule.decay_steps=6")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith(f"Error: step 3: {place}/out/best is not written: "), done.stderr
    assert "The same command then goes on from the newest state" in told
    assert not (place / "out/best/config.json").exists()
    state = load_state(place / "out/states")
    assert state["progress"]["best_step"] == 3
    train("run.steps=3", "schedule.decay_steps=6")  # takes no step
    found = load_file(place / "out/best/model.safetensors")
    averages = [value for value in state["ema"].values() if not isinstance(value, int)]
    assert all(any(torch.equal(tensor, value) for value in averages) for tensor in found.values())


def test_all_processes_know_that_a_checkpoint_is_not_written(place, monkeypatch):
    told = []
    share = lambda problem: told.append(problem) or "of the main process"  # noqa: E731
    monkeypatch.setattr(run_module, "from_main", share)
    here = Processes(rank=1, device=torch.device("cpu"))
    run = run_module.build_run(load_options(place / "run.toml"), here)
    with pytest.raises(run_module.RunError, match="of the main process"):
        run.export("best")
    assert told == [None]
    assert not (place / "out").exists()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_validate_and_export_as_one(place, train, kind):
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "scripts/train.py")
    options = ("run.steps=3", "model.dropout=0")
    done = in_child(*command, place / "run.toml", f"run.parallel={kind}", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation CER" in done.stderr
    assert len(list(Reader(place / "out/best").read([place / "lines/line000.png"]))) == 1
    lines = (place / "out/log.jsonl").read_text(encoding="utf-8").splitlines()
    found = losses([json.loads(line) for line in lines])
    (place / "out/log.jsonl").unlink()
    (place / "out/states").rename(place / "states")
    assert found == pytest.approx(losses(train(*options)), rel=1e-5)
