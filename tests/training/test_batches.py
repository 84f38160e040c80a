import dataclasses
import multiprocessing
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import Damaged, Lines, drawn_lines, processor
from PIL import Image

from trocr.data.records import DataError
from trocr.training.batches import BatchSettings, Windows, label_ids, pad_labels, training_batches


@pytest.fixture(scope="module")
def proc():
    return processor()


def windows(proc, lines=None, *, augment=None, **settings) -> Windows:
    chosen = {"size": 4, "lanes": 2, "window": 3, "seed": 5, "width_buckets": (64, 160)} | settings
    source = drawn_lines(40) if lines is None else lines
    return Windows(source=source, processor=proc, settings=BatchSettings(**chosen), augment=augment)


def signature(steps):
    return [
        [
            (b.names, b.texts, b.labels.tolist(), b.pixel_values.shape, float(b.pixel_values.sum()))
            for b in step
        ]
        for step in steps
    ]


def test_labels_end_with_the_end_token_and_have_no_start(proc):
    ids = label_ids(proc, "Total 3.50")
    assert ids[-1] == proc.tokenizer.eos_token_id == 2
    assert proc.tokenizer.decode(ids[:-1]) == "Total 3.50"
    assert not {0, 1, 2} & set(ids[:-1])


def test_labels_are_padded_with_what_the_loss_ignores():
    assert pad_labels([[5, 6, 2], [7, 2]], 4).tolist() == [[5, 6, 2, -100], [7, 2, -100, -100]]
    assert pad_labels([[5, 6, 2], [7, 2]], 8, most=5).shape == (2, 5)
    assert pad_labels([[5, 6, 2], [7, 2]], 8, most=2).shape == (2, 3)  # what is there is kept


def test_labels_are_not_padded_past_the_longest_allowed(proc):
    for step in islice(training_batches(windows(proc, length_multiple=24, max_label_tokens=16)), 3):
        assert {batch.labels.shape[1] for batch in step} == {16}


def test_each_epoch_has_every_line_once_in_another_order(proc):
    lines = drawn_lines(48)  # two steps of 3 windows of 2 lanes of 4 lines: 24 lines a row of windows
    steps = list(islice(training_batches(windows(proc, lines)), 12))
    names = [name for step in steps for batch in step for name in batch.names]
    first, second = names[:48], names[48:]
    assert sorted(first) == sorted(second) == [record.name for record in lines]
    assert first != second


def test_a_batch_is_what_the_processor_makes_of_its_lines(proc):
    lines = {record.name: record for record in drawn_lines(40)}
    for step in islice(training_batches(windows(proc, full_width_share=0.0)), 3):
        for batch in step:
            width = batch.pixel_values.shape[3]
            images = [lines[name].open() for name in batch.names]
            full = proc.image_processor(images, return_tensors="pt")["pixel_values"]
            assert torch.equal(batch.pixel_values, full[..., :width])
            assert width in (64, 160, 640)
            widest = max(round(image.width * 32 / image.height) for image in images)
            assert widest <= width
            assert all(lines[name].text == text for name, text in zip(batch.names, batch.texts, strict=True))
            assert batch.labels.shape[1] % 8 == 0
            assert batch.num_tokens == sum(len(label_ids(proc, text)) for text in batch.texts)


def test_buckets_waste_less_than_lines_as_they_come(proc):
    kwargs = {"lanes": 1, "window": 8, "full_width_share": 0.0, "length_multiple": 1}
    sorted_ = [b.labels for (b,) in islice(training_batches(windows(proc, **kwargs)), 8)]
    kwargs["window"] = 1
    as_they_come = [b.labels for (b,) in islice(training_batches(windows(proc, **kwargs)), 8)]
    waste = [sum(int((x == -100).sum()) for x in labels) for labels in (sorted_, as_they_come)]
    assert waste[0] < 0.7 * waste[1]


def test_full_width_share(proc):
    steps = islice(training_batches(windows(proc, full_width_share=1.0)), 3)
    assert all(batch.pixel_values.shape[3] == 640 for step in steps for batch in step)


def test_workers_change_nothing(proc):
    here = signature(islice(training_batches(windows(proc)), 5))
    there = signature(islice(training_batches(windows(proc), workers=2), 5))
    assert here == there


def tell_workers() -> None:
    """Run by the test below in a process of its own."""
    steps = training_batches(windows(processor()), workers=2)
    next(steps)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(600)


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_training_process_that_is_killed():
    here = Path(__file__).resolve().parent
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parents[1])!r}]\n"
    code += "if __name__ == '__main__':\n    import test_batches; test_batches.tell_workers()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        workers = list(map(int, child.stdout.readline().split()))
        child.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "workers outlive their training process"
        time.sleep(0.1)


def test_starting_later_gives_the_same_steps(proc):
    steps = signature(islice(training_batches(windows(proc)), 9))
    for start in (1, 3, 7):
        assert (
            signature(islice(training_batches(windows(proc), start_step=start), 9 - start)) == steps[start:]
        )


