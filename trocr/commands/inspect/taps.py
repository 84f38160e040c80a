"""`trocr inspect taps`: the places where tensors can be read and replaced.

Source: original work.
"""

import re

import click

from trocr.commands.inspect import common


@click.command()
@click.argument("checkpoint", metavar="MODEL")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@common.JSON
def taps(checkpoint: str, patterns: tuple[str, ...], as_json: bool) -> None:
    """Name the taps of MODEL, all or those that a PATTERN names, with their kinds and shapes.

    They are for `trocr.inspect.capture` and `trocr.inspect.patch`. Blocks whose taps are alike share a row.
    """
    from trocr.commands.surgery.common import load
    from trocr.inspect.taps import choose_taps

    model, _ = load(checkpoint)
    found = choose_taps(model, patterns or "*")
    groups: dict[tuple[str, str, str], list[str]] = {}
    for tap in found:
        key = re.sub(r"(?<=\.)\d+(?=\.)", "*", tap.name), tap.kind, tap.shape
        groups.setdefault(key, []).append(tap.name)
    names = [f"{key[0]} x {len(taps)}" if len(taps) > 1 else taps[0] for key, taps in groups.items()]
    width = max(map(len, names))
    rows = [
        f"{name:{width}}  {kind:9}  {shape}" for name, (_, kind, shape) in zip(names, groups, strict=True)
    ]
    legend = (
        "B rows, B' images, S encoder tokens, T decoder tokens of the call, T' the cached ones too, D width, "
        "H heads, K width of a head, F width inside a feed-forward part, V vocabulary"
    )
    common.show("\n".join([*rows, legend]), [tap.to_dict() for tap in found], as_json=as_json)
