"""Networks work beside others' rules for routing, as those of VPN clients; ours is there as long as theirs are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, Box, World, mapping
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)

PORT = 8080
THEIRS = ("from", "all", "lookup", "52", "priority", "5270")


@pytest.fixture
def web(world: World) -> Iterator[Box]:
    world.api.network("foo", ipv6=True)
    box = world.box("foo", "web", mapping(80, PORT))
    for address in ("0.0.0.0", "::"):
        box.serve("web", 80, address=address)
    yield box
    for family in ("-4", "-6"):
        world.host.sh("sh", "-c", f"while ip {family} rule del priority 5270; do :; done 2>&1; true")
        world.host.sh("sh", "-c", f"ip {family} route flush table 52 2>&1; true")


def connect(world: World) -> None:
    """What a VPN client does whose table sends everything through a tunnel; the uplink's neighbours aside."""
    sh = world.host.sh
    for family, outside in (("-4", OUTSIDE_ADDRESS), ("-6", OUTSIDE_ADDRESS6)):
        sh("ip", family, "route", "add", "blackhole", "default", "table", "52")
        sh("ip", family, "route", "add", outside, "dev", "uplink", "table", "52")
        sh("ip", family, "rule", "add", *THEIRS)


def rules(world: World) -> list[str]:
    found = [world.host.sh("ip", "-d", family, "rule") for family in ("-4", "-6")]
    return [line for each in found for line in each.splitlines() if "proto 115" in line]


def answers(world: World) -> bool:
    return all(world.outside.ask(host, PORT).server == "web" for host in (HOST_ADDRESS, HOST_ADDRESS6))


def test_given_no_rules_of_others_when_networks_are_made_then_there_is_none_of_ours(world: World, web: Box) -> None:
    assert rules(world) == []


def test_given_a_vpn_that_comes_later_when_published_ports_are_called_then_they_answer(world: World, web: Box) -> None:
    connect(world)
    until(lambda: answers(world), 20)
    assert world.here.ask(web.address, 80).server == "web"
    assert len(rules(world)) == 2


def test_given_a_vpn_when_a_network_is_made_then_it_answers_at_once(world: World, web: Box) -> None:
    connect(world)
    until(lambda: len(rules(world)) == 2, 20)
    world.api.network("bar")
    world.box("bar", "other", mapping(80, PORT + 1)).serve("other", 80)
    assert world.outside.ask(HOST_ADDRESS, PORT + 1).server == "other"


def test_given_a_vpn_when_others_remove_our_rule_or_come_before_it_then_it_is_first_again(
    world: World, web: Box
) -> None:
    connect(world)
    until(lambda: len(rules(world)) == 2, 20)
    world.host.sh("ip", "rule", "del", "priority", "5269")
    until(lambda: len(rules(world)) == 2 and answers(world), 20)
    world.host.sh("ip", "rule", "add", "from", "all", "lookup", "52", "priority", "77")
    until(lambda: any(line.startswith("76:") for line in rules(world)) and answers(world), 20)
    world.host.sh("ip", "rule", "del", "priority", "77")


def test_given_a_vpn_when_the_daemon_is_killed_and_starts_then_published_ports_answer_all_the_time(
    world: World, web: Box
) -> None:
    connect(world)
    until(lambda: answers(world), 20)
    world.kill()
    assert answers(world)
    world.start()
    assert answers(world)


def test_given_a_vpn_when_all_is_taken_down_then_our_rule_is_gone_and_theirs_stays(fresh_world: World) -> None:
    connect(fresh_world)
    fresh_world.start()
    fresh_world.api.network("foo", ipv6=True)
    assert len(rules(fresh_world)) == 2
    fresh_world.stop()
    fresh_world.down()
    assert rules(fresh_world) == []
    assert "5270:" in fresh_world.host.sh("ip", "rule")
    assert "proto 115" not in fresh_world.host.sh("ip", "route", "show", "table", "all")


def test_given_a_rule_of_others_that_leaves_no_place_when_asked_then_health_says_so_until_it_is_gone(
    world: World, web: Box
) -> None:
    def is_told() -> bool:
        return any("finds no place" in each for each in world.api.get("/healthz")["problems"])

    rule = ("from", "all", "lookup", "52", "priority", "0")
    world.host.sh("ip", "route", "add", OUTSIDE_ADDRESS, "dev", "uplink", "table", "52")
    world.host.sh("ip", "rule", "add", *rule)
    try:
        until(is_told, 20)
    finally:
        world.host.sh("ip", "rule", "del", *rule)
    world.api.post("/reconcile", fix=True)
    until(lambda: not is_told(), 20)
