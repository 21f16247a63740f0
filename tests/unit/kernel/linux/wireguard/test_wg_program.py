"""What ``wg`` prints, and what it is told."""

from __future__ import annotations

from base64 import b64encode
from ipaddress import ip_address

import pytest

from sandnet.errors import Error
from sandnet.kernel.linux.wireguard.wg_program import Configured, PeerState, changes, differences, parsed
from sandnet.kernel.wireguard.base import PrivateKey, Tunnel, TunnelPeer
from sandnet.model.tunnel import TUNNEL_LINK, TUNNEL_RANGE, is_public_key, tunnel_address


def key(number: int) -> str:
    return b64encode(bytes([number] * 32)).decode()


def peer(number: int, host: str) -> TunnelPeer:
    return TunnelPeer(key(number), tunnel_address(key(number)), ip_address(host), 51871)


OWN, FOUR, SIX = PrivateKey(key(1)), peer(2, "192.0.2.2"), peer(3, "2001:db8::3")
TUNNEL = Tunnel(TUNNEL_LINK, 51871, 1440, OWN, (tunnel_address(key(9)),), TUNNEL_RANGE, frozenset({FOUR, SIX}))
DUMP = "\n".join(
    "\t".join(words)
    for words in (
        (OWN, key(9), "51871", "off"),
        (FOUR.public_key, "(none)", "192.0.2.2:51871", f"{FOUR.address}/128", "1764409000", "148", "212", "25"),
        (SIX.public_key, "(none)", "[2001:db8::3]:51871", f"{SIX.address}/128", "0", "0", "0", "25"),
    )
)


def test_dump_is_read() -> None:
    found = parsed(DUMP)
    assert (found.private_key, found.port) == (OWN, 51871)
    assert found.peers[SIX.public_key] == PeerState("[2001:db8::3]:51871", f"{SIX.address}/128", "25")
    assert list(changes(found, TUNNEL)) == list(differences(found, TUNNEL)) == []


@pytest.mark.parametrize("text", ["", "x", "a\tb\tc\td", f"{DUMP}\nx"])
def test_what_is_no_dump_is_refused(text: str) -> None:
    with pytest.raises(Error):
        parsed(text)


def test_new_link_gets_its_port_and_its_peers() -> None:
    words = list(changes(Configured(OWN, 0, {}), TUNNEL))
    assert words[:2] == ["listen-port", "51871"]
    assert words.count("peer") == words.count("25") == 2
    assert OWN not in words, "other users of the machine can see arguments"


def test_key_that_is_not_in_use_is_not_greeted() -> None:
    later = TUNNEL._replace(peers=frozenset({FOUR._replace(in_use=False), SIX}))
    words = list(changes(parsed(DUMP), later))
    assert words[:2] == ["peer", FOUR.public_key]
    assert words[-2:] == ["persistent-keepalive", "off"]
    assert "greeted" in " ".join(differences(parsed(DUMP), later))


def test_only_what_differs_is_changed() -> None:
    moved = FOUR._replace(host=ip_address("192.0.2.7"))
    words = list(changes(parsed(DUMP), TUNNEL._replace(peers=frozenset({moved}))))
    assert words == [
        *("peer", SIX.public_key, "remove"),
        *("peer", FOUR.public_key, "endpoint", "192.0.2.7:51871", "allowed-ips", f"{FOUR.address}/128"),
        *("persistent-keepalive", "25"),
    ]


def test_peer_that_moved_by_itself_is_no_difference() -> None:
    moved = TUNNEL._replace(peers=frozenset({FOUR._replace(host=ip_address("192.0.2.7")), SIX}))
    assert list(differences(parsed(DUMP), moved)) == []


def test_each_difference_is_named() -> None:
    other = peer(4, "192.0.2.4")
    wanted = TUNNEL._replace(port=1, private_key=PrivateKey(key(5)), peers=frozenset({FOUR, other}))
    text = " ".join(differences(parsed(DUMP), wanted))
    assert "port is 51871, not 1" in text
    assert "private key" in text
    assert f"{other.public_key} is missing" in text
    assert f"{SIX.public_key} should not be there" in text
    assert key(5) not in text


@pytest.mark.parametrize("text", ["", "x", key(1)[:-1], key(1)[:-1] + "!", b64encode(bytes(31)).decode(), "é" * 44])
def test_what_is_no_key_is_known(text: str) -> None:
    assert is_public_key(key(1))
    assert not is_public_key(text)


def test_addresses_of_keys_are_in_the_range_and_differ() -> None:
    found = {tunnel_address(key(number)) for number in range(200)}
    assert len(found) == 200
    assert all(address in TUNNEL_RANGE for address in found)
