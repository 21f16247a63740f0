"""The options of every ``ls`` and ``info``, and the printing of answers as table, text, JSON or by a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from sandnet.cli import output

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")
_FORMAT = click.option(
    "--format",
    "template",
    metavar="TEMPLATE",
    help="Print by a template: '{{.Name}}', 'table {{.ID}}\\t{{.Name}}', '{{json .}}'. The fields are those of --json.",
)
_LIST = (
    click.option("-q", "--quiet", is_flag=True, help="Print ids only."),
    click.option("--no-trunc", is_flag=True, help="Print ids in full."),
    click.option(
        "-f",
        "--filter",
        "filters",
        multiple=True,
        metavar="KEY=VALUE",
        help="Only those with this name, id, label or any field of --json (repeatable).",
    ),
    _FORMAT,
    _JSON,
)


class Style(NamedTuple):
    """The output format of a list."""

    quiet: bool
    no_trunc: bool
    as_json: bool
    template: str | None
    filters: Sequence[str]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Style:
        """Return the style from the options of :func:`list_options`."""
        return cls(*(options[name] for name in cls._fields))


def list_options(command: F) -> F:
    """Add the options that every ``ls`` has; the command gets them as keyword arguments."""
    for option in reversed(_LIST):
        command = option(command)
    return command


def info_options(command: F) -> F:
    """Add ``--format`` and ``--json``, which every ``info`` has."""
    return _FORMAT(_JSON(command))


def show_list(
    answer: bytes, shape: type[T], headings: Sequence[str], row: Callable[[T], Sequence[str]], style: Style
) -> None:
    """Print an answer that is a list.

    Args:
        answer: the daemon's JSON.
        shape: type of its objects.
        headings: headings of the table.
        row: returns the cells of an object; the first is its id.
        style: output format.

    Raises:
        Error: ``INVALID``, a filter or the template cannot be used; ``INTERNAL``, the answer is no such list.
    """
    answer = filtered(answer, style.filters)
    if style.template:
        _show_by_template(answer, style.template)
    elif style.as_json:
        output.raw(answer)
    else:
        from sandnet.client import decode

        rows = [row(each) for each in decode(answer, list[shape])]  # type: ignore[valid-type]
        cut = [(output.short(cells[0], style.no_trunc), *cells[1:]) for cells in rows]
        if style.quiet:
            for cells in cut:
                output.line(cells[0])
        else:
            output.block(output.table(headings, cut, width=output.terminal_width()))


def show_one(answer: bytes, text: Callable[[bytes], str], template: str | None, as_json: bool) -> None:
    """Print an answer that is an object: by a template, as JSON, or as text."""
    if template:
        from sandnet.cli.templates import Template
        from sandnet.client import decode

        output.block(Template(template).render(decode(answer, dict[str, object])))
    elif as_json:
        output.raw(answer)
    else:
        output.block(text(answer))


def filtered(answer: bytes, given: Sequence[str]) -> bytes:
    """Return the objects of a list that pass all filters.

    Raises:
        Error: ``INVALID``, a filter cannot be used.
    """
    if not given:
        return answer
    import msgspec

    from sandnet.cli.templates import filters
    from sandnet.client import decode

    passes = filters(given)
    return msgspec.json.encode([each for each in decode(answer, list[dict[str, object]]) if passes(each)])


def _show_by_template(answer: bytes, text: str) -> None:
    from sandnet.cli.templates import Template
    from sandnet.client import decode

    template = Template(text)
    lines = [template.render(each) for each in decode(answer, list[dict[str, object]])]
    if template.is_table:
        headings = template.headings()
        rows = [line.split("\t") for line in lines]
        output.block(output.table(headings, rows, width=output.terminal_width()))
    else:
        for line in lines:
            output.block(line)
