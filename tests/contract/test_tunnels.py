"""What every kernel promises about WireGuard links: in memory and for Linux."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.wireguard.base import Tunnel, TunnelPeer, Tunnels
from sandnet.model.tunnel import TUNNEL_LINK, TUNNEL_RANGE, is_public_key, tunnel_address
from tests.support.kernel_cases import KernelCase

PORT = 51871


@dataclass
class Case:
    """A kernel that has WireGuard, and a link as it should be."""

    kernel: KernelCase
    tunnels: Tunnels
    tunnel: Tunnel

    def peer(self, host: str = "192.0.2.2") -> TunnelPeer:
        """A key of another host."""
        public = self.tunnels.public_key(self.tunnels.new_key())
        return TunnelPeer(public, tunnel_address(public), ip_address(host), PORT)


@pytest.fixture
def case(kernel_case: KernelCase) -> Iterator[Case]:
    tunnels = kernel_case.kernel.tunnels
    if reason := tunnels.missing():
        pytest.skip(reason)
    key = tunnels.new_key()
    own = tunnel_address(tunnels.public_key(key))
    yield Case(kernel_case, tunnels, Tunnel(TUNNEL_LINK, PORT, 1440, key, (own,), TUNNEL_RANGE, frozenset()))
    tunnels.delete(TUNNEL_LINK, TUNNEL_RANGE)


def test_link_is_found_as_it_was_made(case: Case) -> None:
    assert not case.tunnels.works(case.tunnel)
    assert len(case.tunnels.differences(case.tunnel)) >= 1
    for _ in range(2):
        case.tunnels.ensure(case.tunnel)
        assert case.tunnels.works(case.tunnel)
        assert case.tunnels.differences(case.tunnel) == []
    link = case.kernel.kernel.links.find(TUNNEL_LINK)
    assert link
    assert (link.up, link.mtu) == (True, 1440)


def test_peers_are_added_changed_and_removed(case: Case) -> None:
    first, second, moved = case.peer(), case.peer("2001:db8::2"), case.peer()
    for peers in ({first, second}, {second, moved}, {moved._replace(port=PORT + 1)}, set()):
        wanted = case.tunnel._replace(peers=frozenset(peers))
        if peers:
            case.tunnels.ensure(case.tunnel)
            assert case.tunnels.differences(wanted)
        case.tunnels.ensure(wanted)
        assert case.tunnels.differences(wanted) == []


def test_peers_that_are_not_known_yet_stay(case: Case) -> None:
    known = case.tunnel._replace(peers=frozenset({case.peer()}))
    case.tunnels.ensure(known)
    case.tunnels.ensure(case.tunnel._replace(peers=None))
    assert case.tunnels.differences(case.tunnel._replace(peers=None)) == []
    assert case.tunnels.differences(known) == []


def test_key_port_mtu_and_addresses_change_in_place(case: Case) -> None:
    case.tunnels.ensure(case.tunnel)
    before = case.kernel.kernel.links.find(TUNNEL_LINK)
    key = case.tunnels.new_key()
    own = tunnel_address(case.tunnels.public_key(key))
    changed = case.tunnel._replace(private_key=key, port=PORT + 1, mtu=1380, addresses=(own, case.tunnel.addresses[0]))
    assert case.tunnels.differences(changed)
    case.tunnels.ensure(changed)
    assert case.tunnels.differences(changed) == []
    after = case.kernel.kernel.links.find(TUNNEL_LINK)
    assert before
    assert after
    assert before.ifindex == after.ifindex


def test_deleted_link_is_gone_and_may_be_absent(case: Case) -> None:
    case.tunnels.ensure(case.tunnel)
    for _ in range(2):
        case.tunnels.delete(TUNNEL_LINK, TUNNEL_RANGE)
        assert case.kernel.kernel.links.find(TUNNEL_LINK) is None
    assert not case.tunnels.works(case.tunnel)


def test_link_of_another_program_is_left_alone(case: Case) -> None:
    case.kernel.add_link(TUNNEL_LINK)
    with pytest.raises(Error) as refused:
        case.tunnels.ensure(case.tunnel)
    assert refused.value.kind is Kind.CONFLICT
    case.tunnels.delete(TUNNEL_LINK, TUNNEL_RANGE)
    assert case.kernel.kernel.links.find(TUNNEL_LINK)


def test_keys_are_new_and_have_one_public_half(case: Case) -> None:
    first, second = case.tunnels.new_key(), case.tunnels.new_key()
    assert first != second
    assert case.tunnels.public_key(first) == case.tunnels.public_key(first) != case.tunnels.public_key(second)
    assert is_public_key(case.tunnels.public_key(first))
    assert first not in repr([first])
    with pytest.raises(Error):
        case.tunnels.public_key(type(first)("no key"))
