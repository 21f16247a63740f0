"""The bridge driver's nftables ruleset as text: pure functions from records.

One table with a fixed number of chains and rules. The rules of services with several backends are in
``balancing.inet_rules`` for this table, and in ``balancing.service_rules`` for the bridge table. What differs by
network and port is in sets and maps, so neither a packet nor a change costs more with a thousand of them. Isolation
between networks is one rule, not one per pair.

The table never accepts packets on behalf of the host's own firewall. Packets that neither come from nor go to our
bridges leave it at the first rule, and a drop by the host's own firewall still applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sandnet.firewall import flow_limits, overlay_rules
from sandnet.firewall.balancing.inet_rules import inet_maps, inet_own, inet_port_maps, inet_published
from sandnet.firewall.base import NetworkState
from sandnet.firewall.flow_limits import Counted
from sandnet.firewall.ruleset import published_sources, tables
from sandnet.firewall.ruleset.elements import Element, inet_set
from sandnet.firewall.ruleset.port_ranges import published_key, span_ends, spans
from sandnet.kernel.nft_types import join_parts, link_name, port_number, protocol_number
from sandnet.kernel.types import PORTS, RETIRED, Value
from sandnet.model import Address, BoundPort, Endpoint, Network
from sandnet.model.link_names import PORT_PREFIX
from sandnet.model.name_server import GATEWAY_SOCKETS, GATEWAY_SOCKETS_IPV6

TABLE = "inet sandnet"


class HostState(NamedTuple):
    """The content of the table besides networks."""

    elements: Sequence[tuple[Element, Value]] = ()
    """Elements that belong to no network."""
    max_flows: int = 0
    """Limit of flows of a sandbox whose network sets none; 0: no limit."""


_FAMILIES: Final = {4: 2, 6: 10}
"""By version of IP: ``NFPROTO_IPV4`` and ``NFPROTO_IPV6`` (linux/netfilter.h), as the sets contain them."""
_BRIDGED: Final = {False: "goto between_ports", True: "accept"}
"""What becomes of a frame from port to port, by whether the network is internal: nothing else is checked there."""

SETS = """\
  set bridges { type ifname; }
  set routed { type ifname; }
  set closed_families { type nf_proto; }
  set open_links { type nf_proto . ifname; }
  set crossing { typeof iif . oif; flags dynamic; size 4096; timeout 1h; }
  set adopted { type ifname; }
  set internal { type ifname; }
  set direct { type ifname . nf_proto; }
  set direct4 { type ipv4_addr . inet_proto . inet_service; }
  set direct6 { type ipv6_addr . inet_proto . inet_service; }
  set closed { type ifname; }
  set opened { type ifname . inet_proto . inet_service; }
  set outbound { type ifname; }
  set unguarded { type ifname; }
  set within { type ifname . ifname; }
  map bridged { type ifname . ifname : verdict; }
  set adopted4 { type ifname . ipv4_addr; flags interval; }
  set adopted6 { type ifname . ipv6_addr; flags interval; }
  set self4 { type ipv4_addr . ipv4_addr; }
  set self6 { type ipv6_addr . ipv6_addr; }
  set mates4 { type ipv4_addr; }
  set mates6 { type ipv6_addr; }
  map askers4 { type ifname . ipv4_addr . ipv4_addr : ipv4_addr; }
  map askers6 { type ifname . ipv6_addr . ipv6_addr : ipv6_addr; }
  map egress4 { type ifname : ipv4_addr; }
  map egress6 { type ifname : ipv6_addr; }
  map preferred4 { type ifname . ipv4_addr : ipv4_addr; flags interval; }
  map preferred6 { type ifname . ipv6_addr : ipv6_addr; flags interval; }
  map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map span4 { type inet_proto . inet_service : ipv4_addr; flags interval; }
  map span6 { type inet_proto . inet_service : ipv6_addr; flags interval; }
  map one_span4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
  map one_span6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
  map one4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map one6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
