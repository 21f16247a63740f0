"""How a command line is read: values after ``=``, second names, and suggestions for what is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from sandnet.cli.groups import SECOND_NAMES, Command, joined_values
from sandnet.cli.root import root

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]
NETWORK = {"name": "foo", "id": "f" * 64, "type": "bridge", "endpoints": []}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("-d=bridge foo", "-dbridge foo"),
        ("-d bridge foo", "-d bridge foo"),
        ("-dbridge foo", "-dbridge foo"),
        ("foo -d=bridge", "foo -dbridge"),
        ("-d= foo", "-d  foo"),
        ("-d==x foo", "-d=x foo"),
        ("-fd=bridge foo", "-fdbridge foo"),
        ("-fd bridge", "-fd bridge"),
        ("-f=x foo", "-f=x foo"),
        ("-d -d=x", "-d -d=x"),
        ("--driver -d=x foo", "--driver -d=x foo"),
        ("--driver=a -d=x", "--driver=a -dx"),
        ("--force -d=x", "--force -dx"),
        ("-p=8080:80 -p=53:53/udp", "-p8080:80 -p53:53/udp"),
        ("-- -d=x", "-- -d=x"),
        ("foo -- -d=x", "foo -- -d=x"),
        ("-", "-"),
        ("-d", "-d"),
    ],
)
def test_equals_sign_after_a_short_option_is_not_in_its_value(given: str, read: str) -> None:
    options = [
        click.Option(["-d", "--driver"]),
        click.Option(["-f", "--force"], is_flag=True),
        click.Option(["-p", "--publish"], multiple=True),
    ]
    command = Command("x", params=[*options, click.Argument(["name"])])
    assert joined_values(command, click.Context(command), given.split()) == read.split(" ")


def test_options_after_the_run_command_are_passed_through() -> None:
    command = Command("run", params=[click.Option(["-p"])], context_settings={"allow_interspersed_args": False})
    words = ["-p=80", "grep", "-p=80", "x"]
    assert joined_values(command, command.make_context("run", [], resilient_parsing=True), words) == [
        "-p80", "grep", "-p=80", "x",
    ]  # fmt: skip


def short_options(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """Every short option with a value, with the command that has it."""
    context = click.Context(command)
    found = [
        (path, opt)
        for param in command.params
        if isinstance(param, click.Option) and not param.is_flag
        for opt in param.opts
        if len(opt) == 2
    ]
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        assert isinstance(command, click.Group)
        child = command.get_command(context, name)
        assert child is not None
        found += short_options(child, (*path, name))
    return found


@pytest.mark.parametrize(("path", "option"), short_options(root), ids=str)
def test_short_option_in_2015_style_has_the_same_value(path: tuple[str, ...], option: str) -> None:
    command: click.Command = root
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    value = {"-p": "1:1", "-o": "k=v", "-e": "80"}.get(option, "x")
    contexts = [
        command.make_context("x", words, resilient_parsing=True).params
        for words in ([f"{option}={value}"], [option, value])
    ]
    assert contexts[0] == contexts[1]


def test_host_and_driver_in_2015_style_are_accepted(stub: Stub) -> None:
    stub.answer("POST", "/networks", "f" * 64)
    result = CliRunner().invoke(root, [f"-H={stub.url}", "network", "create", "-d=bridge", "foo"])
    assert result.exit_code == 0, result.output
    assert stub.requests[0].body == {"name": "foo", "network_type": "bridge", "options": {}}


def test_command_aliases_run_the_same_commands() -> None:
    for group_name in ("network", "service", "endpoint", "sandbox"):
        group = root.get_command(click.Context(root), group_name)
        assert isinstance(group, click.Group)
        context = click.Context(group)
        for second, first in SECOND_NAMES.items():
            assert group.get_command(context, second) is group.get_command(context, first)


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("netwrk ls", "did you mean network?"),
        ("network crate", "did you mean create?"),
        ("network inspct", "did you mean inspect?"),
        ("ps", "use sandnet sandbox ls"),
        ("inspect web", "sandnet service inspect"),
        ("network connect web blue", "use sandnet service attach"),
        ("service rm web", "use sandnet service unpublish"),
        ("run --rm true", "what run makes is always removed"),
        ("run -it bash", "has your terminal already"),
        ("run --network blue true", "--net"),
        ("network create --subnets 10.9.0.0/24 x", "did you mean --subnet?"),
        ("service publish --labels a=b x", "did you mean --label?"),
    ],
)
def test_unknown_command_suggests_the_closest(sandnet: Sandnet, words: str, suggested: str) -> None:
    result = sandnet(words)
    assert result.exit_code == 2
    assert suggested in result.stderr


def test_unknown_command_unlike_any_suggests_nothing(sandnet: Sandnet) -> None:
    assert sandnet("xyzzy").stderr.endswith("Error: no such command: xyzzy\n")
