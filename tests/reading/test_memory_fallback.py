"""Too little memory, made up: smaller batches, one warning, every line in its place."""

import itertools
import warnings

import pytest
import torch
from line_images import padded

from trocr import optimize
from trocr.reading.memory import Room, in_parts, is_out_of_memory
from trocr.reading.recognisers import BatchRecogniser, SlotRecogniser, greedy_length

FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12"
OPTIONS = {"max_new_tokens": 9}


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. {FULL}"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_counts_as_too_little_memory(error, wanted):
    assert is_out_of_memory(error) is wanted


def fits(most, sizes):
    def work(items):
        sizes.append(len(items))
        if len(items) > most:
            raise RuntimeError(FULL)
        return [item * 10 for item in items]

    return work


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 9])
def test_parts_are_as_large_as_memory_allows(most):
    sizes, room = [], Room(8, "read")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [list(in_parts(fits(most, sizes), range(first, first + 8), room)) for first in (0, 8, 16)]
    assert list(itertools.chain(*itertools.chain(*found))) == [10 * n for n in range(24)]
    size = next(size for size in (8, 4, 2, 1) if size <= most)
    assert [n for n in sizes if n > most] == [n for n in (8, 4, 2) if n > most]  # each too large size once
    assert sizes.count(size) == 24 // size
    messages = [str(warning.message) for warning in caught]
    told = f"no memory to read 8 lines together; from now on {size} at a time. A smaller batch_size avoids"
    assert [message.startswith(told) for message in messages] == ([] if most >= 8 else [True])
    assert all(issubclass(warning.category, RuntimeWarning) for warning in caught)  # shown by default


def test_one_line_that_does_not_fit():
    parts = in_parts(fits(0, []), range(4), Room(4, "read"))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(parts)


def test_other_errors_are_not_tried_again():
    def work(items):
        calls.append(len(items))
        raise RuntimeError("shapes cannot be multiplied")

    calls = []
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_parts(work, range(8), Room(8, "read")))
    assert calls == [8]


def test_what_was_done_before_the_line_that_does_not_fit_is_kept():
    def work(items):
        if 5 in items:
            raise MemoryError
        return list(items)

    got = []
    parts = itertools.chain.from_iterable(in_parts(work, range(8), Room(8, "read")))
    with pytest.warns(RuntimeWarning), pytest.raises(MemoryError):
        got.extend(parts)
    assert got == [0, 1, 2, 3, 4]


def read(recogniser, images, at_once=4):
    found = []
    for first in range(0, len(images), at_once):
        found += recogniser.push(images[first : first + at_once])
    found += recogniser.drain()
    assert len(found) == len(images)
    return {number: line.ids for number, line in found}


def slots(fast, capacity=4):
    return SlotRecogniser(fast, capacity=capacity, length=greedy_length(fast, OPTIONS))


@pytest.fixture
def case(pair_of):
    """A fast model, ten images, and what is read in them."""
    pair = pair_of("learned")
    fast, images = optimize(pair.ours), padded(pair.family, 10)
    return fast, images, read(slots(fast), images)


def limit(monkeypatch, owner, name, most, count):
    """Let a method fail for more than `most`; gives the numbers that it was tried with."""
    real, tried = getattr(owner, name), []

    def limited(*args, **kwargs):
        tried.append(count(*args, **kwargs))
        if tried[-1] > most:
            raise RuntimeError(FULL)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)
    return tried


def first_length(rows, *args, **kwargs):
    return len(rows)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_encoding_fewer_lines(case, monkeypatch, most):
    fast, images, wanted = case
    tried = limit(monkeypatch, fast, "encode", most, first_length)
    with pytest.warns(RuntimeWarning, match="no memory to encode 4 lines together") as caught:
        assert read(slots(fast), images) == wanted
    assert len(caught) == 1
    assert sum(n for n in tried if n <= most) == 10


