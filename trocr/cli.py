"""The command line `trocr`: a group whose commands are imported when they are called.

Source: original work.
"""

import click

from trocr import __version__
from trocr.commands.late_group import LateGroup

COMMANDS = {
    "read": ("trocr.commands.read", "Print the text of line images."),
    "optimize": ("trocr.commands.optimize", "Make a model quick for this machine, checked."),
    "export": ("trocr.commands.export", "Write a model for ONNX Runtime, or as compiled packages."),
    "env": ("trocr.commands.env", "Print what this machine is quick with, and why."),
    "data": ("trocr.commands.data", "Look at lines with their texts, pack them, split them."),
    "synth": ("trocr.commands.synth", "Write generated lines."),
    "assemble": ("trocr.commands.assemble", "Make a model of a pretrained encoder and decoder."),
    "surgery": ("trocr.commands.surgery", "Change a model: vocabulary, images, blocks, adapters, parts."),
    "inspect": ("trocr.commands.inspect", "Look into a model: attention, layers, sizes, differences."),
    "doctor": ("trocr.commands.doctor", "Find what would spoil a training run."),
    "evaluate": ("trocr.commands.evaluate", "Compare readings with what the lines say."),
}
"""Command -> the module with a function of that name, and what the list of commands says about it."""


@click.group(cls=LateGroup, late=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trocr")
def main() -> None:
    """Read lines of text from images."""
