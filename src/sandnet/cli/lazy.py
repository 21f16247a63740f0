"""Command groups that import a command's module when the command is used, and not before."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click

from sandnet.errors import Error


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    target: str
    """``module:attribute``."""
    help: str
    """The line in the group's list of commands, so that ``--help`` need not import anything."""


class Failure(click.ClickException):
    """An :class:`sandnet.errors.Error` on its way to stderr; exit status 1."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self._hint = error.hint

    def show(self, file: object = None) -> None:
        """Print the message, and the hint on a line of its own."""
        click.echo(f"sandnet: {self.message}", err=True)
        if self._hint:
            click.echo(f"  {self._hint}", err=True)


class LazyGroup(click.Group):
    """A group whose commands are named in a table."""

    lazy: dict[str, Lazy] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a failure that a person can act on becomes a message."""
        try:
            return super().invoke(ctx)
        except Error as error:
            raise Failure(error) from error
