"""Tables, ids and fields on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click

SHORT = 12
"""Digits of an id in a table."""

F = TypeVar("F", bound=Callable[..., object])


def list_options(command: F) -> F:
    """The options every ``ls`` has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is."),
        click.option("--no-trunc", is_flag=True, help="Print ids in full."),
        click.option("-q", "--quiet", is_flag=True, help="Print ids only."),
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """The option every ``info`` has."""
    return click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")(command)


def force_option(command: F) -> F:
    """The option every removal has that the living can stand in the way of."""
    return click.option("-f", "--force", is_flag=True, help="Take along what is alive on it.")(command)


def short(identifier: str, no_trunc: bool = False) -> str:
    """The id, cut to 12 digits unless the user wants all."""
    return identifier if no_trunc else identifier[:SHORT]


def raw(answer: bytes) -> None:
    """Print the daemon's answer."""
    click.echo(answer.decode().rstrip("\n"))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Left-aligned columns two spaces apart; no blanks at the ends of lines."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """``name: value`` lines with the values aligned; pairs without a value are left out."""
    told = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in told), default=0) + 2
    return "\n".join(f"{name + ':':{width}}{value}" for name, value in told)


def listing(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, quiet: bool = False, no_trunc: bool = False
) -> None:
    """Print an ``ls``: the first cell of each row is an id."""
    if quiet:
        for row in rows:
            click.echo(short(row[0], no_trunc))
        return
    click.echo(table(headings, [(short(row[0], no_trunc), *row[1:]) for row in rows]))