"""

CHAINS = f"""\
  chain published {{
{inet_published()}\
    dnat ip to ip daddr . meta l4proto . th dport map @one4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
    dnat ip to meta l4proto . th dport map @any4
    ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @any6
    dnat ip to ip daddr . meta l4proto . th dport map @one_span4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @one_span6
    dnat ip to meta l4proto . th dport map @span4
    ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @span6
  }}
  chain raw_prerouting {{
    type filter hook prerouting priority raw; policy accept;
    # route_localnet is on for our bridges (published ports on 127.0.0.1): keep the host's loopback closed
    ip daddr 127.0.0.0/8 jump to_loopback
    # the resolver's sockets for questions at gateways: no packet has such a destination when it arrives
    ip6 daddr {GATEWAY_SOCKETS_IPV6} drop
    # a packet has a port itself as its input when a bridge passes it up without its hooks (IEEE 802.1 groups), or
    # when the port was removed from its bridge: no rule of a bridge covers it
    iifname "{PORT_PREFIX}*" drop
    # two comparisons cost less than one lookup in a set
    iifgroup {PORTS} drop
    iifgroup {RETIRED} drop
    iifname @unguarded jump routed_back
{overlay_rules.RECEIVED}\
  }}
  chain to_loopback {{
    iifname @bridges drop
    iifname @adopted drop
  }}
  chain routed_back {{
    # without anti-spoofing, answers to a source that is routed elsewhere would be sent there
    ip6 saddr != :: fib saddr . iif oif 0 drop
    meta nfproto ipv4 fib saddr . iif oif 0 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    # a port published on 127.0.0.1 is for the host alone: translation would hide that the packet is a martian
    iifname != "lo" ip daddr 127.0.0.0/8 return
    # the kernel does not forward from link-local addresses: without translation the client is refused at once
    ip6 saddr fe80::/10 return
    # questions of a sandbox at its gateway, to the resolver's sockets for it
    iifname @bridges meta l4proto {{ tcp, udp }} th dport 53 jump asked
    fib daddr type local jump published
  }}
  chain asked {{
    dnat ip to iifname . ip saddr . ip daddr map @askers4
    dnat ip6 to iifname . ip6 saddr . ip6 daddr map @askers6
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump published
{inet_own()}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    # a container that calls its own published port, and one that calls its neighbour's
    ct status dnat ip saddr . ip daddr @self4 masquerade
    ct status dnat ip6 saddr . ip6 daddr @self6 masquerade
    ct status dnat iifname . oifname @within masquerade
    # the same between backends: one cannot receive from another whose address is the service's, as it has it too
    ct status dnat ip saddr @mates4 ip daddr @mates4 masquerade
    ct status dnat ip6 saddr @mates6 ip6 daddr @mates6 masquerade
    # 127.0.0.1 of the host cannot be answered to from another namespace
    ct status dnat ip saddr 127.0.0.0/8 masquerade
    oifname @bridges return
    iifname @bridges jump forgotten
    iifname @adopted jump forgotten
    iifname . meta nfproto @direct return
    iifname @outbound snat ip to iifname map @egress4
    iifname @outbound snat ip6 to iifname map @egress6
    # the source that the route prefers, where it is not the one that masquerading would choose
    iifname @outbound snat ip to oifname . ip daddr map @preferred4
    iifname @outbound snat ip6 to oifname . ip6 daddr map @preferred6
    iifname @outbound masquerade
    iifname . ip saddr @adopted4 snat ip to iifname map @egress4
    iifname . ip6 saddr @adopted6 snat ip6 to iifname map @egress6
    iifname . ip saddr @adopted4 snat ip to oifname . ip daddr map @preferred4
    iifname . ip6 saddr @adopted6 snat ip6 to oifname . ip6 daddr map @preferred6
    iifname . ip saddr @adopted4 masquerade
    iifname . ip6 saddr @adopted6 masquerade
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ct state vmap {{ invalid : jump strays, new : jump began }}
    iifname != @closed return
    ct state vmap {{ established : accept, related : accept }}
    # pings, path MTU, neighbour discovery
    meta l4proto {{ icmp, icmpv6 }} accept
    iifname . meta l4proto . th dport @opened accept
    # the resolver's sockets for questions at gateways: no packet has such a destination when it arrives
    ct status dnat ip daddr {GATEWAY_SOCKETS} accept
    ct status dnat ip6 daddr {GATEWAY_SOCKETS_IPV6} accept
    reject with icmpx type admin-prohibited
  }}
  chain began {{
    # a segment within a connection begins no flow: its flow was forgotten, or it is misplaced
    tcp flags & (fin | syn | rst | ack) != syn jump amid
    jump limited
  }}
  chain amid {{
    iifname @bridges jump strays
    iifname @adopted jump strays
    # An answer to a sandbox's connection has the port that it was masqueraded with as its destination: an ephemeral
    # one, which the host's servers do not use.
    tcp dport 32768-65535 jump strays
  }}
  chain strays {{
    # Connection tracking cannot assign the segment to a flow, so no address of it was translated back. Without a
    # socket of the host it belongs to a connection of a sandbox, which a reset by the host would end.
    meta l4proto != tcp return
    socket transparent 0 return
    socket transparent 1 return
    drop
  }}
  chain between_ports {{
    # frames that br_netfilter shows, from one port of a bridge to another
    ct state established,related accept
    # connection tracking cannot assign them: segments would leave with an address that has a meaning only on this host
    ct state invalid meta l4proto tcp drop
    ct state invalid accept
    goto limited
  }}
  chain others {{
    iifname @adopted jump leaving_adopted
    iifname @routed return
    oifname @routed return
    # no other packets were forwarded before sandnet enabled forwarding
    meta nfproto != @closed_families return
    meta nfproto . iifname @open_links return
    # br_netfilter also shows bridged frames of other programs' bridges: they leave by the bridge they entered
    meta iifkind "bridge" update @crossing {{ iif . iif }} iif . oif @crossing return
    drop
  }}
  chain leaving_subnet {{
    ct state vmap {{ invalid : drop, new : jump limited }}
  }}
  chain leaving_adopted {{
    # on another program's bridge connection tracking may see one direction only (br_netfilter)
    iifname . oifname @within return
    iifname . ip saddr @adopted4 jump leaving_subnet
    iifname . ip6 saddr @adopted6 jump leaving_subnet
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @bridges goto departing
    oifname != @bridges goto others
    oifname @internal drop
    ct state established,related accept
    ct state invalid drop
    ct status dnat goto limited
    oifname . meta nfproto @direct goto directly
    drop
  }}
  chain directly {{
    # networks whose subnet other hosts route to this one: pings, and the ports that are published
    meta l4proto {{ icmp, icmpv6 }} goto limited
    ip daddr . meta l4proto . th dport @direct4 goto limited
    ip6 daddr . meta l4proto . th dport @direct6 goto limited
    drop
  }}
  chain departing {{
    # what stays on its bridge is settled by one lookup
    iifname . oifname vmap @bridged
    # before established ones: a flow of an earlier network with that subnet is not one of this network
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    # its address may have a meaning only on this host
    ct state invalid drop
    ct status dnat goto limited
    oifname . meta nfproto @direct goto directly
    oifname @bridges drop
    goto limited
  }}
  chain limited {{
    iifname vmap @flow_limits
  }}
