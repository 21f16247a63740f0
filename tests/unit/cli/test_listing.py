"""Lists and objects by a template, filtered, folded to a terminal, in colours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from sandnet.cli import output
from sandnet.cli.root import root
from sandnet.cli.templates import Template, filters
from sandnet.errors import Error

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]

WEB = {
    "id": "a" * 64,
    "name": "web",
    "network": "blue",
    "address": "10.9.0.2/24",
    "address_ipv6": None,
    "aliases": ["www", "w"],
    "labels": {"tier": "front", "org.example/v": "1"},
    "internal": True,
    "port_mapping": [{"proto": 6, "port": 80, "host_ip": "0.0.0.0", "host_port": 8080}],
}
DB = {**WEB, "id": "b" * 64, "name": "db", "labels": {}, "address": "10.9.0.3/24", "aliases": [], "internal": False}


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{.Name}}", "web"),
        ("{{ .name }}", "web"),
        ("{{.Name}}.{{.Network}}", "web.blue"),
        ("{{.ID}}", "a" * 64),
        ("{{.Address}} {{.AddressIPv6}}!", "10.9.0.2/24 !"),
        ("{{.Aliases}}", "www,w"),
        ("{{.Internal}}", "true"),
        ("{{.Labels.tier}} {{.Labels.org.example/v}}", "front 1"),
        ("{{json .Aliases}}", '["www","w"]'),
        ("{{json .Name}}", '"web"'),
        ("{{.PortMapping}}", '[{"proto":6,"port":80,"host_ip":"0.0.0.0","host_port":8080}]'),
        (r"{{.Name}}\t{{.Network}}\n", "web\tblue\n"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_template_is_rendered_with_its_fields(template: str, shown: str) -> None:
    assert Template(template).render(WEB) == shown


@pytest.mark.parametrize("template", ["{{json .}}", "json"])
def test_template_of_the_whole_object_renders_json(template: str) -> None:
    assert json.loads(Template(template).render(WEB)) == WEB


@pytest.mark.parametrize(
    "template", ["{{range .Aliases}}x{{end}}", "{{.Name", "Name}}", "{{Name}}", "{{len .Aliases}}"]
)
def test_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(Error, match="cannot read the template"):
        Template(template)


@pytest.mark.parametrize("template", ["{{.Nmae}}", "{{.Labels.nothing}}"])
def test_unknown_template_field_is_refused_listing_the_known(template: str) -> None:
    with pytest.raises(Error, match="there is no field") as refused:
        Template(template).render(WEB)
    assert "name" in refused.value.hint or "tier" in refused.value.hint


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], ["web", "db"]),
        (["name=web"], ["web"]),
        (["name=e"], ["web"]),
        (["name=web", "name=db"], ["web", "db"]),
        (["name=web", "internal=false"], []),
        (["id=aaa"], ["web"]),
        (["label=tier"], ["web"]),
        (["label=tier=front"], ["web"]),
        (["label=tier=back"], []),
        (["label=org.example/v=1"], ["web"]),
        (["internal=true"], ["web"]),
        (["aliases=www"], ["web"]),
        (["network=blue"], ["web", "db"]),
        (["network=blu"], []),
        (["Address=10.9.0.3/24"], ["db"]),
    ],
)
def test_listing_keeps_only_rows_passing_all_filters(given: list[str], names: list[str]) -> None:
    passes = filters(given)
    assert [each["name"] for each in (WEB, DB) if passes(each)] == names


@pytest.mark.parametrize("given", ["name", "=web", "nothing=1"])
def test_unusable_filter_is_refused(stub: Stub, sandnet: Sandnet, given: str) -> None:
    stub.answer("GET", "/services?verbose=true", [WEB])
    result = sandnet("service", "ls", "--filter", given)
    assert (result.exit_code, result.stdout) == (1, "")


def test_filter_and_format_apply_together(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/services?verbose=true", [WEB, DB])
    assert sandnet("service", "ls", "-q", "-f=label=tier").stdout == "aaaaaaaaaaaa\n"
    assert json.loads(sandnet("service", "ls", "--json", "--filter", "name=db").stdout) == [DB]
    assert sandnet("service", "ls", "--filter", "name=db", "--format", "{{.Name}}").stdout == "db\n"


def test_table_template_prints_headings_and_columns(stub: Stub) -> None:
    stub.answer("GET", "/services?verbose=true", [WEB, DB])
    words = ["-H", stub.url, "service", "ls", "--format", r"table {{.Name}}\t{{.Address}}"]
    assert CliRunner().invoke(root, words).stdout == "NAME  ADDRESS\nweb   10.9.0.2/24\ndb    10.9.0.3/24\n"


def test_inspect_template_prints_only_the_selected_field(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/networks/blue?verbose=true", {**WEB, "subnets": ["10.9.0.0/24"]})
    assert sandnet("network", "inspect", "blue", "--format", "{{.Subnets}}").stdout == "10.9.0.0/24\n"


def test_wide_table_is_folded_within_its_columns() -> None:
    row = ("a" * 12, "web", "c-1,c-2,c-3,c-4,c-5,c-6,c-7,c-8", "10.9.0.2/24")
    text = output.table(("SERVICE ID", "NAME", "CONTAINER", "ADDRESS"), [row, row], width=50)
    assert max(map(len, text.splitlines())) <= 50
    assert text.splitlines()[:4] == [
        "SERVICE ID    NAME  CONTAINER          ADDRESS",
        "aaaaaaaaaaaa  web   c-1,c-2,c-3,c-4,   10.9.0.2/24",
        "                    c-5,c-6,c-7,c-8",
        "aaaaaaaaaaaa  web   c-1,c-2,c-3,c-4,   10.9.0.2/24",
    ]
    assert output.table(("A",), [("x" * 99,)]).splitlines()[1] == "x" * 99  # not on a terminal


def test_folding_ends_on_a_terminal_narrower_than_the_headings() -> None:
    assert output.table(("SERVICE ID", "NAME"), [("a" * 12, "b" * 99)], width=5).count("\n") > 1


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_states_are_coloured_on_a_terminal_unless_disabled(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    master, terminal = os.openpty()
    with os.fdopen(master), os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        text = output.table(("NAME", "STATE"), [("ready", "ready"), ("\x1b[31mx", "failing")])
    assert ("\x1b[32mready\x1b[0m" in text) is coloured
    assert "\x1b[31mx" not in text


def test_states_are_not_coloured_without_a_terminal() -> None:
    assert "\x1b" not in output.table(("NAME", "STATE"), [("web", "ready")])
