"""Routes and addresses, changed by the ``ip`` program and followed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from ipaddress import ip_network

import pytest

from sandnet.kernel.netlink import occupied_prefixes
from sandnet.kernel.netlink.occupied_prefixes import OccupiedPrefixes
from sandnet.kernel.netlink.prefix_table import PrefixTable
from tests.support.network_host import Host, eventually


class Followed:
    """A host whose prefixes have been read once, before anything was done there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.occupancy = OccupiedPrefixes()
        self.reads = 0
        assert self.now() == set()

    def ip(self, *lines: str, refusals: bool = False) -> None:
        """Lines of ``ip -batch``; with ``refusals`` those that cannot be done are passed over."""
        batch = "\n".join(lines)
        end = "-force -batch - 2>&1 || true" if refusals else "-batch -"
        self.host.sh("sh", "-c", f'echo "$0" | ip {end}', batch)

    def now(self, ignore: Collection[str] = ()) -> set[str]:
        return {str(prefix) for prefix in self.host.run(self.occupancy.prefixes, ignore)}

    def afresh(self) -> set[str]:
        """As a program sees it that reads all."""
        reader = OccupiedPrefixes()
        found = {str(prefix) for prefix in self.host.run(reader.prefixes)}
        reader.close()
        return found


@pytest.fixture
def followed(host: Host) -> Iterator[Followed]:
    made = Followed(host)
    made.ip("link add br1 type bridge", "link add br2 type bridge", "link set br1 up", "link set br2 up")
    made.ip("address add 10.1.0.1/16 dev br1", "address add 10.2.0.1/16 dev br2")
    yield made
    made.occupancy.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one whenever all is read."""
    counted: list[None] = []
    listed = occupied_prefixes._listed

    def counting() -> PrefixTable:
        counted.append(None)
        return listed()

    monkeypatch.setattr(occupied_prefixes, "_listed", counting)
    return counted


def test_new_route_is_occupied_until_deleted(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 dev br1", "route add fd77::/48 dev br1")
    assert followed.now() >= {"10.77.0.0/16", "fd77::/48"}
    followed.ip("route del 10.77.0.0/16 dev br1", "route del fd77::/48 dev br1")
    assert not followed.now() & {"10.77.0.0/16", "fd77::/48"}


def test_subnets_of_addresses_are_occupied(followed: Followed) -> None:
    followed.ip("address add fd01::1/64 dev br1 nodad", "address add 10.3.0.1 peer 10.4.0.1/24 dev br2")
    expected = {"10.1.0.0/16", "10.2.0.0/16", "fd01::/64", "10.3.0.1/32", "10.4.0.0/24"}
    eventually(lambda: followed.now() == expected)  # an IPv6 address is reported a moment late


def test_address_on_a_down_link_is_occupied(followed: Followed) -> None:
    followed.ip("link add br3 type bridge", "address add 10.5.0.1/16 dev br3")
    assert "10.5.0.0/16" in followed.now()


def test_ignored_links_are_left_out(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 dev br1", "route add blackhole 10.88.0.0/16")
    assert followed.now(["br1", "absent"]) == {"10.2.0.0/16", "10.88.0.0/16"}
    followed.ip("link set br2 down", "link set br2 name br3", "link set br3 up")
    assert followed.now({"br3"}) == {"10.1.0.0/16", "10.77.0.0/16", "10.88.0.0/16"}


def test_default_routes_do_not_count_as_occupied(followed: Followed) -> None:
    before = followed.now()
    followed.ip(
        "route add default via 10.1.0.2", "route add 0.0.0.0/1 via 10.1.0.3", "route add 128.0.0.0/1 via 10.1.0.3"
    )
    followed.ip("route add ::/0 dev br1", "route add 2000::/3 dev br1", "route add default dev br2 table 77")
    assert followed.now() == before


def test_loopback_link_local_and_multicast_are_left_out(followed: Followed) -> None:
    before = followed.now()
    followed.ip("address add 127.0.0.9/8 dev lo", "address add fe80::9/64 dev br1 nodad", "route add ff05::/16 dev br1")
    assert followed.now() == before


def test_routes_in_other_tables_are_occupied(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 dev br1 table 1000", "route add unreachable 10.88.0.0/16 table 7")
    assert followed.now() >= {"10.77.0.0/16", "10.88.0.0/16"}


def test_routes_of_a_link_going_down_become_free(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 dev br1", "route add fd77::/48 dev br1")
    assert "10.77.0.0/16" in followed.now()
    followed.ip("link set br1 down")
    assert followed.now() == {"10.1.0.0/16", "10.2.0.0/16"}


def test_route_is_free_after_its_source_address_is_removed(followed: Followed) -> None:
    followed.ip("address add 10.3.0.1/24 dev br1", "route add 10.77.0.0/16 dev br1 src 10.3.0.1")
    assert "10.77.0.0/16" in followed.now()
    followed.ip("address del 10.3.0.1/24 dev br1")
    assert followed.now() == {"10.1.0.0/16", "10.2.0.0/16"}


def test_deleting_a_replaced_route_leaves_nothing(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 via 10.1.0.2", "route replace 10.77.0.0/16 via 10.2.0.2")
    assert "10.77.0.0/16" in followed.now({"br1"})
    assert "10.77.0.0/16" not in followed.now({"br2"})
    followed.ip("route del 10.77.0.0/16")
    assert "10.77.0.0/16" not in followed.now()


def test_prefix_with_a_second_route_stays_occupied(followed: Followed) -> None:
    followed.ip("route add 10.77.0.0/16 dev br1 metric 5", "route add 10.77.0.0/16 dev br2 metric 6")
    followed.ip("route append 10.88.0.0/16 via 10.1.0.2", "route append 10.88.0.0/16 via 10.1.0.3")
    followed.now()
    followed.ip("route del 10.77.0.0/16 dev br2 metric 6", "route del 10.88.0.0/16 via 10.1.0.2")
    assert followed.now() >= {"10.77.0.0/16", "10.88.0.0/16"}


def test_multipath_route_changes_are_followed(followed: Followed) -> None:
    followed.ip(
        "address add fd01::1/64 dev br1 nodad", "route add 10.77.0.0/16 nexthop via 10.1.0.2 nexthop via 10.2.0.2"
    )
    followed.ip("route add fd77::/48 via fd01::2", "route append fd77::/48 via fd01::3")
    assert followed.now() >= {"10.77.0.0/16", "fd77::/48"}
    followed.ip("route del fd77::/48 via fd01::2")
    assert "fd77::/48" in followed.now()
    followed.ip("route del fd77::/48", "route del 10.77.0.0/16")
    assert not followed.now() & {"10.77.0.0/16", "fd77::/48"}


def test_plain_changes_do_not_cause_a_full_dump(followed: Followed, reads: list[None]) -> None:
    for number in range(20):
        followed.ip(f"route add 10.{100 + number}.0.0/16 dev br1")
        assert f"10.{100 + number}.0.0/16" in followed.now()
    followed.ip("address add 10.3.0.1/24 dev br1", "address del 10.3.0.1/24 dev br1")
    assert "10.3.0.0/24" not in followed.now()
    assert not reads


def test_notification_overflow_causes_a_full_dump(
    host: Host, monkeypatch: pytest.MonkeyPatch, reads: list[None]
) -> None:
    monkeypatch.setattr(occupied_prefixes, "_BACKLOG", 1)
    followed = Followed(host)
    followed.ip(
        "link add br1 type bridge",
        "link set br1 up",
        *(f"route add 10.{number}.0.0/16 dev br1" for number in range(200)),
    )
    assert len(followed.now()) == 200
    assert len(reads) > 1
    followed.occupancy.close()


def test_addresses_of_ports_joining_or_leaving_a_bridge_stay(followed: Followed) -> None:
    followed.ip(
        "link add ve1 type veth peer ve2",
        "link set ve1 master br1",
        "link set ve1 up",
        "address add 10.5.0.1/24 dev ve1",
    )
    followed.ip("link set ve1 nomaster")
    assert "10.5.0.0/24" in followed.now()


def random_line(chance: random.Random) -> str:
    """Some change of some link, address or route; many are refused, which is part of it."""
    link, net, metric = chance.choice(("br1", "br2")), chance.randrange(20, 26), chance.randrange(2)
    add = chance.choice(("add", "replace", "append", "prepend"))
    return chance.choice(
        (
            f"address add 10.{net}.0.1/{chance.choice((24, 32))} dev {link}",
            f"address del 10.{net}.0.1/{chance.choice((24, 32))} dev {link}",
            f"address add fd{net}::1/64 dev {link} nodad",
            f"address del fd{net}::1/64 dev {link}",
            f"route {add} 10.{net}.0.0/16 dev {link} metric {metric}",
            f"route {add} 10.{net}.0.0/16 via 10.1.0.{net} metric {metric}",
            f"route add 10.{net + 1}.0.0/16 dev {link} src 10.{net}.0.1",
            f"route {chance.choice(('add', 'replace', 'append'))} fd{net}:1::/48 via fd01::{metric + 2}",
            f"route del fd{net}:1::/48",
            f"route del 10.{net}.0.0/16",
            f"route del 10.{net}.0.0/16 dev {link}",
            f"link set {link} {chance.choice(('up', 'up', 'down'))}",
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_match_a_fresh_dump(followed: Followed, seed: int) -> None:
    chance = random.Random(seed)
    followed.ip("address add fd01::1/64 dev br2 nodad")
    for _ in range(30):
        lines = [random_line(chance) for _ in range(chance.randrange(1, 12))]
        followed.ip(*lines, refusals=True)
        eventually(lambda: followed.now() == followed.afresh())


def test_occupied_prefixes_are_ip_networks(followed: Followed) -> None:
    assert ip_network("10.1.0.0/16") in followed.host.run(followed.occupancy.prefixes)
