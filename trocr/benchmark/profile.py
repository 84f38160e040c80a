"""Where the time goes: PyTorch's operators, by the part of the model that called them.

Source: `torch.profiler`; the parts are ranges that are put around the model's own calls.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from trocr.benchmark.candidates import lengths_of, stack
from trocr.benchmark.lengths import ForcedModel
from trocr.benchmark.lines import BenchmarkLine

PARTS = ("preprocessing", "encoder", "cross-attention projection", "decoder", "head", "rest")
"""Parts of a model's work; the decoder's is what is left of it without the projection of the image's keys and
values and without the head."""

PREFIX = "trocr: "
CALLS = "(Python and calls)"

Groups = dict[str, dict[str, float]]


def profile_model(
    model: Any, lines: Sequence[BenchmarkLine], image_processor: Any, *, warm_up: bool = True
) -> Groups:
    """Read lines once, together, under the profiler.

    Args:
        model: has the common interface of reading models.
        lines: with images and lengths; they go through the model as one batch.
        image_processor: prepares the images.
        warm_up: read once before.
    Returns:
        Part -> operator -> seconds that it took itself, without what it called.
    """
    pixels = [stack([line])[0] for line in lines]
    forced = ForcedModel(model, pixels, lengths_of(lines))

    def read() -> None:
        with torch.inference_mode():
            with record_function(PREFIX + "preprocessing"):
                image_processor([line.image for line in lines], return_tensors="pt")
            batch = stack(lines).to(model.device, model.dtype)
            forced.generate(batch, max_new_tokens=max(lengths_of(lines)), num_beams=1, do_sample=False)

    with labelled(model, forced):
        if warm_up:
            read()
        with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function(PREFIX + "rest"):
            read()
    return group_events(profiled.events())


@contextmanager
def labelled(model: Any, forced: Any) -> Iterator[None]:
    """Put named ranges around the calls of a model's parts, and take them away again.

    Args:
        model: whose parts are called.
        forced: what calls them, which may be the model.
    """
    places: list[tuple[Any, str, str]] = [(forced, "encode", "encoder"), (forced, "decoder", "decoder")]
    decoder = model.decoder
    for block in getattr(decoder, "blocks", ()):
        owner = getattr(block, "cross_attn", getattr(block, "cross", block))
        name = "project" if hasattr(owner, "project") else "keys_values"
        if hasattr(owner, name):
            places.append((owner, name, "cross-attention projection"))
    if hasattr(decoder, "output_projection"):
        places.append((decoder.output_projection, "forward", "head"))
    elif hasattr(decoder, "head"):
        places.append((decoder, "head", "head"))
    before = [(owner, name, vars(owner).get(name), name in vars(owner)) for owner, name, _ in places]
    for owner, name, part in places:
        vars(owner)[name] = _Labelled(getattr(owner, name), PREFIX + part)
    try:
        yield
    finally:
        for owner, name, value, was_own in before:
            if was_own:
                vars(owner)[name] = value
            else:
                del vars(owner)[name]


class _Labelled:
    """A callable within a named range; everything else is handed through."""

    def __init__(self, call: Callable[..., Any], label: str) -> None:
        self._call, self._label = call, label

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with record_function(self._label):
            return self._call(*arguments, **options)


def group_events(events: Any) -> Groups:
    """Sum the profiler's events up by the innermost range that holds them; those outside count as "rest"."""
    groups: Groups = {}
    for event in events:
        seconds = event.self_cpu_time_total / 1e6
        if seconds <= 0:
            continue
        part, holder = "rest", event
        while holder is not None:
            if holder.name.startswith(PREFIX):
                part = holder.name.removeprefix(PREFIX)
                break
            holder = holder.cpu_parent
        name = CALLS if event.name.startswith(PREFIX) else event.name
        group = groups.setdefault(part, {})
        group[name] = group.get(name, 0.0) + seconds
    return groups
