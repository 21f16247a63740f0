"""All output of the commands: lines, tables, fields, errors and the daemon's JSON.

The printed values are untrusted: names, labels, answers of a daemon on another machine. Each function here escapes
them, so that they can neither control the terminal nor forge a line. No other module of the command line prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click

from sandnet.errors import Error, Kind
from sandnet.escaping import printable, printable_json

SHORT = 12
"""Digits of an id in a table."""
FULL = 64
"""Digits of an id that a machine has chosen."""
STATE = "STATE"
"""The heading of a column of states."""
COLOURS = {"ready": "green", "drained": "yellow", "failing": "red"}
"""Colours of states."""

F = TypeVar("F", bound=Callable[..., object])


def json_option(command: F) -> F:
    """Add the option ``--json``, which every ``info`` has."""
    return click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")(command)


def force_option(command: F) -> F:
    """Add the option ``--force``, for deletions that running containers can prevent."""
    return click.option("-f", "--force", is_flag=True, help="Take along what is alive on it.")(command)


def short(identifier: str, no_trunc: bool = False) -> str:
    """Return the id, cut to 12 digits if a machine has chosen it (64 hex digits) and the user does not want all."""
    if no_trunc or len(identifier) != FULL or identifier.strip("0123456789abcdef"):
        return identifier
    return identifier[:SHORT]


def line(text: str, *, err: bool = False) -> None:
    """Print one line."""
    click.echo(printable(text), err=err)


def lines(text: str) -> None:
    """Print a text of several lines, each as :func:`line` does."""
    for each in text.rstrip("\n").split("\n"):
        line(each)


def block(text: str) -> None:
    """Print lines that :func:`table`, :func:`fields` or :func:`printable` returned."""
    click.echo(text)


def failure(message: str, hint: str = "") -> None:
    """Print an error on stderr, and a hint on a line of its own."""
    click.echo(paint("sandnet:", "red", err=True) + f" {printable(message)}", err=True)
    if hint:
        line(f"  {hint}", err=True)


def wrong_usage(message: str, ctx: click.Context | None) -> None:
    """Print the usage of a command and the error on stderr."""
    if ctx is not None:
        click.echo(f"{ctx.get_usage()}\nTry '{ctx.command_path} --help' for help.\n", err=True)
    first, *others = message.expandtabs(4).split("\n")
    click.echo(paint("Error:", "red", err=True) + f" {printable(first)}", err=True)
    for other in others:
        line(other, err=True)


def progress(text: str) -> None:
    """Print on stderr what is in progress, without ending the line."""
    click.echo(printable(text), err=True, nl=False)


def erase_line() -> None:
    """Erase the line of stderr that the cursor is on."""
    click.echo("\r\033[K", err=True, nl=False)


def raw(answer: bytes) -> None:
    """Print the daemon's answer, which is JSON.

    Raises:
        Error: ``INTERNAL``, it is not JSON.
    """
    import msgspec

    try:
        msgspec.json.decode(answer)
        text = answer.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the daemon's answer is not JSON: {error}"
        raise Error(Kind.INTERNAL, message, "is it a sandnet daemon that answers?", "bad_answer") from error
    click.echo(printable_json(text.rstrip("\n")))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "", width: int = 0) -> str:
    """Return left-aligned columns two spaces apart; no blanks at the ends of lines.

    Args:
        headings: headings of the columns.
        rows: a cell for each heading; their contents are escaped.
        indent: prefix of each line.
        width: columns of the terminal; a wider table is folded within its cells. 0: any width.
    """
    cells = [tuple(headings), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = _widths(cells, width - len(indent) if width else 0)
    lines = []
    for number, row in enumerate(cells):
        styles = [_state if number and heading == STATE else _plain if number else _heading for heading in headings]
        lines += [indent + line for line in _folded(row, widths, styles)]
    return "\n".join(lines)


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """Return ``name: value`` lines with the values aligned; pairs without a value are left out."""
    shown = [(name, printable(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0) + 2
    return "\n".join(f"{name + ':':{width}}{value}" for name, value in shown)


def terminal_width() -> int:
    """Return the number of columns of the terminal; 0 if stdout is none."""
    if not sys.stdout.isatty():
        return 0
    import shutil

    return shutil.get_terminal_size().columns


def paint(text: str, colour: str, *, bold: bool = False, err: bool = False) -> str:
    """Return the text in a colour, if the stream is a terminal for which colours are enabled (https://no-color.org)."""
    stream = sys.stderr if err else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return click.style(text, fg=colour or None, bold=bold or None)


def _heading(cell: str) -> str:
    return paint(cell, "", bold=True)


def _plain(cell: str) -> str:
    return cell


def _state(cell: str) -> str:
    colour = COLOURS.get(cell)
    return paint(cell, colour) if colour else cell


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the width of each column; if the sum exceeds ``room``, narrow the widest down to their headings."""
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    least = [max(len(heading), SHORT) for heading in cells[0]]
    while room and sum(widths) + 2 * (len(widths) - 1) > room:
        widest = max(range(len(widths)), key=lambda number: widths[number] - least[number])
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
    return widths


def _folded(row: Sequence[str], widths: Sequence[int], styles: Sequence[Callable[[str], str]]) -> list[str]:
    """Return the lines of a row."""
    pieces = [_pieces(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, pieces))):
        cells = [(piece[number] if number < len(piece) else "") for piece in pieces]
        last = max((place for place, cell in enumerate(cells) if cell), default=0)
        padded = [
            style(cell) + " " * (width - len(cell))
            for cell, width, style in zip(cells[:last], widths, styles, strict=False)
        ]
        lines.append("  ".join([*padded, styles[last](cells[last])]))
    return lines


def _pieces(cell: str, width: int) -> list[str]:
    """Return the cell in pieces of at most this width, broken after commas where possible."""
    pieces = []
    while len(cell) > width:
        end = cell.rfind(",", 0, width) + 1 or width
        pieces.append(cell[:end])
        cell = cell[end:].lstrip()
    return [*pieces, cell]
