"""Command groups that import a command's module only when the command is used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import click

from sandnet.cli import output
from sandnet.cli.groups import Group
from sandnet.errors import Error


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    target: str
    """The command's place: ``module:attribute``."""
    help: str
    """The line in the group's list of commands, so that ``--help`` need not import anything."""


_REST = re.compile(r",? \?\w+=\w+")
"""The part of a daemon's hint that is for clients of its REST API; the command line has an option for the same."""


class Failure(click.ClickException):
    """An :class:`sandnet.errors.Error` to be printed on stderr; exit status 1."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self._hint = _REST.sub("", error.hint)

    def show(self, file: object = None) -> None:
        """Print the message, and the hint on a line of its own."""
        output.failure(self.message, self._hint)


class WrongUsage(click.ClickException):
    """A usage error of click to be printed on stderr; exit status 2. It may contain text of others, as in a script."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message())
        self._ctx = error.ctx

    def show(self, file: object = None) -> None:
        """Print the usage of the command, and the error."""
        output.wrong_usage(self.message, self._ctx)


class LazyGroup(Group):
    """A group whose commands are listed in a table."""

    lazy: dict[str, Lazy] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of the table."""
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

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the options of the group."""
        with _errors_shown():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an :class:`sandnet.errors.Error` or a usage error is printed as a message."""
        with _errors_shown():
            return super().invoke(ctx)


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if error.message.startswith("Usage:"):  # a group without a command: click shows its help
            raise
        raise WrongUsage(error) from error
    except Error as error:
        raise Failure(error) from error
