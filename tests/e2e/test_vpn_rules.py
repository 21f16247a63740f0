"""Networks work beside others' rules for routing, as those of VPN clients; ours is there as long as theirs are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RunningDaemon,
    Sandbox,
    mapping,
)
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)

PORT = 8080
THEIRS = ("from", "all", "lookup", "52", "priority", "5270")


@pytest.fixture
def web(daemon: RunningDaemon) -> Iterator[Sandbox]:
    daemon.api.network("foo", ipv6=True)
    sandbox = daemon.sandbox("foo", "web", mapping(80, PORT))
    for address in ("0.0.0.0", "::"):
        sandbox.serve("web", 80, address=address)
    yield sandbox
    for family in ("-4", "-6"):
        daemon.host.sh("sh", "-c", f"while ip {family} rule del priority 5270; do :; done 2>&1; true")
        daemon.host.sh("sh", "-c", f"ip {family} route flush table 52 2>&1; true")


def connect(daemon: RunningDaemon) -> None:
    """What a VPN client does whose table sends everything through a tunnel; the uplink's neighbours aside."""
    sh = daemon.host.sh
    for family, outside in (("-4", OUTSIDE_ADDRESS), ("-6", OUTSIDE_ADDRESS6)):
        sh("ip", family, "route", "add", "blackhole", "default", "table", "52")
        sh("ip", family, "route", "add", outside, "dev", "uplink", "table", "52")
        sh("ip", family, "rule", "add", *THEIRS)


def rules(daemon: RunningDaemon) -> list[str]:
    found = [daemon.host.sh("ip", "-d", family, "rule") for family in ("-4", "-6")]
    return [line for each in found for line in each.splitlines() if "proto 115" in line]


def answers(daemon: RunningDaemon) -> bool:
    return all(daemon.outside.ask(host, PORT).server == "web" for host in (HOST_ADDRESS, HOST_ADDRESS6))


def test_no_routing_rule_is_added_without_foreign_rules(daemon: RunningDaemon, web: Sandbox) -> None:
    assert rules(daemon) == []


def test_published_ports_answer_after_a_vpn_starts(daemon: RunningDaemon, web: Sandbox) -> None:
    connect(daemon)
    until(lambda: answers(daemon), 20)
    assert daemon.here.ask(web.address, 80).server == "web"
    assert len(rules(daemon)) == 2


def test_new_network_answers_at_once_under_a_vpn(daemon: RunningDaemon, web: Sandbox) -> None:
    connect(daemon)
    until(lambda: len(rules(daemon)) == 2, 20)
    daemon.api.network("bar")
    daemon.sandbox("bar", "other", mapping(80, PORT + 1)).serve("other", 80)
    assert daemon.outside.ask(HOST_ADDRESS, PORT + 1).server == "other"


def test_routing_rule_is_restored_ahead_of_the_vpn_rules(daemon: RunningDaemon, web: Sandbox) -> None:
    connect(daemon)
    until(lambda: len(rules(daemon)) == 2, 20)
    daemon.host.sh("ip", "rule", "del", "priority", "5269")
    until(lambda: len(rules(daemon)) == 2 and answers(daemon), 20)
    daemon.host.sh("ip", "rule", "add", "from", "all", "lookup", "52", "priority", "77")
    until(lambda: any(line.startswith("76:") for line in rules(daemon)) and answers(daemon), 20)
    daemon.host.sh("ip", "rule", "del", "priority", "77")


def test_published_ports_answer_under_a_vpn_across_a_kill(daemon: RunningDaemon, web: Sandbox) -> None:
    connect(daemon)
    until(lambda: answers(daemon), 20)
    daemon.kill()
    assert answers(daemon)
    daemon.start()
    assert answers(daemon)


def test_down_removes_our_routing_rule_and_keeps_the_vpns(fresh_daemon: RunningDaemon) -> None:
    connect(fresh_daemon)
    fresh_daemon.start()
    fresh_daemon.api.network("foo", ipv6=True)
    assert len(rules(fresh_daemon)) == 2
    fresh_daemon.stop()
    fresh_daemon.down()
    assert rules(fresh_daemon) == []
    assert "5270:" in fresh_daemon.host.sh("ip", "rule")
    assert "proto 115" not in fresh_daemon.host.sh("ip", "route", "show", "table", "all")


def test_health_reports_a_foreign_rule_that_leaves_no_place(daemon: RunningDaemon, web: Sandbox) -> None:
    def is_reported() -> bool:
        return any("finds no place" in each for each in daemon.api.get("/healthz")["problems"])

    rule = ("from", "all", "lookup", "52", "priority", "0")
    daemon.host.sh("ip", "route", "add", OUTSIDE_ADDRESS, "dev", "uplink", "table", "52")
    daemon.host.sh("ip", "rule", "add", *rule)
    try:
        until(is_reported, 20)
    finally:
        daemon.host.sh("ip", "rule", "del", *rule)
    daemon.api.post("/reconcile", fix=True)
    until(lambda: not is_reported(), 20)
