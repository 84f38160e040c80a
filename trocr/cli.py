"""The command line `trocr`: a group whose commands are imported when they are called.

Source: click's `Group`, for commands that load late.
"""

import importlib

import click

from trocr import __version__

COMMANDS = {
    "read": ("trocr.commands.read", "Print the text of line images."),
    "data": ("trocr.commands.data", "Look at lines with their texts, pack them, split them."),
    "synth": ("trocr.commands.synth", "Write generated lines."),
    "assemble": ("trocr.commands.assemble", "Make a model of a pretrained encoder and decoder."),
    "doctor": ("trocr.commands.doctor", "Find what would spoil a training run."),
    "evaluate": ("trocr.commands.evaluate", "Compare readings with what the lines say."),
}
"""Command -> the module with a function of that name, and what the list of commands says about it."""

_OURS = ("trocr.", "weights_conversion.")


class LateGroup(click.Group):
    """A group whose commands are imported when they are called, and which shows our errors as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error that this package raises on purpose becomes a message and exit status 1.

        So does what the system says about a file.
        """
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if type(error).__module__.startswith(_OURS):
                raise click.ClickException(str(error)) from error
            if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
                place = f"{error.filename}: " if error.filename else ""
                raise click.ClickException(f"{place}{error.strerror}") from error
            raise


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trocr")
def main() -> None:
    """Read lines of text from images."""
