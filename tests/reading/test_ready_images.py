"""Images that are made ready ahead: order, how many are taken, what goes wrong on the way, and the thread."""

import itertools
import threading
import time
import weakref

import pytest
import torch

from trocr import ImageError
from trocr.reading.images import ready_batches


def prepare(image):
    if isinstance(image, Exception):
        raise image
    return torch.full((1, 1, 2, 3), float(image))


def ready(images, batch_size=2):
    return list(ready_batches(images, prepare, batch_size))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("trocr-images")]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_images_come_in_order(batch_size):
    batches = ready(range(7), batch_size)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    found = list(itertools.chain.from_iterable(batches))
    assert [image.number for image in found] == list(range(7))
    assert [float(image.pixels[0, 0, 0]) for image in found] == list(range(7))
    assert [image.source for image in found] == [f"images[{number}]" for number in range(7)]


def test_images_are_taken_two_batches_ahead():
    taken = []
    batches = ready_batches((taken.append(n) or n for n in range(20)), prepare, 3)
    assert taken == []
    for count in (6, 9, 12):
        next(batches)
        assert len(taken) == count
    batches.close()
    assert len(taken) == 12


def test_an_endless_iterable_holds_few_images():
    class Number(float):
        pass

    alive = weakref.WeakSet()

    def numbers():
        for n in itertools.count():
            number = Number(n)
            alive.add(number)
            yield number
            del number

    batches = ready_batches(numbers(), prepare, 2)
    for batch in itertools.islice(batches, 30):
        del batch
        assert len(alive) <= 4
    batches.close()
    assert threads() == []


def test_a_bad_image_is_one_of_the_batch():
    ((first, bad, last),) = ready([1, ImageError("torn"), 3], 3)
    assert isinstance(first.pixels, torch.Tensor)
    assert isinstance(last.pixels, torch.Tensor)
    assert isinstance(bad.pixels, ImageError)
    assert str(bad.pixels) == "images[1]: torn"


def test_other_errors_come_in_their_turn():
    wrong = KeyError("a bug of the caller's")
    (_, (bad, good)) = ready([1, 2, wrong, 4])
    assert bad.pixels is wrong
    assert isinstance(good.pixels, torch.Tensor)


def test_an_error_of_the_iterable_is_the_last_image():
    wrong = OSError("the network is gone")

    def images():
        yield from range(3)
        raise wrong

    (_, (third, last)) = ready(images())
    assert isinstance(third.pixels, torch.Tensor)
    assert last.pixels is wrong
    assert last.number == 3


def test_an_interruption_is_not_kept():
    def images():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ready(images())
    assert threads() == []


def test_closing_early_does_not_wait_for_what_is_not_begun():
    begun = []

    def slow(image):
        begun.append(image)
        time.sleep(0.05)
        return prepare(image)

    batches = ready_batches(range(100), slow, 1)
    next(batches)
    batches.close()
    assert len(begun) <= 2
    assert threads() == []


def test_the_iterable_is_closed_with_the_batches():
    closed = []

    def images():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    batches = ready_batches(images(), prepare, 2)
    next(batches)
    batches.close()
    del batches
    assert closed == [True]
