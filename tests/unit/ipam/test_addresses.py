"""Handing out addresses: in turn, each once, never one that is not free."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sandnet.errors import Error, Kind
from sandnet.ipam.addresses import Addresses, embedded_ipv6
from sandnet.model import Address, Prefix
from sandnet.model.address import mac_for


def made(prefix: str, range_: str = "", reserved: str = "", taken: str = "", last: str = "") -> Addresses:
    return Addresses(
        ip_network(prefix),
        ip_network(range_) if range_ else None,
        [ip_address(text) for text in reserved.split()],
        [ip_address(text) for text in taken.split()],
        ip_address(last) if last else None,
    )


def given_out(addresses: Addresses, count: int) -> list[str]:
    return [str(addresses.next()) for _ in range(count)]


def all_left(addresses: Addresses) -> list[str]:
    found: list[str] = []

    def exhaust() -> None:
        while True:
            found.append(str(addresses.next()))

    with pytest.raises(Error) as caught:
        exhaust()
    assert (caught.value.kind, caught.value.code) == (Kind.EXHAUSTED, "pool_exhausted")
    return found


def test_small_subnet_yields_every_host_address_but_the_bridge() -> None:
    assert all_left(made("10.0.0.0/29", reserved="10.0.0.1")) == [f"10.0.0.{n}" for n in range(2, 7)]


def test_full_pool_error_names_range_and_users() -> None:
    addresses = made("10.0.0.0/29", reserved="10.0.0.1")
    given_out(addresses, 5)

    with pytest.raises(Error) as caught:
        addresses.next()

    assert "10.0.0.0/29" in caught.value.message
    assert "5 are in use" in caught.value.message


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.0/31", ["10.0.0.0", "10.0.0.1"]),
        ("10.0.0.9/32", ["10.0.0.9"]),
        ("2001:db8::/126", ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
        ("2001:db8::/127", ["2001:db8::", "2001:db8::1"]),
        ("2001:db8::7/128", ["2001:db8::7"]),
    ],
)
def test_smallest_prefixes_allocate_all_their_host_addresses(prefix: str, expected: list[str]) -> None:
    assert all_left(made(prefix)) == expected


def test_allocation_stays_in_the_range_without_its_edges() -> None:
    addresses = made("10.50.0.0/24", "10.50.0.64/29", reserved="10.50.0.1 10.50.0.70")

    assert all_left(addresses) == [f"10.50.0.{n}" for n in range(65, 70)]


def test_freed_address_is_allocated_last() -> None:
    addresses = made("10.0.0.0/29")
    given_out(addresses, 2)
    addresses.free(ip_address("10.0.0.1"))

    assert all_left(addresses) == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.1"]


def test_avoided_addresses_are_allocated_when_no_other_is_left() -> None:
    addresses = made("10.1.0.0/29", reserved="10.1.0.1")
    avoided = {ip_address(f"10.1.0.{number}") for number in (2, 3, 5)}
    found = [str(addresses.next(avoided)) for _ in range(5)]
    assert found == ["10.1.0.4", "10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.5"]
    with pytest.raises(Error, match="no free address"):
        addresses.next(avoided)


def test_allocation_continues_from_the_recorded_last_address() -> None:
    addresses = made("10.0.0.0/29", taken="10.0.0.4", last="10.0.0.3")

    assert given_out(addresses, 3) == ["10.0.0.5", "10.0.0.6", "10.0.0.1"]
    assert addresses.last == ip_address("10.0.0.1")


@pytest.mark.parametrize("last", ["10.0.1.200", "10.0.0.30", "192.0.2.1", "10.0.0.3"])
def test_last_address_outside_the_range_restarts_at_its_start(last: str) -> None:
    assert given_out(made("10.0.0.0/23", "10.0.0.16/28", last=last), 1) == ["10.0.0.17"]


def test_allocation_wraps_after_the_last_address() -> None:
    assert given_out(made("10.0.0.0/29", taken="10.0.0.6", last="10.0.0.5"), 1) == ["10.0.0.1"]


def test_explicit_address_is_skipped_without_moving_last() -> None:
    addresses = made("10.0.0.0/24")
    addresses.take(ip_address("10.0.0.2"))

    assert addresses.last is None
    assert given_out(addresses, 2) == ["10.0.0.1", "10.0.0.3"]


def test_requested_address_outside_the_range_is_taken() -> None:
    addresses = made("10.0.0.0/24", "10.0.0.64/26")
    addresses.take(ip_address("10.0.0.9"))

    with pytest.raises(Error):
        addresses.take(ip_address("10.0.0.9"))


@pytest.mark.parametrize("address", ["10.0.1.1", "10.0.0.0", "10.0.0.255", "9.255.255.255", "::a00:1", "2001:db8::1"])
def test_requested_address_that_is_no_host_address_is_invalid(address: str) -> None:
    with pytest.raises(Error) as caught:
        made("10.0.0.0/24").take(ip_address(address))

    assert caught.value.kind is Kind.INVALID
    assert address in caught.value.message


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.7"])
def test_requested_address_reserved_or_in_use_is_a_conflict(address: str) -> None:
    with pytest.raises(Error) as caught:
        made("10.0.0.0/24", reserved="10.0.0.1", taken="10.0.0.7").take(ip_address(address))

    assert (caught.value.kind, caught.value.code) == (Kind.CONFLICT, "address_taken")
    assert address in caught.value.message


def test_freed_address_can_be_requested_again() -> None:
    addresses = made("10.0.0.0/24", taken="10.0.0.7")
    addresses.free(ip_address("10.0.0.7"))
    addresses.free(ip_address("10.0.0.7"))

    addresses.take(ip_address("10.0.0.7"))


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.0", "10.0.0.2", "::a00:2"])
def test_freeing_addresses_not_held_by_endpoints_changes_nothing(address: str) -> None:
    addresses = made("10.0.0.0/29", reserved="10.0.0.1 10.0.0.2", taken="10.0.0.2")
    addresses.free(ip_address(address))

    assert all_left(addresses) == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]


def test_huge_prefix_allocates_sequentially_without_enumerating() -> None:
    addresses = made("2001:db8::/32", reserved="2001:db8::1")

    assert given_out(addresses, 2) == ["2001:db8::2", "2001:db8::3"]

    addresses = made("2001:db8::/32", last="2001:db8:ffff:ffff:ffff:ffff:ffff:fffe")
    assert given_out(addresses, 2) == ["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::1"]


def test_one_free_address_in_a_dense_pool_is_found_in_few_steps() -> None:
    addresses = made("10.0.0.0/16")
    given_out(addresses, 65534)
    freed = ip_address("10.0.128.77")

    for _ in range(2000):  # minutes if each searched the pool from where it stood
        addresses.free(freed)
        assert addresses.next() == freed


@pytest.mark.parametrize(
    ("prefix", "mac", "expected"),
    [
        ("2001:db8:1::/64", "02:42:0a:46:00:02", "2001:db8:1::242:a46:2"),
        ("fd00:1:2:3:4::/80", "ff:ff:ff:ff:ff:ff", "fd00:1:2:3:4:ffff:ffff:ffff"),
        ("fe80::/64", mac_for(IPv4Address("172.18.42.2")), "fe80::242:ac12:2a02"),
    ],
)
def test_mac_is_embedded_in_the_last_six_bytes_of_a_short_prefix(prefix: str, mac: str, expected: str) -> None:
    assert embedded_ipv6(IPv6Network(prefix), mac) == ip_address(expected)


@pytest.mark.parametrize(("prefix", "mac"), [("2001:db8::/81", "02:42:0a:46:00:02"), ("2001:db8::/64", "02:42:0a")])
def test_embedding_without_room_or_mac_is_refused(prefix: str, mac: str) -> None:
    with pytest.raises(ValueError):
        embedded_ipv6(IPv6Network(prefix), mac)


class AgainstASet(RuleBasedStateMachine):
    """Every step is checked against the plainest model: a list of host addresses and a set of those held."""

    @initialize(data=st.data(), prefix=st.sampled_from(["10.0.0.0/28", "10.0.0.0/31", "2001:db8::/124"]))
    def start(self, data: st.DataObject, prefix: str) -> None:
        net: Prefix = ip_network(prefix)
        self.everything: list[Address] = list(net)
        hosts: list[Address] = list(net.hosts())
        self.hosts = hosts if net.version == 4 else [host for host in self.everything if host != net.network_address]
        subsets = st.sets(st.sampled_from(self.hosts))
        self.reserved = data.draw(subsets)
        self.held = data.draw(subsets) - self.reserved
        self.last: Address | None = data.draw(st.none() | st.sampled_from(self.hosts))
        self.real = Addresses(net, None, self.reserved, self.held, self.last)

    def free_ones_in_turn(self) -> list[Address]:
        after = self.hosts.index(self.last) + 1 if self.last in self.hosts else 0
        return [a for a in self.hosts[after:] + self.hosts[:after] if a not in self.held | self.reserved]

    @precondition(lambda self: self.free_ones_in_turn())
    @rule()
    def next_is_the_first_free_one_after_last(self) -> None:
        self.last = self.free_ones_in_turn()[0]
        assert self.real.next() == self.last
        assert self.real.last == self.last
        self.held.add(self.last)

    @precondition(lambda self: not self.free_ones_in_turn())
    @rule()
    def exhausted_when_none_is_free(self) -> None:
        with pytest.raises(Error) as caught:
            self.real.next()
        assert caught.value.kind is Kind.EXHAUSTED

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.everything))
        if address in self.free_ones_in_turn():
            self.real.take(address)
            self.held.add(address)
            return
        with pytest.raises(Error) as caught:
            self.real.take(address)
        assert caught.value.kind is (Kind.CONFLICT if address in self.hosts else Kind.INVALID)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.everything))
        self.real.free(address)
        self.held.discard(address)


TestAgainstASet = AgainstASet.TestCase
TestAgainstASet.settings = settings(deadline=None)


@settings(deadline=None)
@given(st.data(), st.integers(20, 30))
def test_allocation_in_any_range_is_unique_and_unreserved(data: st.DataObject, length: int) -> None:
    net = ip_network("10.0.0.0/20")
    start = data.draw(st.integers(0, 4095))
    range_ = ip_network((int(net.network_address) + start, length), strict=False)
    some = st.sets(st.integers(0, range_.num_addresses - 1).map(lambda n: range_[n]), max_size=50)
    reserved, taken = data.draw(some), data.draw(some)
    addresses = Addresses(net, range_, reserved, taken, data.draw(st.none() | st.sampled_from([net[7], net[-2]])))

    seen = {addresses.next() for _ in range(min(20, range_.num_addresses - 2 - len(reserved | taken)))}

    assert len(seen) == max(0, min(20, range_.num_addresses - 2 - len(reserved | taken)))
    assert all(address in range_ for address in seen)
    assert not seen & (reserved | taken)


@settings(deadline=None)
@given(st.data(), st.integers(20, 32))
def test_use_counts_what_is_left(data: st.DataObject, length: int) -> None:
    net = ip_network("10.0.0.0/24") if length >= 24 else ip_network(f"10.0.0.0/{length}")
    range_ = ip_network((int(net.network_address), max(length, net.prefixlen)), strict=False)
    some = st.sets(st.integers(0, net.num_addresses - 1).map(lambda n: net[n]), max_size=50)
    reserved, taken = data.draw(some), data.draw(some)
    addresses = Addresses(net, range_, reserved, taken)
    before = addresses.use()
    edges = {net[0], net[-1]}
    assert before.in_use == len(reserved | taken | edges)
    allocated = 0
    while allocated < 300 and addresses.use().available:
        addresses.next()
        allocated += 1
    assert addresses.use() == (before.in_use + allocated, before.available - allocated)
    if allocated < 300:
        with pytest.raises(Error):
            addresses.next()


@pytest.mark.parametrize(("last", "count", "following"), [(0, 0, 1), (0, 3, 4), (5, 2, 8), (13, 0, 14), (13, 3, 3)])
def test_skipped_addresses_are_left_out_in_order(last: int, count: int, following: int) -> None:
    pool = made("10.0.0.0/28", last=f"10.0.0.{last}" if last else "")
    pool.skip(count)
    assert pool.next() == IPv4Address(f"10.0.0.{following}")
