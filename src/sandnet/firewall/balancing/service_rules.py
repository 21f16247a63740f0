"""The rules of services with several backends: constant text, which uses the elements of ``service_elements``.

On the bridge (table ``bridge sandnet``) a frame to a service is sent to a backend by its destination MAC:

- The first packet of a flow (TCP SYN, SCTP INIT, a first datagram) is sent by the buckets, and the flow is learned.
- A packet of a learned flow is sent to the same backend, if that is still among the service's ``live`` ones.
- A TCP or SCTP flow that is not known is sent to the holder of the address: the flow began when the holder was the only
  backend, or it could not be learned, or its backend was removed and the client must get a reset (RST).
- Fragments and pings, which have no ports, are sent by the client's address.

Two rules are specific to UDP. A program that listens on every address answers from the interface's own address, not
from the one that the client used. If that was a service's, the bridge corrects the source (``reply``). And a backend
with the service's address on its interface may itself be a client: what it sends is learned, so that the answer is not
sent by the buckets.

The client's host sends a flow to its backend, wherever that is; the backend's host leaves the choice as it is. So what
belongs to UDP is done by the client's host as well: the map ``tunnels`` has the network of each VXLAN link, and
datagrams from there pass the rules for their sender only (``from_hosts``).

Every key contains the network's number. It is in the frame's mark while the rules run: the map ``ports`` has the
network of each port, and frames of any other port are left alone. (``meta ibrname`` would name the bridge, but not
every kernel has it.) The hashes of addresses include the number, too.

No port can use the capacity of others: ``flow_learning`` bounds how many flows one port holds. TCP and SCTP flows above
that, and those that find the map full, are kept together by their buckets in ``spill``: one place for each port,
service and bucket, so no other port can take it. Datagrams above it are sent by the buckets and are not learned; if
their answers need a correction, ``udp_askers`` has an entry for them, by network and hash.

A flow that a backend begins, as a client of others, is learned as described above in ``said_flows``, which only
this backend refreshes. A drained backend's flow is learned only if the backend is the holder, which has no other
address, and if it looks like a client's: from a high port to a low one. A client's answer makes it a learned flow of
the client.

``update`` in a rule does not change the value of an existing element, hence ``delete`` before it.

libnftables 1.0.6 has three traps. A named map cannot be keyed by a hash, which is an ``integer``: ``meta length``
is one too and is allowed in ``typeof``. The key of a map that a rule writes to must fit 16 bytes, or the library
aborts the process: hence hashes for IPv6, 64 bits over both addresses beside the exact ports. A key of IPv4 fits if
both ports are one part of it (``@th,0,32``). And a hash without a seed gets another one in each rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.firewall.balancing.flow_learning import (
    BACKEND_FLOW_RATE,
    CLOSING,
    DEFAULT_ROOM,
    FLOWS,
    FRAGMENT_RATE,
    FULL,
    HASHED_FLOW,
    IDLE,
    OPENING,
    PLACES,
    RATE_LIMITS,
    Family,
    Room,
)
from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.ruleset.elements import BRIDGE, Element, bridge_set
from sandnet.kernel.nft_types import host_number, join_parts, mac_address
from sandnet.kernel.types import PORTS, Value
from sandnet.model import Network
from sandnet.model.link_names import link_mac

_EPHEMERAL: Final = 32768
"""The first port that Linux assigns to a client (``ip_local_port_range``)."""


def _opening(family: Family) -> dict[str, tuple[str, ...]]:
    """Return the chains for the first packet of a flow: it is learned again, whatever was known of it."""
    version = family.version
    openings = (
        family.opened("tcp", OPENING, "return")
        | family.opened("udp", "", f"goto udp_expect{version}")
        | family.opened("sctp", "", "return")
    )
    for protocol in ("tcp", "udp", "sctp"):
        maps = {f"{protocol}_flows": f"{protocol}_again"}
        if protocol == "tcp":
            maps["closing_flows"] = "tcp_reopened"
        openings[f"{protocol}_open"] = (
            *((family.routed,) if protocol != "udp" else ()),
            # a flow whose place is free is new: no need to look it up
            f"{family.place(family.stages[0])} @{protocol}_places{version} goto {protocol}_seen{version}",
            f"goto {protocol}_flows_first{version}",
        )
        openings[f"{protocol}_seen"] = (
            *(
                f"{match} goto {then}{stage.suffix}{version}"
                for flows, then in maps.items()
                for stage, match in family.known(flows)
            ),
            f"goto {protocol}_flows_open{version}",
        )
    return openings


def _learned(family: Family) -> dict[str, tuple[str, ...]]:
    """Return the chains for packets of a learned flow, which is refreshed."""
    version, chains = family.version, dict[str, tuple[str, ...]]()
    for stage in family.stages:
        closing = family.write("update", f"closing_flows{stage.suffix}")
        closed = f"{family.keep_place('tcp', stage, CLOSING)} {closing}"
        chains[f"tcp_known{stage.suffix}"] = (
            f"tcp flags & (fin | rst) != 0 goto tcp_ended{stage.suffix}{version}",
            family.keep("tcp", stage),
        )
        chains[f"tcp_ended{stage.suffix}"] = (
            # nothing of the connection follows a reset: the flow stays in its map, for a short time
            f"tcp flags & rst != 0 {family.keep('tcp', stage, CLOSING)} return",
            # the last acknowledgements must find the flow, but must not keep it for hours
            f"{closed} {family.write('delete', f'tcp_flows{stage.suffix}')}",
        )
        # one side may close long before the other: the flow is kept as long as packets follow
        chains[f"tcp_closing{stage.suffix}"] = (closed,)
        chains[f"udp_known{stage.suffix}"] = (family.keep("udp", stage), f"goto udp_expect{version}")
        chains[f"sctp_known{stage.suffix}"] = (family.keep("sctp", stage),)
    return chains


def _found(family: Family, flows: str, then: str) -> tuple[str, ...]:
    """Return the rules that look a flow up in both stages."""
    return tuple(
        f"{family.learned(f'{flows}{stage.suffix}')} goto {then}{stage.suffix}{family.version}"
        for stage in family.stages
    )


def _chains(family: Family) -> dict[str, tuple[str, ...]]:
    version, holder = family.version, family.holder()
    return (
        _opening(family)
        | _learned(family)
        | _backend_flows(family)
        | {
            "source": (family.routed, family.bucket(family.source), f"meta l4proto udp goto udp_parts{version}"),
            "udp_parts": (
                f"update @parts_room {{ iif limit rate over {FRAGMENT_RATE} packets }} {family.expect_any()} return",
                f"goto udp_expect{version}",
            ),
            "udp_expect": family.expect(),
            "reply": family.answers(),
            "tcp": (
                f"tcp flags & (fin | syn | rst | ack) == syn goto tcp_open{version}",
                *_found(family, "tcp_flows", "tcp_known"),
                *_found(family, "closing_flows", "tcp_closing"),
                family.routed,
                family.spilled("tcp_flows", "live"),
                holder,
            ),
            "udp": (
                *_found(family, "udp_flows", "udp_known"),
                family.routed,
                f"{family.learned('said_flows', family.hashed_flow)} goto udp_heard{version}",
                f"goto udp_open{version}",
            ),
            "sctp": (
                f"@th,96,8 1 goto sctp_open{version}",  # the first chunk is INIT
                *_found(family, "sctp_flows", "sctp_known"),
                family.routed,
                family.spilled("sctp_flows", "live"),
                holder,
            ),
            "service": (
                f"{family.fragment} goto source{version}",
                # three comparisons cost less than one lookup in a map
                *(f"meta l4proto {name} goto {name}{version}" for name in ("tcp", "udp", "sctp")),
                f"{family.other} return",
                f"goto source{version}",
            ),
        }
    )


_KEPT_BY_BUCKET: Final = 1 << 18
"""Limit of entries kept by bucket: a place for each port, service and bucket; of answers: by network and hash."""
_COLLECTED: Final = "gc-interval 10s;"
"""Time between two walks of the kernel over all elements of a set, to free expired ones; usually it is a second.

