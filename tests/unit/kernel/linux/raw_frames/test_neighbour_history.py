"""What neighbours on a bridge may remember of the addresses on it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from sandnet.kernel.linux.raw_frames import neighbour_history
from sandnet.kernel.linux.raw_frames.neighbour_history import NeighbourHistory
from sandnet.kernel.types import InnerTap, Veth
from sandnet.model.tap import TapOptions

IPV4, IPV6 = IPv4Interface("10.9.0.2/24"), IPv6Interface("fd09::242:a09:2/64")
OWN = (IPV4.ip, IPV6.ip)
VETH = Veth("snv0", "snb0", "eth0", "02:42:0a:09:00:02", 0, IPV4, IPV6, isolated=False, hairpin=False)
OTHER_MAC = VETH._replace(mac="02:00:00:00:00:02")


@pytest.fixture
def history() -> NeighbourHistory:
    begun = NeighbourHistory()
    begun.begin("snb0")
    return begun


def test_new_address_with_its_usual_mac_is_current(history: NeighbourHistory) -> None:
    assert history.outdated(VETH) == ()


def test_address_of_an_unknown_bridge_is_outdated(history: NeighbourHistory) -> None:
    assert history.outdated(VETH._replace(master="snb1")) == OWN
    history.forget("snb0")
    assert history.outdated(VETH) == OWN


def test_address_that_had_another_mac_is_outdated_until_recorded(history: NeighbourHistory) -> None:
    history.record(OTHER_MAC)
    assert history.outdated(OTHER_MAC) == ()
    assert history.outdated(VETH) == OWN
    history.record(VETH)
    assert history.outdated(VETH) == ()
    assert history.outdated(OTHER_MAC) == OWN


@pytest.mark.parametrize("started", [VETH, OTHER_MAC])
def test_address_is_outdated_after_a_set_up_that_failed(history: NeighbourHistory, started: Veth) -> None:
    """Whichever MAC comes next: the one that failed, or the one before."""
    history.record(OTHER_MAC if started is VETH else VETH)
    history.doubt(started)
    assert history.outdated(VETH) == history.outdated(OTHER_MAC) == OWN
    history.record(started)
    assert history.outdated(started) == ()


def test_set_up_that_changes_no_mac_leaves_no_doubt(history: NeighbourHistory) -> None:
    history.doubt(VETH)
    assert history.outdated(VETH) == ()


def test_ipv6_address_without_its_mac_is_outdated(history: NeighbourHistory) -> None:
    chosen = VETH._replace(address_ipv6=IPv6Interface("fd09::2/64"))
    assert history.outdated(chosen) == (IPv6Address("fd09::2"),)


def test_shared_address_is_remembered_with_its_holder(history: NeighbourHistory) -> None:
    service = IPv4Interface("10.9.0.9/24")
    own = VETH._replace(address=service, mac="02:42:0a:09:00:09", address_ipv6=None)
    history.record(VETH._replace(service=service))
    assert history.outdated(own) == ()
    history.record(VETH._replace(service=service, holder=True))
    assert history.outdated(own) == (service.ip,)


def test_additional_address_is_outdated(history: NeighbourHistory) -> None:
    further = IPv4Address("10.9.0.8")
    assert history.outdated(VETH._replace(additional_addresses=(further,))) == (further,)


def test_guest_with_addresses_of_its_own_ends_what_is_known(history: NeighbourHistory) -> None:
    history.record(VETH._replace(address=None, address_ipv6=None, inner_tap=InnerTap("tap0", TapOptions())))
    assert history.outdated(VETH) == OWN


def test_many_macs_end_what_is_known(history: NeighbourHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_history, "MOST_ADDRESSES", 2)
    history.record(OTHER_MAC)
    assert history.outdated(VETH._replace(address=None, address_ipv6=None)) == ()
    further = VETH._replace(address=None, address_ipv6=None, additional_addresses=(IPv4Address("10.9.0.8"),))
    history.record(further)
    third = VETH._replace(address=IPv4Interface("10.9.0.3/24"), mac="02:42:0a:09:00:03", address_ipv6=None)
    assert history.outdated(third) == (IPv4Address("10.9.0.3"),)


def test_many_failed_set_ups_end_what_is_known(history: NeighbourHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_history, "MOST_ADDRESSES", 1)
    history.doubt(OTHER_MAC)
    third = VETH._replace(address=IPv4Interface("10.9.0.3/24"), mac="02:42:0a:09:00:03", address_ipv6=None)
    assert history.outdated(third) == (IPv4Address("10.9.0.3"),)
