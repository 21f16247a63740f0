"""The table of the configuration in docs/operations.md: every key with its option and its default, once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import click

from sandnet.cli.commands.daemon import daemon
from sandnet.config import Config
from tests.architecture.source import REPOSITORY

CODE = re.compile(r"`([^`]+)`")
NO_KEYS = {"path": "--config FILE", "detach": "--detach"}
"""Options that no key of the file stands for, by parameter, and as the page writes them."""


class Row(NamedTuple):
    """A row of the table; several keys may share one."""

    keys: tuple[str, ...]
    options: tuple[str, ...]
    default: str


@cache
def section() -> str:
    """The page's section about the configuration, up to the first heading in it."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    return re.split(r"^##+ ", page.partition("\n## Configuration\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows() -> Iterator[Row]:
    """The rows of the table."""
    for line in section().splitlines():
        cells = line.split(" | ")
        if line.startswith("| `"):
            keys, options, default = (tuple(CODE.findall(cell)) for cell in cells[:3])
            assert len(default) == 1, line
            yield Row(keys, options, default[0].replace("<run_dir>", Config().run_dir))


def written(value: object) -> str:
    """A default as the page writes it: a text that is not empty has no quotes."""
    if isinstance(value, tuple):
        return json.dumps([str(each) for each in value])
    return value if isinstance(value, str) and value else json.dumps(value)


def documented_options() -> dict[str, str]:
    """The option of each key that has one."""
    return {key: option for row in rows() if row.options for key, option in zip(row.keys, row.options, strict=True)}


def daemon_options() -> dict[str, list[str]]:
    """The spellings of each option of ``sandnet daemon``, by the key or the name of its parameter."""
    return {each.name: each.opts for each in daemon.params if isinstance(each, click.Option) and each.name}


def test_configuration_table_has_every_key_once_in_order() -> None:
    assert tuple(key for row in rows() for key in row.keys) == Config.__struct_fields__


def test_configuration_table_shows_the_defaults() -> None:
    shown = {key: row.default for row in rows() for key in row.keys}
    assert shown == {key: written(getattr(Config(), key)) for key in Config.__struct_fields__}


def test_configuration_table_shows_the_options_of_the_daemon() -> None:
    documented, present = documented_options(), daemon_options()
    assert documented.keys() == present.keys() - NO_KEYS.keys()
    assert not [option for key, option in documented.items() if option not in present[key]]


def test_options_without_a_key_are_described_beside_the_table() -> None:
    assert daemon_options().keys() >= NO_KEYS.keys()
    assert not [option for option in NO_KEYS.values() if f"{option}`" not in section()]
