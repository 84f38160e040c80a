"""`Reader.read` with recognisers that answer in other orders, images that are bad, and early ends."""

import random
import threading

import numpy as np
import pytest
import torch

from trocr import ImageError
from trocr.reading.recognisers import Found

END = 2


class Shuffled:
    """Answers later and in another order; the text of image n is the token 10 + n."""

    def __init__(self, seed, keep):
        self.chance, self.keep, self.held, self.seen = random.Random(seed), keep, [], []

    def push(self, images):
        self.held += [number for number, _ in images]
        self.seen += [number for number, _ in images]
        self.chance.shuffle(self.held)
        while len(self.held) > self.keep:
            yield self.answer()

    def drain(self):
        while self.held:
            yield self.answer()

    def answer(self):
        number = self.held.pop()
        return number, Found([10 + number, END], [-0.5, -0.25], True)


@pytest.fixture
def shuffled(reader, monkeypatch):
    def use(seed=0, keep=5):
        made = Shuffled(seed, keep)
        monkeypatch.setattr(type(reader), "recogniser", lambda self, options, **kw: made)
        return made

    return use


def image(value=255):
    return np.full((8, 8), value, np.uint8)


def numbers(lines):
    return [line.tokens[0].id - 10 for line in lines]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [0, 1, 5, 100])
def test_lines_come_in_the_order_of_the_images(reader, shuffled, seed, keep):
    shuffled(seed, keep)
    lines = list(reader.read((image() for _ in range(23)), batch_size=4))
    assert numbers(lines) == list(range(23))
    assert [line.source for line in lines] == [f"images[{n}]" for n in range(23)]


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_bad_images_are_told_in_their_turn(reader, shuffled, keep):
    shuffled(keep=keep)
    given = [image(), b"", image(), image(), b"x", b"y", image(), b"z"]
    told = []
    lines = []
    for line in reader.read(given, batch_size=2, on_error=lambda source, error: told.append((source, error))):
        lines.append(line)
        before = [int(source[7:-1]) for source, _ in told]
        assert before == [n for n in (1, 4, 5, 7) if n < numbers(lines)[-1]]
    assert numbers(lines) == [0, 2, 3, 6]
    assert [source for source, _ in told] == [f"images[{n}]" for n in (1, 4, 5, 7)]
    assert all(isinstance(error, ImageError) for _, error in told)


@pytest.mark.parametrize("keep", [0, 5, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_bad_image_ends_the_reading_after_the_lines_before(reader, shuffled, keep, batch_size):
    made = shuffled(keep=keep)
    taken = []

    def images():
        for n in range(20):
            taken.append(n)
            yield b"torn" if n == 7 else image()

    lines = []
    with pytest.raises(ImageError, match=r"images\[7\]: 4 bytes: not an image"):
        lines.extend(reader.read(images(), batch_size=batch_size))
    assert numbers(lines) == list(range(7))
    assert len(taken) <= 7 + 3 * batch_size
    assert not [n for n in made.seen if n > 7 + batch_size]


@pytest.mark.parametrize("on_error", [None, lambda source, error: None])
@pytest.mark.parametrize("keep", [0, 100])
def test_an_error_of_the_iterable_comes_after_its_lines(reader, shuffled, on_error, keep):
    shuffled(keep=keep)

    def images():
        for _ in range(5):
            yield image()
        raise OSError("the network is gone")

    lines = []
    with pytest.raises(OSError, match="the network is gone") as caught:
        lines.extend(reader.read(images(), batch_size=2, on_error=on_error))
    assert numbers(lines) == list(range(5))
    assert any(entry.name == "images" for entry in caught.traceback)  # where it comes from


def test_an_error_in_preparing_is_not_taken_for_a_bad_image(reader, shuffled, monkeypatch):
    shuffled()
    prepare = type(reader)._pixels

    def breaks(self, given):
        if given.shape[0] == 9:
            raise ZeroDivisionError("a bug")
        return prepare(self, given)

    monkeypatch.setattr(type(reader), "_pixels", breaks)
    lines = []
    with pytest.raises(ZeroDivisionError, match="a bug"):
        lines.extend(reader.read([image(), image(), np.zeros((9, 9), np.uint8)], on_error=lambda *a: None))
    assert numbers(lines) == [0, 1]


def test_an_error_of_on_error_ends_the_reading(reader, shuffled):
    shuffled()

    def on_error(source, error):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(reader.read([image(), b"", image()], on_error=on_error))
    assert no_threads()


def no_threads():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("trocr-images")]


def test_stopping_leaves_nothing_behind(reader, shuffled):
    shuffled(keep=0)
    lines = reader.read((image() for _ in range(50)), batch_size=2)
    next(lines)
    assert not no_threads()
    lines.close()
    assert no_threads()
    assert list(lines) == []


def test_an_error_of_the_caller_leaves_no_thread(reader, shuffled):
    shuffled(keep=0)

    def stumbles():
        for _ in reader.read((image() for _ in range(50)), batch_size=2):
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        stumbles()
    assert no_threads()


def test_nothing_is_taken_before_the_first_line_is_asked_for(reader, shuffled):
    shuffled()
    taken = []
    lines = reader.read(taken.append(n) or image() for n in range(5))
    assert taken == []
    next(lines)
    assert taken


def test_reading_leaves_no_mode_behind(reader, lines):
    """Between lines, the caller's own work has gradients as ever."""
    weight = torch.ones(2, requires_grad=True)
    for _ in reader.read(lines[:3], batch_size=1, max_new_tokens=2):
        assert not torch.is_inference_mode_enabled()
        (weight * 2).sum().backward()
    assert torch.equal(weight.grad, torch.full((2,), 6.0))
