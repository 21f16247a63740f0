"""The rules of services with several backends: text that never changes, over the elements of ``balance``.

On the bridge (table ``bridge sandnet``) a frame to a service is sent to a backend by its destination MAC:

- what opens a flow (TCP SYN, SCTP INIT, a first datagram) goes by the buckets, and the flow is learned;
- what belongs to a learned flow goes where that went, if its backend is still among the service's ``live`` ones;
- a TCP or SCTP flow that is not known goes to the holder of the address: it began when that was alone, or could
  not be learned, or its backend is gone and somebody must say so (RST);
- fragments and pings, which have no ports, go by the client's address.

Two things are peculiar to UDP. A program that listens on every address answers from the interface's own address and
not from the one it was asked at; where that was a service's, the source is set right on the bridge (``reply``). And
who has the service's address on its interface may itself be a client: what it sends is learned, so that the answer
does not go by the buckets.

Every key has the network's number in it, which stands in the frame's mark while the rules look at it: the map ``ports``
says to which network a port belongs, and what comes by any other port is left alone. (``meta ibrname`` would name the
bridge, and is not in every kernel.) The hashes of addresses have the number, too.

No port takes the room of others: ``flow_learning`` says how many flows one port holds. TCP and SCTP flows beyond, and
those that find the map full, are kept together by their buckets in ``spill``: one place for each port, service and
bucket, so no other port can take it. Datagrams beyond go by the buckets and are not learned; whose answers must be set
right stands in ``udp_askers``, by network and hash.

Who speaks first, as a client of others, is remembered as said above, in ``said_flows``, which the backend alone
refreshes; a drained backend only where it is the holder, which has no other address, and speaks like a client: from a
high port to a low one. A client's answer makes it a learned flow of the client's.

``update`` in a rule leaves the value of an element that exists, hence ``delete`` before it.

Three traps of libnftables 1.0.6. A named map cannot be keyed by a hash, which is an ``integer``: ``meta length``
is one too and may stand in ``typeof``. The key of a map that a rule writes to must fit 16 bytes, or the library
aborts the process: hence hashes for IPv6, 64 bits over both addresses beside the exact ports. And a hash without a
seed gets another one in each rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.firewall.balancing.flow_learning import (
    CLOSING,
    FLOWS,
    FULL,
    IDLE,
    OPENING,
    PARTS,
    PLACES,
    ROOMS,
    SAID,
    USUAL,
    Family,
    Room,
)
from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.kernel.types import PORTS
from sandnet.model import Network
from sandnet.model.link_names import bridge_mac

_EPHEMERAL: Final = 32768
"""The first port that Linux gives a client by itself (``ip_local_port_range``)."""


def _opening(family: Family) -> dict[str, tuple[str, ...]]:
    """Chains for what opens a flow: learned anew, whatever was known of it."""
    version = family.version
    openings = (
        family.opened("tcp", OPENING, "return")
        | family.opened("udp", "", f"goto udp_expect{version}")
        | family.opened("sctp", "", "return")
    )
    for protocol, kept in {
        "tcp": ("tcp_flows", "closing_flows"),
        "udp": ("udp_flows",),
        "sctp": ("sctp_flows",),
    }.items():
        known = [each for flows in kept for each in family.known(flows)]
        # one whose place is free is new: no need to look it up
        openings[f"{protocol}_open"] = (
            f"{family.place(family.stages[0])} @{protocol}_places{version} goto {protocol}_seen{version}",
            f"goto {protocol}_flows_open{version}",
        )
        openings[f"{protocol}_seen"] = (
            *(f"{match} goto {protocol}_again{stage.suffix}{version}" for stage, match in known),
            f"goto {protocol}_flows_open{version}",
        )
    return openings


def _going_on(family: Family) -> dict[str, tuple[str, ...]]:
    """Chains for what belongs to a learned flow, which is refreshed."""
    version, chains = family.version, dict[str, tuple[str, ...]]()
    for stage in family.stages:
        closing = family.write("update", f"closing_flows{stage.suffix}")
        closed = f"{family.keep_place('tcp', stage, CLOSING)} {closing}"
        chains[f"tcp_known{stage.suffix}"] = (
            # the last acknowledgements must find the flow, yet not keep it for hours
            f"tcp flags & (fin | rst) != 0 {closed} {family.write('delete', f'tcp_flows{stage.suffix}')} return",
            family.keep("tcp", stage),
        )
        # one side may close long before the other: what goes on is remembered as long as it does
        chains[f"tcp_closing{stage.suffix}"] = (closed,)
        chains[f"udp_known{stage.suffix}"] = (family.keep("udp", stage), f"goto udp_expect{version}")
        chains[f"sctp_known{stage.suffix}"] = (family.keep("sctp", stage),)
    return chains


def _found(family: Family, flows: str, then: str) -> tuple[str, ...]:
    """Rules that look a flow up in both stages."""
    return tuple(
        f"{family.learned(f'{flows}{stage.suffix}')} goto {then}{stage.suffix}{family.version}"
        for stage in family.stages
    )


def _chains(family: Family) -> dict[str, tuple[str, ...]]:
    version, holder = family.version, family.holder()
    protocols = ", ".join(f"{name} : goto {name}{version}" for name in ("tcp", "udp", "sctp"))
    return (
        _opening(family)
        | _going_on(family)
        | _said(family)
        | {
            "source": (family.bucket(family.source), f"meta l4proto udp goto udp_parts{version}"),
            "udp_parts": (
                f"update @parts_room {{ iif limit rate over {PARTS} packets }} {family.expect_any()} return",
                f"goto udp_expect{version}",
            ),
            "udp_expect": family.expect(),
            "reply": family.answers(),
            "tcp": (
                f"tcp flags & (fin | syn | rst | ack) == syn goto tcp_open{version}",
                *_found(family, "tcp_flows", "tcp_known"),
                *_found(family, "closing_flows", "tcp_closing"),
                family.spilled("tcp_flows", "live"),
                holder,
            ),
            "udp": (
                *_found(family, "udp_flows", "udp_known"),
                f"{family.learned('said_flows')} goto udp_heard{version}",
                f"goto udp_open{version}",
            ),
            "sctp": (
                f"@th,96,8 1 goto sctp_open{version}",  # the first chunk is INIT
                *_found(family, "sctp_flows", "sctp_known"),
                family.spilled("sctp_flows", "live"),
                holder,
            ),
            "service": (
                # what the host is to route is none of our business, whatever its address
                "meta mark . ether daddr @routers return",
                f"{family.fragment} goto source{version}",
                f"meta l4proto vmap {{ {protocols} }}",
                f"{family.other} return",
                f"goto source{version}",
            ),
        }
    )


_KEPT_TOGETHER: Final = 1 << 18
"""The most of what is kept by its bucket: a place for each port, service and bucket; of answers: network and hash."""
_BASE: Final = "prerouting"
_NETWORK: Final = "network"
_SENT: Final = "udp_sent"
_GATE: Final = f"meta mark 0 meta mark set iifname map @ports goto {_NETWORK}"
"""What every frame on every bridge of the host passes: one look-up."""
_UNKNOWN: Final = f"meta mark 0 iifgroup {PORTS} drop"
"""A port of ours that the map does not know: one that was renamed on its bridge, so the guard does not know it either,
or one that a crash left behind."""


def _of_a_network(families: Sequence[Family]) -> tuple[str, ...]:
    """And what those of our networks pass; the mark is nobody's before and afterwards."""
    return (
        f"meta l4proto udp jump {_SENT}",
        *(f"{family.service} @services{family.version} jump service{family.version}" for family in families),
        "meta mark set 0",
    )