libnftables 1.0.6 knows no such option for maps.
"""
_BASE: Final = "prerouting"
GUARD: Final = "guard"
"""The chain of anti-spoofing, which the base chain calls first: balancing learns only from frames that may be sent.

One base chain costs a frame less than two. Empty, where anti-spoofing has not filled it.
"""
_NETWORK: Final = "network"
_SENT: Final = "udp_sent"
_GATE: Final = f"meta mark 0 meta mark set iifname map @ports goto {_NETWORK}"
"""The rule that every frame on every bridge of the host passes: one lookup."""
_UNKNOWN: Final = f"meta mark 0 iifgroup {PORTS} drop"
"""The rule for a port of sandnet that the map does not contain.

The port was renamed on its bridge, so anti-spoofing does not cover it either, or a crash left it behind.
"""
_RECEIVED: Final = "from_hosts"
_FROM_HOSTS: Final = f"meta mark 0 meta l4proto udp meta mark set iifname map @tunnels goto {_RECEIVED}"
"""The rule for datagrams from other hosts. Frames of ports do not come this far."""


def _of_a_network(families: Sequence[Family]) -> tuple[str, ...]:
    """Return the rules for frames of our networks; no other program uses the mark, before or afterwards."""
    return (
        f"meta l4proto udp jump {_SENT}",
        *(f"{family.service} @services{family.version} jump service{family.version}" for family in families),
        "meta mark set 0",
    )


def bridge_ruleset(room: Room = DEFAULT_ROOM) -> str:
    """Return the script of the whole table without elements; applied to an existing table, it keeps learned flows.

    The kernel refuses it if a table of another version has a set of another type.

    Args:
        room: limits of learned flows.
    """
    families = (Family(4, room), Family(6, room))
    chains = {f"{name}{family.version}": rules for family in families for name, rules in _chains(family).items()}
    chains[_SENT] = tuple(rule for family in families for rule in _sent(family))
    chains[_NETWORK] = _of_a_network(families)
    chains[_RECEIVED] = (f"jump {_SENT}", "meta mark set 0")
    # before br_netfilter (0), which may run the inet table's hooks within this one
    hook = "{ type filter hook prerouting priority dstnat; policy accept; }"
    lines = [f"add table {BRIDGE}", f"add chain {BRIDGE} {_BASE} {hook}", f"flush chain {BRIDGE} {_BASE}"]
    # rules go first, as a map that they use cannot be deleted
    lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in chains]
    lines += _shared_objects(room)
    for family in families:
        lines += _objects(family, room)
    lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in chains.items() for rule in rules]
    lines += [f"add chain {BRIDGE} {GUARD}"]
    lines += [f"add rule {BRIDGE} {_BASE} {rule}" for rule in (f"jump {GUARD}", _GATE, _UNKNOWN, _FROM_HOSTS)]
    return "\n".join(lines) + "\n"


def _shared_objects(room: Room) -> list[str]:
    """Return the statements for sets and maps that both families have in common."""
    shapes = {
        "map ports": "typeof iifname : meta mark;",
        "map tunnels": "typeof iifname : meta mark;",
        "set routers": "typeof meta mark . ether daddr;",
        "set secret": "type ipv6_addr;",
    }
    rooms = {f"set {name}_room": "typeof iif; flags dynamic,timeout; size 65536; timeout 5m;" for name in RATE_LIMITS}
    full = {f"set {FULL}": f"typeof meta l4proto; flags dynamic,timeout; size 16; timeout {room.reported};"}
    made = [f"add {each.replace(' ', f' {BRIDGE} ')} {{ {shape} }}" for each, shape in (shapes | rooms | full).items()]
    return [*made, *(f"flush {each.replace(' ', f' {BRIDGE} ')}" for each in shapes)]


def _sent(family: Family) -> tuple[str, ...]:
    """Return the rules for datagrams by their sender: a service's address, or a backend's own."""
    version = family.version
    return (
        f"{family.sender} @services{version} goto udp_said{version}",
        f"{family.sender} @secondaries{version} jump reply{version}",
    )


def _backend_flows(family: Family) -> dict[str, tuple[str, ...]]:
    """Return the chains for datagrams from a service's address: their sender may be a client."""
    version, speaker = family.version, f"{family.sender} . ether saddr"
    like_a_client = f"th sport >= {_EPHEMERAL} th dport < {_EPHEMERAL}"
    return {
        "udp_said": (
            f"{speaker} @takers{version} goto udp_said_first{version}",
            f"{speaker} @speakers{version} {like_a_client} goto udp_said_first{version}",
        ),
        # the client's answer is learned within the client's own capacity, if there is some
        "udp_heard": (*family.find_place("udp"), f"goto udp_expect{version}"),
        "udp_said_first": (
            f"update @said_room {{ iif limit rate over {BACKEND_FLOW_RATE} packets }} return",
            f"update @said_flows{version} {{ {family.reverse} : ether saddr }}",
        ),
    }


