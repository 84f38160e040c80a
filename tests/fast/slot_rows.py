"""Rows that are read in slots, a few images at a time."""

from trocr.fast.slots import Row


def read_in_slots(slots, memories, mosts, *, at_once):
    """Read images by their states, `at_once` of them added at most in a step; gives the rows by number."""
    queue, done = list(range(len(memories))), {}
    while queue or slots.active:
        count = min(slots.free, at_once, len(queue))
        chosen, queue = queue[:count], queue[count:]
        slots.admit([Row(n, mosts[n]) for n in chosen], [memories[n] for n in chosen])
        assert slots.active <= slots.capacity
        for row in slots.step():
            done[row.key] = row
        slots.compact()
    return done
