"""Anti-spoofing rules: constant rules, and elements for each port, as pure functions from records.

A frame that enters by a port of a protected network passes when its Ethernet source and its IP source are a pair of
the port's attachment. This takes one lookup. Other frames pass slower rules:

- ARP may announce only the port's own MAC and address, in a request, an answer or unsolicited; a probe
  (RFC 5227, 2.1.1) may be only for the own address.
- In neighbour discovery (RFC 4861) the target of an advertisement and the link-layer options must be the port's own,
  and no extension header may hide them (RFC 6980); duplicate address detection is for own addresses.
- Router advertisements, redirects and packets to a DHCP client's port may come from no sandbox. The same is true of
  what only routers and multicast queriers send (IGMP and MLD queries, RFC 4286, PIM): switches that believe it send
  groups another way.
- In fragments and behind extension headers, the message itself must be visible in the first fragment. An
  authentication header (RFC 4302), behind which no rule can look, may carry none of these protocols.
- No other kind of frame passes: no VLAN tag (the library's ``ether type`` matches it; ``meta protocol`` would match
  what is inside), no PPPoE, no control frames of bridges.

A backend that is not the holder may send from its service's address, but may not claim it: not as the sender of ARP,
nor in a probe, nor as the source or the target of a message of neighbour discovery.

``icmpv6 taddr`` is unknown to libnftables 1.0.6, and raw payload has a type of its own. So the addresses that
neighbour discovery claims are stored as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sandnet.firewall import overlay_rules
from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.balancing.service_rules import GUARD
from sandnet.firewall.ruleset.elements import BRIDGE, Element, bridge_set, inet_set
from sandnet.kernel.nft_types import host_number, join_parts, link_name, mac_address
from sandnet.kernel.types import Value
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.link_names import PORT_PREFIX, link_local
from sandnet.model.name_server import gateway_socket
from sandnet.model.network import dns_gateways

PortElements = dict[Element, Value]
"""The set elements of one port, and the network that it belongs to."""

_SETS: Final = {
    "guarded": "iifname",
    "sources4": "iifname . ether saddr . ip saddr",
    "sources6": "iifname . ether saddr . ip6 saddr",
    "unclaimed4": "iifname . ip saddr",
    "macs6": "iifname . @ll,48,48",
    "claims6": "iifname . @th,64,128",
    "snooped": "iifname",
}
"""The sets, and the expressions that give the parts of their keys their types."""
_PORTS: Final = "ports"
"""The map of a network's ports; load balancing uses it as well, with anti-spoofing and without."""
_OWN_SENDER: Final = (
    "iifname . ether saddr . arp saddr ip @sources4 iifname . arp saddr ether . arp saddr ip @sources4 return"
)
_OWN_PROBE: Final = (
    "arp operation request arp saddr ip 0.0.0.0 "
    "iifname . ether saddr . arp daddr ip @sources4 iifname . arp saddr ether . arp daddr ip @sources4 return"
)
_DETECTION: Final = "ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @claims6"


def _without_or_with_mac(bits: int, option: str) -> tuple[str, ...]:
    """Return the rules for a message of neighbour discovery without options, or with one that contains the own MAC.

    Args:
        bits: length of the message without options.
        option: type and length of the option, as its two bytes.
    """
    size = bits // 8
    mac = f"iifname . @th,{bits + 16},48 @macs6"
    return f"ip6 length {size} return", f"ip6 length {size + 8} @th,{bits},16 {option} {mac} return", "drop"


