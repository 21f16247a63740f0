"""Peers as entries of the kernel, and what the kernel reports about them."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.drivers.overlay.peer_table import PeerTable
from sandnet.kernel.vxlan.base import NO_ENTRIES, EntryChanges, PeerEntries
from sandnet.model import Network, Peer, Phase, Subnet

NET = Network(id="a" * 64, name="net", driver="overlay", phase=Phase.READY, sequence=1, created=0.0, vni=4096)
NET6 = Network(
    id="b" * 64,
    name="six",
    driver="overlay",
    phase=Phase.READY,
    sequence=1,
    created=0.0,
    ipv6=Subnet(prefix=IPv6Network("fd60::/64")),
)
HOST, OTHER = ip_address("192.0.2.2"), ip_address("192.0.2.3")
ONE, TWO = "02:42:0a:3c:00:01", "02:42:0a:3c:00:02"
SERVICE = ip_address("10.60.0.100")
PORT, BRIDGE = "snvx0", "snb0"


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def peer(mac: str = ONE, *addresses: str, host: str = "192.0.2.2") -> Peer:
    return Peer(mac, ip_address(host), tuple(map(ip_address, addresses)))


def test_peer_has_one_entry_of_each_kind_and_address() -> None:
    table = PeerTable(NET, [peer(ONE, "10.60.0.1", "10.60.0.100")])
    mac = packed(ONE)
    neighbours = frozenset({(ip_address("10.60.0.1").packed, mac), (SERVICE.packed, mac)})
    assert table.entries() == PeerEntries(frozenset({(mac, HOST.packed)}), frozenset({mac}), neighbours)


def test_network_with_ipv6_has_link_local_neighbours_too() -> None:
    found = {address for address, _ in PeerTable(NET6, [peer(ONE, "fd60::1")]).entries().neighbours}
    assert found == {ip_address("fd60::1").packed, ip_address("fe80::42:aff:fe3c:1").packed}
    assert not PeerTable(NET, [peer(ONE, "fd60::1")]).entries().neighbours


def test_change_costs_the_entries_that_change() -> None:
    table = PeerTable(NET, [peer(ONE, "10.60.0.1"), peer(TWO, "10.60.0.2")])
    removed, added = table.change([peer(ONE, "10.60.0.1", host="192.0.2.3")], [])
    assert removed == PeerEntries(frozenset({(packed(ONE), HOST.packed)}))
    assert added == PeerEntries(frozenset({(packed(ONE), OTHER.packed)}))
    assert table.change([peer(ONE, "10.60.0.1", host="192.0.2.3")], [ONE]) == (NO_ENTRIES, NO_ENTRIES)
    removed, added = table.change([], [TWO, TWO, "02:00:00:00:00:09"])
    assert (removed.total, added) == (3, NO_ENTRIES)
    assert TWO not in table
    assert len(table) == 1


@pytest.mark.parametrize("first", [ONE, TWO])
def test_service_follows_its_holder_in_any_order_of_changes(first: str) -> None:
    table = PeerTable(NET, [peer(ONE, "10.60.0.1", "10.60.0.100"), peer(TWO, "10.60.0.2")])
    changes = {ONE: peer(ONE, "10.60.0.1"), TWO: peer(TWO, "10.60.0.2", "10.60.0.100")}
    table.change([changes.pop(first)], [])
    table.change([*changes.values()], [])
    assert (SERVICE.packed, packed(TWO)) in table.entries().neighbours


class TestHiddenPeers:
    """A peer whose MAC a container on this host has."""

    @pytest.fixture
    def table(self) -> PeerTable:
        return PeerTable(NET, [peer(ONE, "10.60.0.1"), peer(TWO, "10.60.0.2")])

    def test_hidden_peer_has_no_entries_until_it_is_put_again(self, table: PeerTable) -> None:
        before = table.entries()
        removed, added = table.hide(ONE)
        assert (removed.total, added) == (3, NO_ENTRIES)
        assert table.entries() == before.without(removed)
        hidden = table.hidden([ONE, TWO])
        assert hidden == [peer(ONE, "10.60.0.1")]
        table.change(hidden, [])
        assert table.entries() == before
        assert not table.hidden([ONE])

    def test_change_of_a_hidden_peer_is_the_last_word(self, table: PeerTable) -> None:
        table.hide(ONE)
        table.hide(TWO)
        table.change([peer(TWO, "10.60.0.2", host="192.0.2.3")], [ONE])
        assert not table.hidden([ONE, TWO])
        assert table.entries().forwarding == {(packed(TWO), OTHER.packed)}

    def test_what_is_no_peer_is_not_hidden(self, table: PeerTable) -> None:
        assert table.hide("02:00:00:00:00:09") == (NO_ENTRIES, NO_ENTRIES)
        assert not table.hidden(["02:00:00:00:00:09"])


PEERS = st.builds(
    lambda number, owned, host: peer(
        f"02:42:0a:3c:00:{number:02x}", *(f"10.60.0.{each}" for each in owned), host=f"192.0.2.{host}"
    ),
    st.integers(1, 4),
    st.lists(st.integers(1, 6), unique=True, max_size=3),
    st.integers(2, 3),
)
CHANGES = st.lists(st.tuples(st.lists(PEERS, max_size=2, unique_by=lambda each: each.mac), st.integers(1, 4)))


@given(CHANGES)
def test_changes_lead_to_what_the_table_says(changes: list[tuple[list[Peer], int]]) -> None:
    table, kernel = PeerTable(NET), NO_ENTRIES
    for put, dropped in changes:
        removed, added = table.change(put, [f"02:42:0a:3c:00:{dropped:02x}"])
        assert removed.without(kernel) == NO_ENTRIES
        kernel = kernel.without(removed).joined(added)
        assert kernel == table.entries()


def changes(present: PeerEntries = NO_ENTRIES, deleted: PeerEntries = NO_ENTRIES) -> EntryChanges:
    """What the kernel reports of both links."""

    def parts(entries: PeerEntries) -> dict[str, PeerEntries]:
        return {PORT: entries._replace(neighbours=frozenset()), BRIDGE: PeerEntries(neighbours=entries.neighbours)}

    return EntryChanges(parts(present), parts(deleted), missed=False)


def test_own_changes_reported_by_the_kernel_are_no_difference() -> None:
    table = PeerTable(NET, [peer(ONE, "10.60.0.1")])
    gone = PeerTable(NET, [peer(TWO, "10.60.0.2")]).entries()
    assert not table.differs(changes(table.entries(), gone), PORT, BRIDGE)
    assert not table.differs(EntryChanges({}, {}, missed=False), PORT, BRIDGE)


@pytest.mark.parametrize("kind", ["forwarding", "ports", "neighbours"])
def test_deleted_entry_of_a_peer_is_a_difference(kind: str) -> None:
    table = PeerTable(NET, [peer(ONE, "10.60.0.1")])
    lost = NO_ENTRIES._replace(**{kind: getattr(table.entries(), kind)})
    assert table.differs(changes(deleted=lost), PORT, BRIDGE)


@pytest.mark.parametrize(
    "other",
    [
        PeerEntries(frozenset({(packed(ONE), OTHER.packed)})),
        PeerEntries(ports=frozenset({packed(TWO)})),
        PeerEntries(neighbours=frozenset({(ip_address("10.60.0.1").packed, packed(TWO))})),
    ],
)
def test_entry_that_no_peer_has_is_a_difference(other: PeerEntries) -> None:
    assert PeerTable(NET, [peer(ONE, "10.60.0.1")]).differs(changes(other), PORT, BRIDGE)
