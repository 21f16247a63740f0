"""Source address and port of a published port's packets after conntrack has forgotten their flow.

A server may send long after its client did. If its flow was forgotten in between (``conntrack -D``), the kernel takes
the server's packet for the first one of a new flow. If it were masqueraded like any other, it would leave from a port
that the client does not know, and the client's reset would end the connection. These maps give it the port of the host
at which it is published. A port that is the same inside and outside needs no element: masquerading keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sandnet.firewall.ruleset.elements import Element, inet_set
from sandnet.kernel.nft_types import join_parts, port_number, protocol_number
from sandnet.kernel.types import Value
from sandnet.model import Address, BoundPort

MAPS: Final = """\
  map sport4 { type ipv4_addr . inet_proto . inet_service : inet_service; }
  map sport6 { type ipv6_addr . inet_proto . inet_service : inet_service; }
  map source4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map source6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
"""
CHAIN: Final = """\
  chain forgotten {
    # a connection that begins is none that was forgotten
    tcp flags & (fin | syn | rst | ack) == syn return
    snat ip to ip saddr . meta l4proto . th sport map @source4
    snat ip6 to ip6 saddr . meta l4proto . th sport map @source6
    meta nfproto ipv4 meta l4proto { tcp, udp, sctp } masquerade to :ip saddr . meta l4proto . th sport map @sport4
    meta nfproto ipv6 meta l4proto { tcp, udp, sctp } masquerade to :ip6 saddr . meta l4proto . th sport map @sport6
  }
"""


def sources(address: Address, ports: Iterable[BoundPort]) -> Iterator[tuple[Element, Value]]:
    """Yield the elements for what a backend sends from its address; of several host ports the first counts."""
    seen: set[tuple[int, int]] = set()
    for port in ports:
        inside = (port.proto, port.port)
        if port.host_ip.version != address.version or port.host_ip.is_loopback or inside in seen:
            continue
        seen.add(inside)
        key = join_parts(address.packed, protocol_number(port.proto), port_number(port.port))
        outside = port_number(port.host_port)
        if not port.host_ip.is_unspecified:
            yield Element(inet_set(f"source{address.version}"), key), join_parts(port.host_ip.packed, outside)
        elif port.port != port.host_port:
            yield Element(inet_set(f"sport{address.version}"), key), outside