def rows_of(cache_or_rows, *args, **kwargs):
    return len(cache_or_rows)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_decoding_fewer_lines(case, monkeypatch, most):
    fast, images, wanted = case
    tried = limit(monkeypatch, fast.decoder, "run", most, first_length)  # in the midst of a text, too
    with pytest.warns(RuntimeWarning, match="no memory to decode 4 lines together; from now on") as caught:
        assert read(slots(fast), images) == wanted
    assert len(caught) == 1
    assert max(tried) == 4
    assert len([n for n in tried if n > most]) <= 2


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("most", [1, 2])
def test_admitting_fewer_lines(case, monkeypatch, most, block):
    """A failure half-way: some blocks hold the new rows and others do not."""
    fast, images, wanted = case
    recogniser = slots(fast)
    cross = fast.decoder.blocks[block].cross
    real = cross.project

    room, arriving = recogniser.slots._images, []
    write = room.write

    def noted(places, memory):
        arriving[:] = places
        write(places, memory)

    def limited(memory):
        if 1 + max(arriving) > most + 1 and recogniser.slots.capacity > most:
            raise RuntimeError(FULL)
        return real(memory)

    monkeypatch.setattr(room, "write", noted)
    monkeypatch.setattr(cross, "project", limited)
    with pytest.warns(RuntimeWarning, match="no memory to decode"):
        assert read(recogniser, images) == wanted
    assert recogniser.slots.capacity < 4


def test_failing_in_the_midst_of_the_blocks(case, monkeypatch):
    """Once, after some steps, when the first block holds a token that the second does not."""
    fast, images, wanted = case
    real, calls = fast.decoder.blocks[1].__class__.__call__, itertools.count()
    second = fast.decoder.blocks[1]

    def limited(self, x, *args, **kwargs):
        if self is second and next(calls) == 13:
            raise MemoryError
        return real(self, x, *args, **kwargs)

    monkeypatch.setattr(type(second), "__call__", limited)
    with pytest.warns(RuntimeWarning, match="no memory to decode 4 lines together; from now on 2 at a time"):
        assert read(slots(fast), images) == wanted


def test_one_line_that_cannot_be_decoded(case, monkeypatch):
    fast, images, _ = case
    limit(monkeypatch, fast.decoder, "run", 0, first_length)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read(slots(fast), images)


@pytest.mark.parametrize("most", [1, 2])
def test_generating_for_fewer_lines(case, monkeypatch, most):
    fast, images, wanted = case
    tried = limit(
        monkeypatch, fast, "generate", most, lambda *a, encoder_outputs, **k: len(encoder_outputs[0])
    )
    with pytest.warns(RuntimeWarning, match=f"read 4 lines together; from now on {most} at a time") as caught:
        assert read(BatchRecogniser(fast, OPTIONS, batch_size=4), images) == wanted
    assert len(caught) == 1
    assert sum(n for n in tried if n <= most) == 10


def test_the_reader_keeps_all_in_order(reader, lines, monkeypatch):
    wanted = [line.text for line in reader.read(lines, batch_size=4)]
    limit(monkeypatch, reader.model, "encode", 2, first_length)
    limit(monkeypatch, reader.model.decoder, "run", 3, first_length)
    with pytest.warns(RuntimeWarning) as caught:
        assert [line.text for line in reader.read(lines, batch_size=8)] == wanted
    assert sorted(str(warning.message).split(";")[0] for warning in caught) == [
        "no memory to decode 8 lines together",
        "no memory to encode 8 lines together",
    ]


def test_lines_before_the_one_that_does_not_fit(reader, lines, monkeypatch):
    wanted = [line.text for line in reader.read(lines)]
    encode, calls = reader.model.encode, itertools.count()

    def limited(pixels, **options):
        if next(calls) >= 5:
            raise MemoryError("no more")
        return encode(pixels, **options)

    monkeypatch.setattr(reader.model, "encode", limited)
    got = []
    with pytest.raises(MemoryError):
        got.extend(line.text for line in reader.read(lines, batch_size=1))
    assert got == wanted[:5]
