"""Beside the forward chain of another program: what it stops, and what the rules of docs/operations.md give back."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RunningDaemon, mapping
from tests.support.network_host import eventually

FIREWALLD = """
table inet theirs {
    chain forward {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
}
"""
"""The form of firewalld's ``filter_FORWARD`` where no zone forwards."""
DROPPING = """
table inet theirs {
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
"""
"""As ufw and Docker have it."""


@pytest.mark.parametrize(
    ("ruleset", "published"), [(FIREWALLD, True), (DROPPING, False)], ids=["as firewalld", "policy drop"]
)
def test_traffic_passes_a_foreign_forward_chain_allowing_us(
    daemon: RunningDaemon, ruleset: str, *, published: bool
) -> None:
    daemon.api.network("foo", ipv6=True)
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080))
    for address in ("0.0.0.0", "::"):
        sandbox.serve("web", 80, address=address)
        daemon.outside.serve("far", 7000, address=address)

    def refused() -> tuple[set[bool], set[bool]]:
        """Whether the published port is closed, and whether the world is, to the sandbox: in each family."""
        inward = {daemon.outside.is_refused(address, 8080) for address in (HOST_ADDRESS, HOST_ADDRESS6)}
        return inward, {sandbox.is_refused(address, 7000) for address in (OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6)}

    daemon.host.sh("nft", ruleset)
    try:
        eventually(lambda: refused() == ({not published}, {True}))
        for direction in ("iifname", "oifname"):
            daemon.host.sh("nft", "insert", "rule", "inet", "theirs", "forward", direction, '"snb*"', "accept")
        eventually(lambda: refused() == ({False}, {False}))
    finally:
        daemon.host.sh("nft", "delete", "table", "inet", "theirs")
