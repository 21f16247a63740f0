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

from sandnet.firewall import flow_limits
from sandnet.firewall.balancing.inet_rules import inet_maps, inet_own, inet_published
from sandnet.firewall.base import NetworkState
from sandnet.firewall.flow_limits import Counted
from sandnet.firewall.ruleset import published_sources
from sandnet.firewall.ruleset.port_ranges import spans
from sandnet.kernel.types import PORTS, RETIRED
from sandnet.model import BoundPort, Endpoint, Network
from sandnet.model.link_names import PORT_PREFIX

TABLE = "inet sandnet"


class HostState(NamedTuple):
    """The content of the table besides networks."""

    elements: Sequence[tuple[str, str]] = ()
    """Elements of sets that belong to no network, each after the name of its set."""
    max_flows: int = 0
    """Limit of flows of a sandbox whose network sets none; 0: no limit."""


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
    ip daddr 127.0.0.0/8 iifname @bridges drop
    ip daddr 127.0.0.0/8 iifname @adopted drop
    # a packet has a port itself as its input when a bridge passes it up without its hooks (IEEE 802.1 groups), or
    # when the port was removed from its bridge: no rule of a bridge covers it
    iifname "{PORT_PREFIX}*" drop
    # two comparisons cost less than one lookup in a set
    iifgroup {PORTS} drop
    iifgroup {RETIRED} drop
    iifname @unguarded jump routed_back
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
    fib daddr type local jump published
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
    oifname @bridges drop
    goto limited
  }}
  chain limited {{
    iifname vmap @flow_limits
  }}
"""


def table(state: Sequence[NetworkState], host: HostState) -> str:
    """Return the script of the whole table; one transaction replaces any table of that name."""
    elements = [*host_elements(host.elements)]
    elements += [line for each in state for line in network_elements(each.network, host.max_flows, add=True)]
    endpoints = [each.endpoint for network in state for each in network.endpoints]
    elements += [line for endpoint in endpoints for line in endpoint_elements(endpoint, add=True)]
    counting = flow_limits.chains(limits(state, host))
    body = f"{SETS}{flow_limits.SETS}{published_sources.MAPS}{inet_maps()}{counting}{published_sources.CHAIN}{CHAINS}"
    return f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{body}}}\n" + "\n".join(elements) + "\n"


def no_table() -> str:
    """Return the script that deletes the table, whether it exists or not."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


def limits(state: Sequence[NetworkState], host: HostState) -> set[Counted]:
    """Return the ways in which flows are counted, each with chains in the table. The default one is always there."""
    usual = {(host.max_flows, True)} if host.max_flows else set()
    return usual | {how for each in state if (how := flow_limits.counted(each.network, host.max_flows))}


def network_elements(net: Network, max_flows: int, *, add: bool) -> Iterator[str]:
    """Yield the statements that add a network's elements to the ruleset, or delete them.

    Args:
        net: the network.
        max_flows: see :class:`HostState`.
        add: whether to add; false: to delete.
    """
    link = f'"{net.link}"'
    yield from _element("routed", link, add)
    if not net.options.firewall:
        return
    if limit := flow_limits.element(net, max_flows):
        yield from _element(flow_limits.LIMITS, limit[0], add, limit[1])
    yield from _outbound(net, link, add)
    yield from _element("adopted" if net.link_adopted else "bridges", link, add)
    if not net.link_adopted:
        if not net.options.anti_spoofing:
            yield from _element("unguarded", link, add)
        yield from _host_access(net, link, add)
    if net.options.icc:
        yield from _element("within", f"{link} . {link}", add)
        if not net.link_adopted:
            yield from _element("bridged", f"{link} . {link}", add, _BRIDGED[net.options.internal])
    if net.options.internal:
        yield from _element("internal", link, add)


def _outbound(net: Network, link: str, add: bool) -> Iterator[str]:
    if not net.options.masquerade or net.options.internal:
        return
    for family, egress in (4, net.options.egress_ipv4), (6, net.options.egress_ipv6):
        if egress:
            yield from _element(f"egress{family}", link, add, str(egress))
    if not net.link_adopted:
        yield from _element("outbound", link, add)
        return
    for subnet in filter(None, (net.ipv4, net.ipv6)):
        yield from _element(f"adopted{subnet.prefix.version}", f"{link} . {subnet.prefix}", add)


def _host_access(net: Network, link: str, add: bool) -> Iterator[str]:
    allowed = net.options.host_access or ()
    if allowed is True:
        return
    yield from _element("closed", link, add)
    for port in allowed:
        yield from _element("opened", f"{link} . {port.proto} . {port.port}", add)


def host_elements(of_host: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the statements that add elements of no network."""
    for name, key in of_host:
        yield from _element(name, key, add=True)


def endpoint_elements(ep: Endpoint, *, add: bool) -> Iterator[str]:
    """Yield the statements that publish an endpoint's ports, or withdraw them."""
    runs, alone = spans(ep.ports)
    for port in alone:
        yield from _port_element(ep, port, add)
    for span in runs:
        yield from _span_element(ep, span, add)
    for address in (ep.address, ep.address_ipv6):
        for source in published_sources.sources(address.ip, alone) if address else ():
            yield from _element(source.map, source.key, add, source.value)
    if ep.ports and ep.address:
        yield from _element("self4", f"{ep.address.ip} . {ep.address.ip}", add)
    if ep.ports and ep.address_ipv6:
        yield from _element("self6", f"{ep.address_ipv6.ip} . {ep.address_ipv6.ip}", add)


def _span_element(ep: Endpoint, span: Sequence[BoundPort], add: bool) -> Iterator[str]:
    first, last = span[0], span[-1]
    family = first.host_ip.version
    target = ep.address if family == 4 else ep.address_ipv6
    if target is None:
        return
    key = f"{first.proto} . {first.host_port}-{last.host_port}"
    if first.host_ip.is_unspecified:
        yield from _element(f"span{family}", key, add, str(target.ip))
    else:
        yield from _element(f"one_span{family}", f"{first.host_ip} . {key}", add, str(target.ip))


def _port_element(ep: Endpoint, port: BoundPort, add: bool) -> Iterator[str]:
    family = port.host_ip.version
    target = ep.address if family == 4 else ep.address_ipv6
    if target is None:
        return
    key = f"{port.proto} . {port.host_port}"
    to = f"{target.ip} . {port.port}"
    if port.host_ip.is_unspecified:
        yield from _element(f"any{family}", key, add, to)
    else:
        yield from _element(f"one{family}", f"{port.host_ip} . {key}", add, to)


def _element(name: str, key: str, add: bool, to: str = "") -> Iterator[str]:
    """Yield the statements to add or delete an element.

    A deletion adds it first: nft 1.0.6 cannot delete an element that may be absent, and adding an existing one is no
    error.
    """
    value = f"{key} : {to}" if to else key
    yield f"add element {TABLE} {name} {{ {value} }}"
    if not add:
        yield f"delete element {TABLE} {name} {{ {value} }}"