def bridge_ruleset(room: Room = USUAL) -> str:
    """The whole table but for its elements: made, or brought to this state without losing a learned flow.

    Raises nothing, but the kernel refuses it where a table of another version has a set of another shape.

    Args:
        room: how many flows are learned.
    """
    lines = [f"add table {BRIDGE}", *_shared_objects(room)]
    families = (Family(4, room), Family(6, room))
    for family in families:
        lines += _objects(family, room)
    # before br_netfilter (0), which may do the work of the inet table in the midst of this hook
    hook = "{ type filter hook prerouting priority dstnat; policy accept; }"
    lines += [f"add chain {BRIDGE} {_BASE} {hook}", f"flush chain {BRIDGE} {_BASE}"]
    for family in families:
        chains = {f"{name}{family.version}": rules for name, rules in _chains(family).items()}
        lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in chains]
        lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in chains.items() for rule in rules]
    shared = {_SENT: [rule for family in families for rule in _sent(family)], _NETWORK: _of_a_network(families)}
    lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in shared]
    lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in shared.items() for rule in rules]
    lines += [f"add rule {BRIDGE} {_BASE} {rule}" for rule in (_GATE, _UNKNOWN)]
    return "\n".join(lines) + "\n"


def _shared_objects(room: Room) -> list[str]:
    """Sets and maps that both families have in common."""
    shapes = {
        "map ports": "typeof iifname : meta mark;",
        "set routers": "typeof meta mark . ether daddr;",
        "set secret": "type ipv6_addr;",
    }
    rooms = {f"set {name}_room": "typeof iif; flags dynamic,timeout; size 65536; timeout 5m;" for name in ROOMS}
    full = {f"set {FULL}": f"typeof meta l4proto; flags dynamic,timeout; size 16; timeout {room.reported};"}
    made = [f"add {each.replace(' ', f' {BRIDGE} ')} {{ {shape} }}" for each, shape in (shapes | rooms | full).items()]
    return [*made, *(f"flush {each.replace(' ', f' {BRIDGE} ')}" for each in shapes)]


