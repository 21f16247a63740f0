"""How backends are spread over buckets, and what of that a change touches."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandnet.firewall.balancing.service_elements import (
    BUCKETS,
    SLOTS,
    BalancedService,
    balanced,
    elements,
    eligible_backends,
    spread,
)
from sandnet.firewall.ruleset.elements import bridge_set, difference, inet_set
from sandnet.kernel.linux.raw_frames.gratuitous_arp import frame
from sandnet.kernel.nft_types import mac_address
from sandnet.model import Affinity, Attachment, BoundPort, Endpoint, Phase

names = st.text("abcdef0123456789:", min_size=1, max_size=17)
backends = st.dictionaries(names, st.integers(1, 100), min_size=1, max_size=8)

ENDPOINT = Endpoint(
    id="e",
    name="web",
    network_id="n",
    phase=Phase.READY,
    sequence=1,
    created=0.0,
    address=IPv4Interface("10.9.0.100/24"),
    address_ipv6=IPv6Interface("fd09::100/64"),
    mac="02:42:0a:09:00:64",
)


def attachment(number: int, *, weight: int = 1, drained: bool = False, healthy: bool = True) -> Attachment:
    """The first has the endpoint's own address."""
    return Attachment(
        endpoint_id="e",
        network_id="n",
        container_id=f"c{number}",
        phase=Phase.READY,
        sequence=number,
        host_link=f"snv{number:010x}",
        address=ENDPOINT.address if number == 1 else IPv4Interface(f"10.9.0.{number}/24"),
        address_ipv6=ENDPOINT.address_ipv6 if number == 1 else IPv6Interface(f"fd09::{number}/64"),
        mac=ENDPOINT.mac if number == 1 else f"02:42:0a:09:00:{number:02x}",
        holder=number == 1,
        weight=weight,
        drained=drained,
        healthy=healthy,
    )


def named(weights: dict[str, int], buckets: int = BUCKETS) -> list[str]:
    listed = tuple(weights.items())
    return [listed[index][0] for index in spread(listed, buckets)]


@given(backends, names, st.integers(1, 100))
def test_added_backend_moves_only_the_buckets_it_takes(weights: dict[str, int], newcomer: str, weight: int) -> None:
    weights.pop(newcomer, None)
    if weights:
        before, after = named(weights), named({newcomer: weight, **weights})
        assert all(new in (old, newcomer) for old, new in zip(before, after, strict=True))


@given(backends, st.integers(1, 100))
def test_grown_weight_moves_buckets_only_to_that_backend(weights: dict[str, int], more: int) -> None:
    grown = next(iter(weights))
    before, after = named(weights), named({**weights, grown: weights[grown] + more})
    assert all(new in (old, grown) for old, new in zip(before, after, strict=True))


@given(backends)
def test_spread_does_not_depend_on_backend_order(weights: dict[str, int]) -> None:
    assert named(weights) == named(dict(reversed(weights.items())))


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (1, 3), (1, 2, 3, 4), (10, 90)])
def test_spread_shares_approximate_the_weights(weights: tuple[int, ...]) -> None:
    """Over many sets of names, the mean distance from the wanted share is small."""
    off = 0.0
    for trial in range(50):
        listed = tuple((f"{trial}/{index}", weight) for index, weight in enumerate(weights))
        counts = Counter(spread(listed, BUCKETS))
        off += max(abs(counts[i] / BUCKETS - weight / sum(weights)) for i, weight in enumerate(weights))
    assert off / 50 < 0.05


def test_single_backend_with_endpoint_address_is_not_balanced() -> None:
    for service in (BalancedService(ENDPOINT, ()), BalancedService(ENDPOINT, (attachment(1),))):
        assert not balanced(service)
        assert not elements(service)


def test_single_backend_that_took_over_receives_all_buckets() -> None:
    found = elements(BalancedService(ENDPOINT, (attachment(2),)))
    assert {*found[bridge_set("buckets4")].values()} == {mac_address("02:42:0a:09:00:02")}


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ([(False, True), (False, True)], [1, 2]),
        ([(True, True), (False, True)], [2]),
        ([(False, False), (False, True)], [2]),
        ([(True, True), (False, False)], [1]),
        ([(True, False), (False, False)], [2]),
        ([(True, False), (True, False)], [1, 2]),
    ],
)
def test_eligible_backends_are_the_best_by_drain_and_health(states: list[tuple[bool, bool]], chosen: list[int]) -> None:
    all_of_them = [attachment(n, drained=d, healthy=h) for n, (d, h) in enumerate(states, start=1)]
    assert [taker.sequence for taker in eligible_backends(all_of_them)] == chosen


def test_service_programs_each_bucket_and_slot_once() -> None:
    ports = (BoundPort(proto=6, port=80, host_ip=IPv4Address("0.0.0.0"), host_port=8080),)
    endpoint = replace(ENDPOINT, ports=ports, affinity=Affinity.CLIENT)
    programmed = elements(BalancedService(endpoint, (attachment(1), attachment(2))))
    found = {which.name: len(each) for which, each in programmed.items()}
    assert found["buckets4"] == found["buckets6"] == BUCKETS
    assert found["own4_client"] == found["own6_client"] == found["any4_client"] == SLOTS
    assert found["clients4"] == found["holders4"] == found["services4"] == found["secondaries4"] == 1
    assert found["live4"] == found["live6"] == 2


def test_change_writes_only_the_differing_elements() -> None:
    old = elements(BalancedService(ENDPOINT, (attachment(1), attachment(2))))
    new = elements(BalancedService(ENDPOINT, (attachment(1), attachment(2), attachment(3))))
    assert difference(old, old) == ({}, {})
    removed, added = difference(old, new)
    for name, count in (("buckets4", BUCKETS), ("own4_flow", SLOTS)):
        which = bridge_set(name) if name == "buckets4" else inet_set(name)
        assert {*added[which].values()} == {mac_address("02:42:0a:09:00:03"), bytes([10, 9, 0, 3])} & {
            *new[which].values()
        }
        assert removed[which].keys() == added[which].keys()
        assert len(added[which]) < count / 2
    assert bridge_set("services4") not in added
    assert len(added[bridge_set("live4")]) == 1


def test_address_announcement_frame_follows_the_rfcs() -> None:
    mac = bytes.fromhex("02420a090064")
    arp = frame(mac, ip_address("10.9.0.100"))
    assert arp.hex() == "ffffffffffff02420a0900640806" + "0001080006040001" + (
        "02420a090064" + "0a090064" + "000000000000" + "0a090064"
    )
    advert = frame(mac, ip_address("fd09::100"))
    pseudo = advert[22:54] + (32).to_bytes(4, "big") + (58).to_bytes(4, "big") + advert[54:]
    total = sum(int.from_bytes(pseudo[i : i + 2], "big") for i in range(0, len(pseudo), 2))
    assert total % 0xFFFF == 0
    assert advert[:6].hex() == "333300000001"


def test_host_sends_only_to_its_own_backends() -> None:
    """Clients on the bridge reach all backends. What passes through the host must be answered through it."""
    own, remote = attachment(1), replace(attachment(2), host_link="")
    found = elements(BalancedService(ENDPOINT, (own, remote)))
    buckets = set(found[bridge_set("buckets4")].values())
    slots = set(found[inet_set("own4_flow")].values())
    assert buckets == {mac_address(own.mac), mac_address(remote.mac)}
    assert slots == {own.address.ip.packed if own.address else b""}
