"""`trocr inspect`: look into a checkpoint; nothing is changed.

Source: original work.
"""

import click

from trocr.commands.late_group import LateGroup

VIEWS = {
    "taps": ("trocr.commands.inspect.taps", "Name the places where tensors can be read and replaced."),
    "attention": ("trocr.commands.inspect.attention", "Draw where the model looked for each token."),
    "lens": ("trocr.commands.inspect.lens", "Show what each decoder block would write."),
    "sizes": ("trocr.commands.inspect.sizes", "Count parameters, bytes and multiply-adds by module."),
    "compare": ("trocr.commands.inspect.compare", "Measure how far two checkpoints are apart."),
}


@click.group(cls=LateGroup, late=VIEWS)
def inspect() -> None:
    """Look into a model: attention, layers, sizes, differences."""
