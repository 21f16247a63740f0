"""Source address and port of a published port's packets after conntrack has forgotten their flow.

A server may send long after its client did. If its flow was forgotten in between (``conntrack -D``), the kernel takes
the server's packet for the first one of a new flow. If it were masqueraded like any other, it would leave from a port
that the client does not know, and the client's reset would end the connection. These maps give it the port of the host
at which it is published. A port that is the same inside and outside needs no element: masquerading keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sandnet.model import Address, BoundPort


class Source(NamedTuple):
    """An element of one of the maps."""

    map: str
    key: str
    value: str


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


def sources(address: Address, ports: Iterable[BoundPort]) -> Iterator[Source]:
    """Yield the elements for what a backend sends from its address; of several host ports the first counts."""
    seen: set[tuple[int, int]] = set()
    for port in ports:
        inside = (port.proto, port.port)
        if port.host_ip.version != address.version or port.host_ip.is_loopback or inside in seen:
            continue
        seen.add(inside)
        key = f"{address} . {port.proto} . {port.port}"
        if not port.host_ip.is_unspecified:
            yield Source(f"source{address.version}", key, f"{port.host_ip} . {port.host_port}")
        elif port.port != port.host_port:
            yield Source(f"sport{address.version}", key, str(port.host_port))
