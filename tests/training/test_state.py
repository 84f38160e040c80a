"""States on disk: exact resumption, and what is left when saving goes wrong."""

import copy
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import drawn_lines, processor, small_model

from trocr.training.batches import BatchSettings, Windows, training_batches
from trocr.training.ema import EMA
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer, freeze
from trocr.training.option_tables import OptimizerOptions
from trocr.training.state import (
    StateError,
    changed_options,
    list_states,
    load_state,
    restore,
    save_state,
)
from trocr.training.steps import train_steps


class Run:
    """A run with dropout, frozen parts, averages and micro-batches, as short as can be."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0):
        self.objective = Objective(small_model(dropout=0.1, seed=seed))
        freeze(self.objective, ["model.encoder.embeddings"])
        self.optimizer = build_optimizer(self.objective, OptimizerOptions(name=optimizer, lr=1e-3))
        self.ema = EMA(self.objective, 0.9)
        self.step = 0
        torch.manual_seed(seed + 1)

    def train(self, count: int) -> list[float]:
        settings = BatchSettings(size=2, lanes=2, window=2, width_buckets=(64, 160))
        windows = Windows(drawn_lines(16), processor(), settings)
        steps = train_steps(
            self.objective,
            training_batches(windows, start_step=self.step),
            self.optimizer,
            schedule=lambda step: 1e-3 / (1 + step),
            start_step=self.step,
            after_step=self.ema.update,
        )
        losses = [step.loss for step in islice(steps, count)]
        self.step += count
        return losses

    def save(self, folder: Path, **options) -> Path:
        return save_state(folder, self.objective, self.optimizer, step=self.step, ema=self.ema, **options)

    def resume(self, folder: Path) -> None:
        self.step = restore(load_state(folder), self.objective, self.optimizer, ema=self.ema)

    def tensors(self) -> dict[str, torch.Tensor]:
        weights = {f"weight {n}": p.detach() for n, p in self.objective.named_parameters()}
        return weights | {f"average {n}": value for n, value in self.ema.averages.items()}


def assert_same(first: Run, second: Run) -> None:
    expected = second.tensors()
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd", "adafactor"])
def test_three_and_three_steps_are_six(tmp_path, optimizer):
    whole = Run(optimizer)
    losses = whole.train(6)
    first = Run(optimizer)
    assert first.train(3) == losses[:3]
    first.save(tmp_path)
    second = Run(optimizer, seed=5)  # other weights and random numbers, which the state must replace
    second.resume(tmp_path)
    assert second.step == 3
    assert second.train(3) == losses[3:]
    assert_same(second, whole)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize(
    "changed",
    [{"weight_decay": 0.3}, {"betas": (0.5, 0.6), "eps": 1e-3}, {"layer_decay": 0.5}, {"weight_decay": 0.0}],
    ids=["decay", "betas", "layers", "no decay"],
)
def test_changed_options_of_the_optimizer_hold(tmp_path, name, changed):
    first = Run(name)
    first.train(2)
    first.save(tmp_path)
    second = Run(name, seed=5)
    second.optimizer = build_optimizer(second.objective, OptimizerOptions(name=name, lr=1e-3, **changed))
    built = [{k: v for k, v in group.items() if k != "params"} for group in second.optimizer.param_groups]
    second.resume(tmp_path)
    for group, numbers in zip(second.optimizer.param_groups, built, strict=True):
        assert {key: group[key] for key in numbers} == numbers
        assert group.get("step") == first.optimizer.param_groups[0].get("step")  # LAMB counts here
    states = {name: first.optimizer.state[p] for name, p in first.objective.named_parameters()}
    for parameter_name, parameter in second.objective.named_parameters():
        for key, value in second.optimizer.state.get(parameter, {}).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[parameter_name][key]))
    assert math.isfinite(second.train(1)[0])


def test_resumption_in_a_new_process(tmp_path):
    whole = Run()
    losses = whole.train(6)
    first = Run()
    first.train(3)
    first.save(tmp_path)
    code = """
        from test_state import Run
        run = Run(seed=5)
        run.resume(FOLDER)
        print(repr(run.train(3)))
    """
    out = in_child(code, tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == repr(losses[3:])


def in_child(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    child = start_child(code, folder)
    out, messages = child.communicate()
    return subprocess.CompletedProcess(child.args, child.returncode, out, messages)


def start_child(code: str, folder: Path) -> subprocess.Popen[str]:
    here = Path(__file__).resolve().parent
    head = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parents[1])!r}]; FOLDER = {str(folder)!r}\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", head + textwrap.dedent(code)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def test_random_numbers_go_on(tmp_path):
    run = Run()
    run.train(1)
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    np.random.standard_normal()  # leaves a second one in store
    run.save(tmp_path)
    expected = random.random(), np.random.standard_normal(), np.random.random(), torch.rand(1).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    run.resume(tmp_path)
    assert (
        random.random(),
        np.random.standard_normal(),
        np.random.random(),
        torch.rand(1).item(),
    ) == expected


def test_the_newest_states_are_kept(tmp_path):
    run = Run()
    for step in (8, 9, 100):
        run.step = step
        run.save(tmp_path, keep=2, progress={"best": 0.5, "names": ["a"]}, options={"run": {"steps": 9}})
    assert [path.name for path in list_states(tmp_path)] == ["state-00000100.pt", "state-00000009.pt"]
    state = load_state(tmp_path)
    assert state["progress"] == {"best": 0.5, "names": ["a"]}
    assert state["options"] == {"run": {"steps": 9}}
    assert load_state(tmp_path / "nowhere") is None


def test_a_kill_in_the_middle_of_saving_leaves_the_state_before(tmp_path):
    code = """
        import os, signal, torch
        from test_state import Run
        run = Run()
        run.step = 1
        run.save(FOLDER)
        whole = torch.save
        def cut_short(content, file):
            whole(content, file)
            file.flush()
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        torch.save = cut_short
        run.step = 2
        run.save(FOLDER)
    """
    assert in_child(code, tmp_path).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".state-00000002.pt.*.tmp"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_state(tmp_path)["step"] == 1
    run = Run()
    run.resume(tmp_path)
    run.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.pt"]  # the leftover is gone


def test_a_kill_at_any_moment_leaves_a_run_that_goes_on_exactly(tmp_path):
    """A process that trains and saves without a pause is killed while a file is being written."""
    code = """
        from test_state import Run
        run = Run()
        while True:
            run.train(1)
            run.save(FOLDER)
    """
    child = start_child(code, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list_states(tmp_path) or not any(f.stat().st_size for f in tmp_path.glob(".state-*.tmp")):
            assert child.poll() is None, "the process ended by itself"
            assert time.monotonic() < deadline, "no file was seen being written"
    except FileNotFoundError:
        pass  # the file was whole in between: another moment to be killed in
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    run = Run(seed=5)
    run.resume(tmp_path)
    losses = run.train(2)
    whole = Run()  # after it: both draw from the global random numbers
    assert whole.train(run.step)[-2:] == losses
    assert_same(run, whole)


def test_a_full_disk_is_named_and_the_state_before_is_whole(tmp_path):
    code = """
        import resource, signal
        from test_state import Run
        from trocr.training.state import StateError
        run = Run()
        run.step = 1
        run.save(FOLDER)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # files end here, as on a full disk
        run.step = 2
        try:
            run.save(FOLDER)
        except StateError as error:
            print(error)
    """
    out = in_child(code, tmp_path)
    assert "state-00000002.pt: the state of step 2 cannot be written" in out.stdout, out.stderr
    assert "the states before it are whole: make room" in out.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.pt"]
    assert load_state(tmp_path)["step"] == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path, damage):
    run = Run()
    for step in (1, 2):
        run.step = step
        run.save(tmp_path)
    path = tmp_path / "state-00000002.pt"
    content = bytearray(path.read_bytes())
    if damage == "foreign":
        torch.save({"format": 99}, path)
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"state-00000002\.pt: .*; training goes on from state-00000001\.pt"):
        assert load_state(tmp_path)["step"] == 1
    (tmp_path / "state-00000001.pt").unlink()
    with pytest.raises(StateError, match=r"no state can be read: .*state-00000002\.pt: .*Delete them"):
        load_state(tmp_path)


def test_a_state_with_code_is_refused(tmp_path):
    torch.save({"format": 1, "step": Path("x")}, tmp_path / "state-00000001.pt")
    with pytest.raises(StateError, match="holds more than plain values"):
        load_state(tmp_path)


def test_a_state_of_another_model_is_refused(tmp_path):
    run = Run()
    run.train(1)
    run.save(tmp_path)
    other = Run()
    other.objective.model.encoder.blocks.append(copy.deepcopy(other.objective.model.encoder.blocks[0]))
    other.optimizer = build_optimizer(other.objective, OptimizerOptions())
    with pytest.raises(StateError, match="the state of step 1 does not fit this model and optimizer"):
        other.resume(tmp_path)


def test_changed_options_are_named():
    before = {"batch": {"size": 8, "window": 2}, "run": {"steps": 3}}
    now = {"batch": {"size": 16, "window": 2}, "run": {"steps": 3}}
    assert changed_options(before, now) == ["batch.size: 8 -> 16"]
    assert changed_options(before, before) == []