def test_processes_share_the_lanes(proc):
    whole = signature(islice(training_batches(windows(proc, lanes=4)), 5))
    parts = [
        signature(islice(training_batches(windows(proc, lanes=4), rank=rank, world_size=2), 5))
        for rank in range(2)
    ]
    assert [[a[0], b[0], a[1], b[1]] for a, b in zip(*parts, strict=True)] == whole


def test_processes_share_the_rows_of_one_lane(proc):
    lines = damage(drawn_lines(24), 3)
    kwargs = {"lanes": 1, "size": 6, "window": 2}
    whole = [step for (step,) in islice(training_batches(windows(proc, lines, **kwargs)), 6)]
    parts = [
        [
            step
            for (step,) in islice(
                training_batches(windows(proc, lines, **kwargs), rank=rank, world_size=2), 6
            )
        ]
        for rank in range(2)
    ]
    for batch, *mine in zip(whole, *parts, strict=True):
        assert [len(part.names) for part in mine] == [3, 3]
        for rank, part in enumerate(mine):
            assert part.names == batch.names[rank::2]
            assert torch.equal(part.pixel_values, batch.pixel_values[rank::2])
    named = [[message for batch in part for message in batch.skipped] for part in (whole, *parts)]
    assert named == [["line003.png: not an image"] * 2, ["line003.png: not an image"] * 2, []]  # two epochs


def test_windows_are_the_same_in_any_order(proc):
    made = windows(proc)
    later = signature([made[8]])
    assert signature([made[4]]) == signature([windows(proc)[4]])  # of the epoch before
    assert signature([made[8]]) == later


def test_lanes_that_cannot_be_shared(proc):
    with pytest.raises(
        DataError, match="2 micro-batches of a step, of 4 lines, cannot be shared evenly by 3"
    ):
        next(training_batches(windows(proc), world_size=3))
    with pytest.raises(
        DataError, match="1 micro-batches of a step, of 4 lines, cannot be shared evenly by 3"
    ):
        next(training_batches(windows(proc, lanes=1), world_size=3))


def lighten(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    level = int(rng.integers(0, 200))
    return image.point(lambda value: max(value, level))


def test_augmentation_is_seeded_by_position(proc):
    plain = signature(islice(training_batches(windows(proc)), 4))
    one = signature(islice(training_batches(windows(proc, augment=lighten)), 4))
    again = signature(islice(training_batches(windows(proc, augment=lighten), workers=1), 4))
    other = signature(islice(training_batches(windows(proc, augment=lighten, seed=6)), 4))
    assert one == again
    assert one != plain
    assert one != other


def damage(lines: Lines, *places: int) -> Lines:
    changed = Lines(lines)
    for place in places:
        changed[place] = dataclasses.replace(lines[place], opener=Damaged())
    return changed


def test_a_damaged_image_is_left_out_and_named(proc):
    lines = damage(drawn_lines(24), 3, 17)
    steps = list(islice(training_batches(windows(proc, lines)), 3))  # one epoch
    names = {name for step in steps for batch in step for name in batch.names}
    skipped = [message for step in steps for batch in step for message in batch.skipped]
    assert len(names) == 22
    assert sorted(skipped) == ["line003.png: not an image", "line017.png: not an image"]
    assert all(len(batch.names) == 4 for step in steps for batch in step)  # other lines are taken again


def test_a_damaged_image_does_not_end_a_run_of_batches_of_one_line(proc):
    lines = damage(drawn_lines(6), 1, 4)
    steps = list(islice(training_batches(windows(proc, lines, size=1, lanes=1, window=3)), 6))
    assert [len(batch.names) for (batch,) in steps] == [1] * 6
    assert sum(len(batch.skipped) for (batch,) in steps) == 2


def test_nothing_that_can_be_read(proc):
    lines = damage(drawn_lines(24), *range(24))
    with pytest.raises(DataError, match=r"none of 12 lines in a row can be read: line\d+\.png: not an image"):
        next(training_batches(windows(proc, lines)))


def test_labels_longer_than_the_decoder_are_cut_before_the_end_token_and_named(proc):
    lines = drawn_lines(24)
    lines[5] = dataclasses.replace(lines[5], text="x y z " * 30)
    steps = list(islice(training_batches(windows(proc, lines, max_label_tokens=16)), 3))
    cut = [name for step in steps for batch in step for name in batch.too_long]
    assert cut == ["line005.png"]
    (row,) = (
        batch.labels[batch.names.index("line005.png")]
        for step in steps
        for batch in step
        if "line005.png" in batch.names
    )
    assert row.tolist() == [*label_ids(proc, "x y z " * 30)[:15], 2]


def test_no_lines(proc):
    with pytest.raises(DataError, match="no lines to train on"):
        windows(proc, Lines())