def _sent(family: Family) -> tuple[str, ...]:
    """Rules for datagrams by who sent them: a service's address, or a backend's own."""
    version = family.version
    return (
        f"{family.sender} @services{version} goto udp_said{version}",
        f"{family.sender} @secondaries{version} jump reply{version}",
    )


def _said(family: Family) -> dict[str, tuple[str, ...]]:
    """Chains for datagrams from a service's address: who sends them may be a client of somebody."""
    version, speaker = family.version, f"{family.sender} . ether saddr"
    like_a_client = f"th sport >= {_EPHEMERAL} th dport < {_EPHEMERAL}"
    return {
        "udp_said": (
            f"{speaker} @takers{version} goto udp_said_first{version}",
            f"{speaker} @speakers{version} {like_a_client} goto udp_said_first{version}",
        ),
        # the client's answer is learned in the client's own room, where there is some
        "udp_heard": (*family.find_place("udp"), f"goto udp_expect{version}"),
        "udp_said_first": (
            f"update @said_room {{ iif limit rate over {SAID} packets }} return",
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
    bounds, kept_together = (f"flags dynamic,timeout; size {size};" for size in (room.flows, _KEPT_TOGETHER))
    flow, kept = "meta length . meta length . th sport . th dport", "iif . meta length . meta length"
    suffixes = [stage.suffix for stage in family.stages]
    mapped = {f"{name}{suffix}": idle for name, idle in FLOWS.items() for suffix in suffixes}
    flows = {
        f"map {BRIDGE} {name}{version}": f"typeof {flow} : ether daddr; {bounds} timeout {idle};"
        for name, idle in (mapped | {"said_flows": IDLE}).items()
    }
    flows |= {
        f"map {BRIDGE} {name}_spill{version}": f"typeof {kept} : ether daddr; {kept_together} timeout {FLOWS[name]};"
        for name in ("tcp_flows", "sctp_flows")
    }
    flows |= {
        f"set {BRIDGE} {name}{suffix}{version}": f"typeof iif . meta length; {bounds} timeout {idle};"
        for name, idle in PLACES.items()
        for suffix in suffixes
    }
    answered = {
        "udp_peers": f"meta mark . {address} . ether daddr",
        "udp_answers": f"meta mark . {address} . th sport . ether daddr . th dport",
    }
    askers = f"typeof meta mark . meta length; {kept_together} timeout {IDLE};"
    flows[f"set {BRIDGE} udp_askers{version}"] = askers
    flows |= {
        f"set {BRIDGE} {name}{version}": f"typeof {key}; {bounds} timeout {IDLE};" for name, key in answered.items()
    }
    made = [f"add {name} {{ {shape} }}" for name, shape in (shapes | flows).items()]
    return [*made, *(f"flush {name}" for name in shapes)]


def no_bridge_table() -> str:
    """No table, whether there was one or not."""
    return f"add table {BRIDGE}\ndelete table {BRIDGE}\n"


def router(net: Network, *, add: bool) -> Iterator[str]:
    """The statements that make frames to a network's bridge itself pass, or forget it.

    Only of a bridge that we made: the MAC of another changes with its ports.
    """
    if net.link_adopted:
        return
    key = f"{network_number(net.id)} . {bridge_mac(net.link)}"
    yield f"add element {BRIDGE} routers {{ {key} }}"
    if not add:
        yield f"delete element {BRIDGE} routers {{ {key} }}"
