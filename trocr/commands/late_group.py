"""A group of commands that are imported when they are called.

Source: click's `Group`, for commands that load late.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import click

_OURS = ("trocr.", "weights_conversion.")


class LateGroup(click.Group):
    """A group whose commands are imported when they are called, and which shows our errors as messages.

    Args:
        late: command -> the module with a function of that name (dashes are underscores there), and what the
            list of commands says about it.
        options: those of `click.Group`.
    """

    def __init__(self, *, late: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(**options)
        self.late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the table."""
        return list(self.late)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if cmd_name not in self.late:
            return None
        module = importlib.import_module(self.late[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.late.items()])

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
