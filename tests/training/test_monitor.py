import dataclasses
import json
import sys
from pathlib import Path

import pytest
from drawn import Drawn

from trocr.training.monitor import LOG, Monitor, MonitorError, write_options
from trocr.training.option_fields import OptionsError
from trocr.training.steps import Step
from trocr.training.validation import Sample, Validation

STEP = Step(
    step=1,
    loss=2.0,
    token_loss=1.5,
    ctc_loss=1.0,
    lr=1e-3,
    grad_norm=4.0,
    num_lines=8,
    num_tokens=50,
    lines_per_s=4.0,
    data_share=0.25,
    skipped=(),
    too_long=(),
)
FOUND = Validation(
    cer=0.125,
    exact=0.5,
    num_lines=8,
    skipped=("bad.png: cut short",),
    samples=(Sample(name="a.png", text="to* be_", reading="to* he_", image=Drawn("x" * 200)()),),
)


def logged(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_numbers_are_averaged_between_lines(tmp_path, capsys):
    with Monitor(tmp_path, num_steps=4, log_every=2) as monitor:
        for number in (1, 2, 3, 4):
            monitor.step(dataclasses.replace(STEP, step=number, loss=number, lines_per_s=2.0 * number))
    first, second = logged(tmp_path)
    assert (first["step"], first["loss"], second["step"], second["loss"]) == (2, 1.5, 4, 3.5)
    assert first["lines_per_s"] == pytest.approx(
        16 / (8 / 2 + 8 / 4)
    )  # lines by seconds, not a mean of rates
    assert first["ctc_loss"] == 1.0
    assert "step 4 loss 3.5" in capsys.readouterr().err


def test_skipped_and_cut_lines_are_counted_and_named(tmp_path, capsys):
    with Monitor(tmp_path, num_steps=4) as monitor:
        monitor.step(dataclasses.replace(STEP, skipped=tuple(f"{i}.png: cut short" for i in range(7))))
        monitor.step(dataclasses.replace(STEP, step=2, skipped=("9.png: not an image",), too_long=("8.png",)))
    shown = capsys.readouterr().err
    assert "skipped 7 lines that cannot be read (7 so far): 0.png: cut short" in shown
    assert "and 2 more; see log.jsonl" in shown
    assert "skipped 1 lines that cannot be read (8 so far): 9.png: not an image" in shown
    assert "cut 1 labels" in shown
    assert "8.png" in shown
    assert logged(tmp_path)[0]["skipped"][6] == "6.png: cut short"


def test_other_processes_name_lines_and_write_nothing(tmp_path, capsys):
    with Monitor(tmp_path, num_steps=4, log_every=1, rank=1) as monitor:
        monitor.step(dataclasses.replace(STEP, skipped=("9.png: not an image",)))
        monitor.validation(FOUND, 1, is_best=True)
    assert "process 1: step 1: skipped 1 lines" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_resumed_log_goes_on(tmp_path):
    for start in (0, 1):
        with Monitor(tmp_path, num_steps=2, start_step=start, log_every=1) as monitor:
            monitor.step(dataclasses.replace(STEP, step=start + 1))
    assert [line["step"] for line in logged(tmp_path)] == [1, 2]


def test_what_is_not_logged_yet_is_logged_at_the_end(tmp_path, capsys):
    with Monitor(tmp_path, num_steps=5, log_every=3) as monitor:
        for number in range(1, 6):
            monitor.step(dataclasses.replace(STEP, step=number, loss=number))
        monitor.say("finished")
    assert [line.get("step") for line in logged(tmp_path)] == [3, 5, None]
    assert "step 5 loss 4.5" in capsys.readouterr().err


def break_off(folder, error):
    with Monitor(folder, num_steps=9) as monitor:
        for number in (1, 2):
            monitor.step(dataclasses.replace(STEP, step=number, loss=number))
        raise error


def test_what_is_not_logged_yet_is_logged_when_a_run_breaks_off(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        break_off(tmp_path, KeyboardInterrupt())
    [line] = logged(tmp_path)
    assert (line["step"], line["loss"]) == (2, 1.5)


FULL = Path("/dev/full")  # every write to it finds a full disk


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / LOG).symlink_to(FULL)
    told = r"No space left on device\); make room, or choose another run\.output"
    with pytest.raises(MonitorError, match=told), Monitor(tmp_path, num_steps=9) as monitor:
        monitor.say("begins")
    with pytest.raises(MonitorError, match=told), Monitor(tmp_path, num_steps=9) as monitor:
        monitor.step(STEP)  # logged at the end of the block
    with pytest.raises(KeyError):  # what broke off the run is not hidden
        break_off(tmp_path, KeyError())


def test_a_folder_that_is_a_file_is_a_message(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(MonitorError, match=r"out: cannot be written \(File exists\); .*another run\.output"):
        Monitor(tmp_path / "out", num_steps=9)
    with pytest.raises(MonitorError, match=r"out: cannot be written"):
        write_options(tmp_path / "out", {})


def test_a_validation_is_shown_and_logged(tmp_path, capsys):
    with Monitor(tmp_path, num_steps=4) as monitor:
        monitor.validation(FOUND, 3, is_best=True)
    shown = capsys.readouterr().err
    assert "step 3: validation CER 0.1250, exact 0.500 on 8 lines, the best so far" in shown
    assert "1 lines cannot be read: bad.png: cut short" in shown
    assert logged(tmp_path)[0]["cer"] == 0.125


def test_tensorboard_holds_scalars_and_samples(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Monitor(tmp_path, num_steps=4, log_every=1, tensorboard=True) as monitor:
        monitor.step(STEP)
        monitor.validation(FOUND, 1, is_best=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"train/loss", "train/lr", "train/ctc_loss", "val/cer"} <= set(tags["scalars"])
    assert board.Scalars("val/cer")[0].value == 0.125
    assert board.Images("samples/0")[0].width == 800
    [tag] = tags["tensors"]
    text = board.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert text == "    to* be_\n    to* he_\n\na.png"


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionsError, match=r"needs TensorBoard: pip install 'trocr\[train\]'"):
        Monitor(tmp_path, num_steps=4, tensorboard=True)


def test_options_lie_beside_the_results(tmp_path):
    write_options(tmp_path / "new", {"run": {"steps": 3}})
    assert json.loads((tmp_path / "new/options.json").read_text()) == {"run": {"steps": 3}}
