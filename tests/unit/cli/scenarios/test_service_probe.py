"""``--probe``: how backends are to be checked."""

from __future__ import annotations

import pytest

from sandnet.cli.parameters import ProbeArgument, parse_probe


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tcp:80", ProbeArgument("tcp", 80)),
        ("tcp:80@0.5", ProbeArgument("tcp", 80, "/", 0.5)),
        ("http:8080", ProbeArgument("http", 8080)),
        ("http:8080/healthz?deep=1", ProbeArgument("http", 8080, "/healthz?deep=1")),
        ("http:8080/a@b@3", ProbeArgument("http", 8080, "/a@b", 3.0)),
    ],
)
def test_probe_is_parsed_into_its_parts(text: str, spec: ProbeArgument) -> None:
    assert parse_probe(text) == spec


@pytest.mark.parametrize("text", ["", "tcp", "tcp:0", "tcp:65536", "tcp:80/x", "udp:53", "http:80/a b", "http:80@x"])
def test_malformed_probe_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_probe(text)
