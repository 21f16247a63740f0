"""Which options of a plugin's network are the daemon's, and how the others are passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandnet.api.plugin_options import parse
from sandnet.errors import Error


def passed(**options: Any) -> Any:
    text = parse(options)[0].plugin_options
    return json.loads(text) if text else None


def test_own_options_are_not_passed_on() -> None:
    parsed, ignored = parse({"subnet": "10.5.0.0/24", "internal": True, "dns_search": ["example.org"]})
    assert (str(parsed.subnet), parsed.internal, parsed.dns_search) == ("10.5.0.0/24", True, ("example.org",))
    assert (parsed.plugin_options, ignored) == ("", [])


def test_other_options_are_passed_on_as_text() -> None:
    label = "com.docker.network.generic"
    assert passed(mtu=1400, parent="eth7", fast=False) == {label: {"mtu": "1400", "parent": "eth7", "fast": "false"}}
    given = {label: {"A": [1]}, "com.docker.network.x": True, "b": "c"}
    assert passed(**given) == {label: {"A": [1], "b": "c"}, "com.docker.network.x": True}
    assert passed() is None


@pytest.mark.parametrize(
    "options",
    [
        {"com.docker.network.generic": []},
        {"com.docker.network.generic": {"a": "1"}, "a": "2"},
        {"subnet": "10.5.0.1/24"},
        {"internal": "yes"},
        {"long": "x" * 70_000},
    ],
)
def test_malformed_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Error):
        parse(options)