def _objects(family: Family, room: Room) -> list[str]:
    version, address = family.version, family.target
    shapes = {
        f"set {BRIDGE} services{version}": f"typeof meta mark . {address};",
        f"set {BRIDGE} clients{version}": f"typeof meta mark . {address};",
        f"set {BRIDGE} secondaries{version}": f"typeof meta mark . {address};",
        f"map {BRIDGE} services_of{version}": f"typeof meta mark . {address} : {address};",
        f"map {BRIDGE} holders{version}": f"typeof meta mark . {address} : ether daddr;",
        f"map {BRIDGE} buckets{version}": f"typeof meta mark . {address} . meta length : ether daddr;",
    }
    shapes |= {
        f"set {BRIDGE} {name}{version}": f"typeof meta mark . {address} . ether daddr;"
        for name in ("live", "takers", "speakers")
    }
    bounds, kept_by_bucket = (f"flags dynamic,timeout; size {size};" for size in (room.flows, _KEPT_BY_BUCKET))
    kept = "iif . meta length . meta length"
    suffixes = [stage.suffix for stage in family.stages]
    mapped = {f"{name}{suffix}": idle for name, idle in FLOWS.items() for suffix in suffixes}
    flows = {
        f"map {BRIDGE} {name}{version}": f"typeof {family.flow_type} : ether daddr; {bounds} timeout {idle};"
        for name, idle in mapped.items()
    }
    flows[f"map {BRIDGE} said_flows{version}"] = f"typeof {HASHED_FLOW} : ether daddr; {bounds} timeout {IDLE};"
    flows |= {
        f"map {BRIDGE} {name}_spill{version}": f"typeof {kept} : ether daddr; {kept_by_bucket} timeout {FLOWS[name]};"
        for name in ("tcp_flows", "sctp_flows")
    }
    flows |= {
        f"set {BRIDGE} {name}{suffix}{version}": f"typeof iif . meta length; {bounds} {_COLLECTED} timeout {idle};"
        for name, idle in PLACES.items()
        for suffix in suffixes
    }
    answered = {
        "udp_peers": f"meta mark . {address} . ether daddr",
        "udp_answers": f"meta mark . {address} . th sport . ether daddr . th dport",
    }
    askers = f"typeof meta mark . meta length; {kept_by_bucket} {_COLLECTED} timeout {IDLE};"
    flows[f"set {BRIDGE} udp_askers{version}"] = askers
    flows |= {
        f"set {BRIDGE} {name}{version}": f"typeof {key}; {bounds} {_COLLECTED} timeout {IDLE};"
        for name, key in answered.items()
    }
    made = {name: f"add {name} {{ {shape} }}" for name, shape in (shapes | flows).items()}
    # Deleting a map costs the kernel little for each element, flushing it as much as adding it.
    buckets = f"map {BRIDGE} buckets{version}"
    return [
        *made.values(),
        f"delete {buckets}",
        made[buckets],
        *(f"flush {name}" for name in shapes if name != buckets),
    ]


def router(net: Network) -> Iterator[tuple[Element, Value]]:
    """Yield the element that lets frames to a network's bridge itself pass.

    Only for a bridge that sandnet made: the MAC of another changes with its ports.
    """
    if not net.link_adopted:
        key = join_parts(host_number(network_number(net.id)), mac_address(link_mac(net.link)))
        yield Element(bridge_set("routers"), key), b""
