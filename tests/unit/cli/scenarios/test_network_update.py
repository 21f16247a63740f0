"""``sandnet network update``: what is sent for which options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import Result

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--mtu 1400", {"mtu": 1400}),
        ("--ip-range 10.9.0.0/25", {"ip_range": "10.9.0.0/25"}),
        ("--subnet-ipv6 fd00::/64", {"subnet_ipv6": "fd00::/64", "ipv6": True}),
        ("--dns-search a.example --dns-search b.example", {"dns_search": ["a.example", "b.example"]}),
        ("-o dns_search=[] --dns-option ndots:1", {"dns_search": [], "dns_options": ["ndots:1"]}),
        ("--ingress-rate 10mbit --egress-rate none", {"ingress_rate": 10_000_000, "egress_rate": 0}),
        ("-o gateway_ipv6=fd00::9", {"gateway_ipv6": "fd00::9"}),
    ],
)
def test_options_are_sent_without_labels(stub: Stub, sandnet: Sandnet, words: str, options: object) -> None:
    stub.answer("PATCH", "/networks/foo", status=204)
    result = sandnet(f"network update {words} foo")
    assert (result.exit_code, result.output) == (0, "")
    assert stub.asked() == [("PATCH", "/networks/foo")]
    assert stub.requests[0].body == {"options": options}


def test_labels_are_added_and_removed(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("PATCH", "/networks/foo", status=204)
    result = sandnet("network update --label b=3 --label c= --label-rm a --label-rm unknown foo")
    assert (result.exit_code, result.output) == (0, "")
    assert stub.requests[-1].body == {"label_changes": {"a": None, "unknown": None, "b": "3", "c": ""}}


def test_last_label_can_be_removed(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("PATCH", "/networks/foo", status=204)
    assert sandnet("network update --label-rm a foo").exit_code == 0
    assert stub.requests[-1].body == {"label_changes": {"a": None}}


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--subnet 10.9.0.0/24", {"subnet": "10.9.0.0/24"}),
        ("--no-icc", {"icc": False}),
        ("--internal", {"internal": True}),
        ("--routed", {"routed_ipv4": True, "routed_ipv6": True}),
        ("--host-access none", {"host_access": False}),
    ],
)
def test_fixed_option_gets_the_reason_of_the_daemon(stub: Stub, sandnet: Sandnet, words: str, options: object) -> None:
    refusal = {"message": "it is fixed at creation", "code": "fixed_option", "hint": "create it anew"}
    stub.answer("PATCH", "/networks/foo", refusal, 409)
    result = sandnet(f"network update {words} foo")
    assert (result.exit_code, result.stderr) == (1, "sandnet: it is fixed at creation\n  create it anew\n")
    assert stub.requests[0].body == {"options": options}


def test_help_lists_only_what_can_change(sandnet: Sandnet) -> None:
    text = sandnet("network update --help").stdout
    assert "--mtu" in text
    assert "--subnet " not in text
    assert "--internal" not in text


@pytest.mark.parametrize("words", ["", "foo", "--mtu 67 foo", "--label x foo", "--mtu 1400"])
def test_usage_error_sends_no_request(stub: Stub, sandnet: Sandnet, words: str) -> None:
    result = sandnet(f"network update {words}")
    assert result.exit_code == 2
    assert stub.requests == []