_HIDDEN: Final = "frag frag-off != 0 return"
"""Only the first fragment contains the protocol's header; further ones pass."""
_CHAINS: Final = {
    "guard_ah": ("@th,0,8 { 0, 2, 43, 44, 51, 58, 60, 103, 135 } drop",),
    # few rules for what is frequent: each costs time, whether it matches or not
    "guard_udp4": ("udp dport 68 drop",),
    "guard_ip4": (
        "meta l4proto tcp return",
        "meta l4proto udp goto guard_udp4",
        "igmp type != { membership-report-v1, membership-report-v2, membership-report-v3 } drop",
        "meta l4proto 103 drop",
        "meta l4proto ah goto guard_ah",
    ),
    "guard_router": _without_or_with_mac(64, "0x0101"),
    "guard_solicit": _without_or_with_mac(192, "0x0101"),
    "guard_advert": ("iifname . @th,64,128 != @claims6 drop", *_without_or_with_mac(192, "0x0201")),
    "guard_discovery": (
        "ip6 nexthdr != icmpv6 drop",
        "iifname . @nh,64,128 != @claims6 drop",
        "icmpv6 type vmap { nd-router-solicit : goto guard_router, nd-neighbor-solicit : goto guard_solicit, "
        "nd-neighbor-advert : goto guard_advert }",
        "drop",
    ),
    "guard_icmp6": (
        "icmpv6 type { 133-137 } goto guard_discovery",
        "icmpv6 type { mld-listener-query, mld-listener-done, 151-153 } drop",
        "icmpv6 type >= 0 return",
        _HIDDEN,
        "drop",
    ),
    "guard_udp6": ("udp dport 546 drop", "udp dport >= 0 return", _HIDDEN, "drop"),
    "guard_ip6": (
        "meta l4proto tcp return",
        "meta l4proto vmap { icmpv6 : goto guard_icmp6, udp : goto guard_udp6, ah : goto guard_ah, 103 : drop }",
        "meta l4proto >= 0 return",
        # the headers do not end in this fragment
        "drop",
    ),
    "guard_arp": (
        "arp htype != 1 drop",
        "arp ptype != ip drop",
        "arp hlen != 6 drop",
        "arp plen != 4 drop",
        "arp operation != { request, reply } drop",
        "iifname . arp saddr ip @unclaimed4 drop",
        "arp saddr ip 0.0.0.0 iifname . arp daddr ip @unclaimed4 drop",
        _OWN_SENDER,
        _OWN_PROBE,
        "drop",
    ),
    "guard_unspecified": (
        "iifname . @ll,48,48 != @macs6 drop",
        "icmpv6 type { mld-listener-report, mld2-listener-report } return",
        f"{_DETECTION} ip6 length 24 return",
        # with a nonce, by which the sender recognizes its own solicitation (RFC 7527, 4.1)
        f"{_DETECTION} ip6 length 32 @th,192,16 0x0e01 return",
        "drop",
    ),
    # ports without anti-spoofing on a bridge of the user's, which may follow whatever queries come (mcast_snooping)
    "guard_snooped6": (
        "icmpv6 type { mld-listener-query, mld-listener-done, 151-153 } drop",
        "meta l4proto ah goto guard_ah",
        "meta l4proto 103 drop",
    ),
    "guard_snooped": (
        "ether type ip meta l4proto { 2, 51, 103 } goto guard_ip4",
        "ether type ip6 meta l4proto { 51, 58, 103 } goto guard_snooped6",
    ),
    "guard_other": (
        overlay_rules.FROM_PEERS,
        "ether type arp goto guard_arp",
        "ether type ip6 ip6 saddr :: goto guard_unspecified",
        "drop",
    ),
}
_CONTROL_CHAIN: Final = "guard_control"
_CONTROL_HOOK: Final = "type filter hook input priority -310; policy accept;"
_CONTROL: Final = f'ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 iifname "{PORT_PREFIX}*" drop'
"""Drop what a bridge hands to the port's own device (LACP), with any content."""
_BASE_CHAINS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    _CONTROL_CHAIN: (_CONTROL_HOOK, (_CONTROL, overlay_rules.FROM_PEERS)),
    **overlay_rules.BRIDGE_CHAINS,
}
"""Chains with a hook: that, and the rules."""
_GATES: Final = (
    "ether type ip iifname . ether saddr . ip saddr @sources4 goto guard_ip4",
    "ether type ip6 iifname . ether saddr . ip6 saddr @sources6 goto guard_ip6",
    "iifname @guarded goto guard_other",
    "iifname @snooped goto guard_snooped",
)


def ruleset() -> str:
    """Return the script for all of anti-spoofing in the existing bridge table, without elements."""
    lines = [f"add set {BRIDGE} {name} {{ typeof {key}; }}" for name, key in _SETS.items()]
    lines += [f"flush set {BRIDGE} {name}" for name in _SETS]
    lines += [f"add chain {BRIDGE} {name}" for name in _CHAINS]
    lines += [f"add chain {BRIDGE} {GUARD}"]
    lines += [f"add chain {BRIDGE} {name} {{ {hook} }}" for name, (hook, _) in _BASE_CHAINS.items()]
    chains = _CHAINS | {GUARD: _GATES} | {name: rules for name, (_, rules) in _BASE_CHAINS.items()}
    lines += [f"flush chain {BRIDGE} {name}" for name in chains]
    lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join(lines) + "\n"


def elements(net: Network, endpoint: Endpoint, attachment: Attachment) -> PortElements:
    """Return the set elements of an attachment."""
    if not attachment.host_link:
        return {}
    found = network_element(net, attachment.host_link)
    found |= _questions(net, attachment)
    if net.options.anti_spoofing:
        return found | {Element(bridge_set(name), key): b"" for name, key in _keys(endpoint, attachment)}
    if net.link_adopted:
        found[Element(bridge_set("snooped"), link_name(attachment.host_link))] = b""
    return found


def _questions(net: Network, attachment: Attachment) -> PortElements:
    """Return the elements that send a sandbox's questions at its gateway to its own sockets of the resolver."""
    link = link_name(net.link)
    return {
        Element(
            inet_set(f"askers{gateway.version}"), join_parts(link, own.ip.packed, gateway.ip.packed)
        ): gateway_socket(attachment.container_id, gateway.version).packed
        for gateway in dns_gateways(net, is_machine=attachment.tap is not None)
        for own in attachment.addresses
        if own.version == gateway.version
    }


def network_element(net: Network, port: str) -> PortElements:
    """Return the element for the network that a port belongs to; any program may have made the port."""
    return {Element(bridge_set(_PORTS), link_name(port)): host_number(network_number(net.id))}


def _keys(endpoint: Endpoint, attachment: Attachment) -> Iterator[tuple[str, bytes]]:
    port, mac = link_name(attachment.host_link), mac_address(attachment.mac)
    yield "guarded", port
    if attachment.address and endpoint.address:
        own, service = attachment.address.ip, endpoint.address.ip
        for address in {own, service}:
            yield "sources4", join_parts(port, mac, address.packed)
        if own != service and not attachment.holder:
            yield "unclaimed4", join_parts(port, service.packed)
    for further in attachment.additional_addresses:
        yield f"sources{further.version}", join_parts(port, mac, further.ip.packed)
        if further.version == 6:
            yield "claims6", join_parts(port, further.ip.packed)
    if attachment.address_ipv6 and endpoint.address_ipv6:
        yield "macs6", join_parts(port, mac)
        sources = {attachment.address_ipv6.ip, endpoint.address_ipv6.ip, link_local(attachment.mac)}
        for source in sources:
            yield "sources6", join_parts(port, mac, source.packed)
            if source != endpoint.address_ipv6.ip or attachment.holder or attachment.address_ipv6.ip == source:
                yield "claims6", join_parts(port, source.packed)
