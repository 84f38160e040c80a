"""Two gloo processes against one, with DDP and with FSDP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import run

from trocr.training.distributed import DistributedError, processes
from trocr.training.state import list_states, load_state

RELATIVE = 1e-5
"""Float32 sums over tokens in another order."""

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module", params=[("ddp", "lanes"), ("fsdp", "lanes"), ("ddp", "rows")], ids=" ".join)
def kind_and_cut(request) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def alone(kind_and_cut, tmp_path_factory) -> tuple[list[list[float]], Path]:
    folder = tmp_path_factory.mktemp("alone")
    return run("ddp", kind_and_cut[1], folder), folder


@pytest.fixture(scope="module")
def together(kind_and_cut, tmp_path_factory) -> tuple[list[list[float]], Path]:
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parents[1]))),
    }
    out = subprocess.run(
        [*command, str(HERE / "two_processes.py"), *kind_and_cut, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    (line,) = [line for line in out.stdout.splitlines() if line.startswith("[[")]  # the main process's alone
    return json.loads(line), folder


def test_losses_and_gradients_are_those_of_one_process(alone, together):
    found, expected = together[0], alone[0]
    assert len({numbers[3] for numbers in expected}) > 1  # steps of unequal numbers of tokens
    for step, (mine, other) in enumerate(zip(found, expected, strict=True)):
        assert mine == pytest.approx(other, rel=RELATIVE), f"step {step + 1}"


def test_states_are_whole_and_equal(alone, together):
    assert [path.name for path in list_states(together[1])] == ["state-00000005.pt", "state-00000003.pt"]
    found, expected = load_state(together[1]), load_state(alone[1])
    assert len(found["rng"]) == 2
    for part in ("model", "ema"):
        assert found[part].keys() == expected[part].keys()
        for name, tensor in expected[part].items():
            if isinstance(tensor, torch.Tensor):
                torch.testing.assert_close(
                    found[part][name], tensor, rtol=1e-4, atol=2e-6, msg=f"{part} {name}"
                )
    assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()


def test_one_process_goes_on_from_the_state_of_two(alone, together, kind_and_cut):
    list_states(together[1])[0].unlink()
    with pytest.warns(UserWarning, match="saved by 2 processes and 1 resume it"):
        found = run("ddp", kind_and_cut[1], together[1], resume=True)
    assert len(found) == 2
    for mine, other in zip(found, alone[0][3:], strict=True):
        assert mine == pytest.approx(other, rel=RELATIVE)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with processes("cpu") as here:
        assert (here.rank, here.world_size, here.device, here.is_main) == (0, 1, torch.device("cpu"), True)


def test_half_a_torchrun_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(DistributedError, match=r"RANK is set and WORLD_SIZE, .* not; start with `torchrun"),
        processes(),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_named():
    with pytest.raises(DistributedError, match="this machine has no CUDA device"), processes("cuda"):
        pass