"""


def table(state: Sequence[NetworkState], host: HostState) -> str:
    """Return the script that puts the table in place without elements; one of that name is changed."""
    counting = flow_limits.chains(limits(state, host))
    sets = f"{SETS}{overlay_rules.SETS}{flow_limits.SETS}{published_sources.MAPS}{inet_maps()}"
    chains = f"{counting}{published_sources.CHAIN}{CHAINS}{overlay_rules.CHAINS}"
    return tables.in_place(TABLE, sets, chains, inet_port_maps())


def elements(state: Sequence[NetworkState], host: HostState) -> Iterator[tuple[Element, Value]]:
    """Yield the elements of the table."""
    yield from host.elements
    for each in state:
        yield from network_elements(each.network, host.max_flows)
        for endpoint in each.endpoints:
            yield from endpoint_elements(endpoint.endpoint)


def limits(state: Sequence[NetworkState], host: HostState) -> set[Counted]:
    """Return the ways in which flows are counted, each with chains in the table. The default one is always there."""
    usual = {(host.max_flows, True)} if host.max_flows else set()
    return usual | {how for each in state if (how := flow_limits.counted(each.network, host.max_flows))}


def network_elements(net: Network, max_flows: int) -> Iterator[tuple[Element, Value]]:
    """Yield a network's elements.

    Args:
        net: the network.
        max_flows: see :class:`HostState`.
    """
    link = link_name(net.link)
    yield Element(inet_set("routed"), link), b""
    if not net.options.firewall:
        return
    if verdict := flow_limits.verdict(net, max_flows):
        yield Element(inet_set(flow_limits.LIMITS), link), verdict
    yield from _outbound(net, link)
    for version, number in _FAMILIES.items():
        if net.is_routed(version):
            yield Element(inet_set("direct"), join_parts(link, protocol_number(number))), b""
    yield Element(inet_set("adopted" if net.link_adopted else "bridges"), link), b""
    if not net.link_adopted:
        if not net.options.anti_spoofing:
            yield Element(inet_set("unguarded"), link), b""
        yield from _host_access(net, link)
    if net.options.icc:
        yield Element(inet_set("within"), link + link), b""
        if not net.link_adopted:
            yield Element(inet_set("bridged"), link + link), _BRIDGED[net.options.internal]
    if net.options.internal:
        yield Element(inet_set("internal"), link), b""


def _outbound(net: Network, link: bytes) -> Iterator[tuple[Element, Value]]:
    if not net.options.masquerade or net.options.internal:
        return
    for family, egress in (4, net.options.egress_ipv4), (6, net.options.egress_ipv6):
        if egress:
            yield Element(inet_set(f"egress{family}"), link), egress.packed
    if not net.link_adopted:
        yield Element(inet_set("outbound"), link), b""
        return
    for subnet in filter(None, (net.ipv4, net.ipv6)):
        prefix = subnet.prefix
        if net.is_routed(prefix.version):
            continue
        ends = link + prefix.network_address.packed + link + prefix.broadcast_address.packed
        yield Element(inet_set(f"adopted{prefix.version}", ranges=True), ends), b""


def _host_access(net: Network, link: bytes) -> Iterator[tuple[Element, Value]]:
    allowed = net.options.host_access or ()
    if allowed is True:
        return
    yield Element(inet_set("closed"), link), b""
    for port in allowed:
        key = join_parts(link, protocol_number(port.proto), port_number(port.port))
        yield Element(inet_set("opened"), key), b""


def endpoint_elements(ep: Endpoint) -> Iterator[tuple[Element, Value]]:
    """Yield the elements that publish an endpoint's ports."""
    runs, alone = spans(ep.ports)
    for port in alone:
        if target := _target(ep, port):
            scope = "any" if port.host_ip.is_unspecified else "one"
            to = join_parts(target.packed, port_number(port.port))
            yield Element(inet_set(f"{scope}{target.version}"), published_key(port)), to
    for first, *_, last in runs:
        if target := _target(ep, first):
            scope = "span" if first.host_ip.is_unspecified else "one_span"
            ends = b"".join(span_ends(first, last))
            yield Element(inet_set(f"{scope}{target.version}", ranges=True), ends), target.packed
    for direct in ep.direct_ports:
        own = ep.address if direct.version == 4 else ep.address_ipv6
        if own:
            key = join_parts(own.ip.packed, protocol_number(direct.proto), port_number(direct.port))
            yield Element(inet_set(f"direct{direct.version}"), key), b""
    for address in (ep.address, ep.address_ipv6):
        if address:
            yield from published_sources.sources(address.ip, alone)
            if ep.ports:
                yield Element(inet_set(f"self{address.version}"), address.ip.packed * 2), b""


def _target(ep: Endpoint, port: BoundPort) -> Address | None:
    address = ep.address if port.host_ip.version == 4 else ep.address_ipv6
    return address.ip if address else None
