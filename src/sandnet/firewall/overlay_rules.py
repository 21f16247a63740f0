"""Rules of networks that reach other hosts by VXLAN (RFC 7348): constant text, and elements as pure functions.

An encapsulated packet is accepted only from the host that has its inner sender: the outer source address, the VNI and
the inner Ethernet source are looked up together, before connection tracking. What is inside then passes the rules that
ports pass (``antispoofing_rules``): the Ethernet and the IP source must be a pair that a peer has. Packets with VNIs
of other programs are left alone: no link of ours receives them.

Encapsulated packets are not tracked: each flow inside has a source port of its own outside, and both directions go to
the same port, so the host's table would fill with flows that never look answered.

What is sent to the VXLAN port from this host's own underlay address counts as its own at the other hosts. So only
VXLAN links and root may send it: neither a sandbox, nor a container of another engine, nor a machine behind this host
gets its packets there by masquerading.

Networks that are encrypted have addresses of the tunnel outside (``model.tunnel``). Packets to these leave by the
WireGuard link or not at all, and packets from there arrive by it or not at all.

Offsets of raw payload: a UDP header has 64 bits; the VNI is at bit 32 of the VXLAN header, which has 64 bits; the inner
Ethernet source is at bit 48 behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.ruleset.elements import Element, bridge_set, inet_set
from sandnet.kernel.nft_types import host_number, join_parts, link_name, mac_address, port_number
from sandnet.kernel.types import Value
from sandnet.model import Address, Network, Peer
from sandnet.model.link_names import VXLAN_PREFIX, link_local, vxlan_name
from sandnet.model.tunnel import TUNNEL_PREFIX, TUNNEL_RANGE

_VNI: Final = "@th,96,24"
_SENDER: Final = f"{_VNI} . @th,176,48"

SETS: Final = f"""\
  set vxlan_ports {{ type inet_service; }}
  set vnis {{ typeof {_VNI}; }}
  set underlay4 {{ type ipv4_addr; }}
  set underlay6 {{ type ipv6_addr; }}
  set peers4 {{ typeof ip saddr . {_SENDER}; }}
  set peers6 {{ typeof ip6 saddr . {_SENDER}; }}
"""
RECEIVED: Final = f"""\
    udp dport @vxlan_ports jump encapsulated
    # the tunnel is for encapsulated packets alone: other hosts reach nothing else of this one by it
    iifname "{TUNNEL_PREFIX}*" drop
"""
"""Rules of the chain that sees packets before connection tracking."""
CHAINS: Final = f"""\
  chain encapsulated {{
    # what is expected first: each rule costs time
    iifname @routed goto unexpected
    ip saddr . {_SENDER} @peers4 notrack accept
    # a sender of an encrypted network has an address of the tunnel, and no one else may use it
    ip6 saddr {TUNNEL_RANGE} iifname != "{TUNNEL_PREFIX}*" drop
    ip6 saddr . {_SENDER} @peers6 notrack accept
    goto unexpected
  }}
  chain unexpected {{
    {_VNI} != @vnis return
    # what this host only forwards
    fib daddr type != local return
    drop
  }}
  chain raw_output {{
    type filter hook output priority raw; policy accept;
    udp dport @vxlan_ports {_VNI} @vnis notrack
  }}
  chain leaving_host {{
    # after masquerading: the source is the one that the other host sees
    type filter hook postrouting priority srcnat + 1; policy accept;
    udp dport @vxlan_ports jump as_this_host
  }}
  chain into_tunnel {{
    # never in clear, whatever the routes are; and from VXLAN links alone
    oifname != "{TUNNEL_PREFIX}*" drop
    meta iifkind "vxlan" return
    drop
  }}
  chain as_this_host {{
    ip6 daddr {TUNNEL_RANGE} goto into_tunnel
    meta iifkind "vxlan" return
    meta skuid 0 return
    ip saddr @underlay4 drop
    ip6 saddr @underlay6 drop
  }}
"""
FROM_PEERS: Final = f'iifname "{VXLAN_PREFIX}*" drop'
"""Rule for what anti-spoofing lets pass by no pair of sources, and for what bridges hand to the host itself.

Peers need no ARP: bridges answer it. And no peer uses this host as its gateway, which is the same address on each host.
"""
_TO_PEERS: Final = f'oifname "{VXLAN_PREFIX}*" drop'
"""Rule for frames of the host itself: their sender is the gateway, which is the same on each host."""
BRIDGE_CHAINS: Final = {
    "host_frames": ("type filter hook output priority 0; policy accept;", (_TO_PEERS,)),
}
"""Base chains of the bridge table: hook and rules."""
OF_HOST: Final = frozenset({"vxlan_ports", "underlay4", "underlay6"})
"""Sets of what the host has for all networks together."""
OF_PEERS: Final = frozenset({"peers4", "peers6", "sources4", "sources6"})
"""Sets with elements for peers, some of them for ports as well."""


def network_elements(net: Network) -> Iterator[tuple[Element, Value]]:
    """Yield what a network that reaches other hosts has besides a bridge's elements; nothing for another one."""
    if net.vni:
        yield Element(inet_set("vnis"), _vni(net)), b""
        yield Element(bridge_set("tunnels"), link_name(vxlan_name(net.id))), host_number(network_number(net.id))
        if net.options.anti_spoofing:
            yield Element(bridge_set("guarded"), link_name(vxlan_name(net.id))), b""


def peer_elements(net: Network, peer: Peer) -> Iterator[tuple[Element, Value]]:
    """Yield what lets a peer send."""
    mac = mac_address(peer.mac)
    for host in (peer.host_address, *peer.further_hosts):
        yield Element(inet_set(f"peers{host.version}"), join_parts(host.packed, _vni(net), mac)), b""
    port = link_name(vxlan_name(net.id))
    addresses = {*peer.addresses, *peer.shared}
    if any(address.version == 6 for address in addresses):
        addresses.add(link_local(peer.mac))
    for address in addresses:
        yield Element(bridge_set(f"sources{address.version}"), join_parts(port, mac, address.packed)), b""


def host_elements(underlay: Address, port: int) -> Iterator[tuple[Element, Value]]:
    """Yield what the host has for all networks together.

    Args:
        underlay: its own address.
        port: the UDP port of VXLAN.
    """
    yield Element(inet_set("vxlan_ports"), port_number(port)), b""
    yield Element(inet_set(f"underlay{underlay.version}"), underlay.packed), b""


def is_of_host(element: Element) -> bool:
    """Return whether an element is one of :func:`host_elements`."""
    return element.which.name in OF_HOST


def is_of_peer(net: Network, element: Element) -> bool:
    """Return whether an element is one of :func:`peer_elements` of a network."""
    name, key = element.which.name, element.key
    if name in ("peers4", "peers6"):
        size = 4 if name == "peers4" else 16
        return key[size : size + 3] == _vni(net)
    return name in OF_PEERS and key.startswith(link_name(vxlan_name(net.id)))


def _vni(net: Network) -> bytes:
    return net.vni.to_bytes(3, "big")
