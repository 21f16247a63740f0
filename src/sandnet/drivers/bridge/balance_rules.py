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

A flow that cannot be learned because the table is full goes to the holder from its first packet, and so do all
that follow. ``update`` in a rule leaves the value of an element that exists, hence ``delete`` before it.

Three traps of libnftables 1.0.6. A named map cannot be keyed by a hash, which is an ``integer``: ``meta length``
is one too and may stand in ``typeof``. The key of a map that a rule writes to must fit 16 bytes, or the library
aborts the process: hence hashes for IPv6, 64 bits over both addresses beside the exact ports. And a hash without a
seed gets another one in each rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.drivers.bridge.balance import BRIDGE, BUCKETS, SLOTS
from sandnet.kernel.links import bridge_mac
from sandnet.model import Affinity, Network

_MAX_FLOWS: Final = 1 << 18
"""Learned flows of one protocol and family, about 150 bytes each."""
_SEED: Final = "0x736e6574"
_ALL_BITS: Final = 4294967295
_TCP_IDLE: Final = "124m"
"""RFC 5382, REQ-5: no established connection is forgotten before two hours and four minutes."""
_IDLE: Final = "5m"
"""RFC 4787, REQ-5: the recommended time for UDP; SCTP sends heartbeats every 30 s (RFC 9260, 16)."""
_CLOSING: Final = "2m"
_OPENING: Final = "1m"


def _hash(of: str, modulus: int, seed: str = _SEED) -> str:
    return f"jhash {of} mod {modulus} seed {seed}"


def _both(addresses: str) -> str:
    return f"{_hash(addresses, _ALL_BITS)} . {_hash(addresses, _ALL_BITS, '0x62616c21')}"


class _Family:
    """How one IP version spells it."""

    def __init__(self, version: int) -> None:
        ip = "ip" if version == 4 else "ip6"
        self.version = version
        self.source, self.target = f"{ip} saddr", f"{ip} daddr"
        if version == 4:
            self.flow = "ip saddr . th sport . ip daddr . th dport"
            self.reverse = "ip daddr . th dport . ip saddr . th sport"
            self.flow_type = "type ipv4_addr . inet_service . ipv4_addr . inet_service : ether_addr"
            self.fragment = "ip frag-off & 0x3fff != 0"
            self.other = "icmp type != echo-request"
        else:
            self.flow = f"{_both('ip6 saddr . ip6 daddr')} . th sport . th dport"
            self.reverse = f"{_both('ip6 daddr . ip6 saddr')} . th dport . th sport"
            self.flow_type = "typeof meta length . meta length . th sport . th dport : ether daddr"
            self.fragment = "exthdr frag exists"
            self.other = "icmpv6 type != echo-request"

    def learned(self, flows: str) -> str:
        """Matches a flow of the map whose backend is live, and sends it there."""
        known = f"ether daddr set {self.flow} map @{flows}{self.version}"
        return f"{known} {self.target} . ether daddr @live{self.version}"

    def bucket(self, of: str) -> str:
        """Sends to the backend that takes a bucket."""
        return f"ether daddr set {self.target} . {_hash(of, BUCKETS)} map @buckets{self.version}"

    def write(self, verb: str, flows: str, timeout: str = "") -> str:
        """Learns, refreshes or forgets the flow."""
        lasting = f" timeout {timeout}" if timeout else ""
        return f"{verb} @{flows}{self.version} {{ {self.flow}{lasting} : ether daddr }}"

    def expect(self) -> tuple[str, str]:
        """The two rules that remember whose answers are to bear the service's address."""
        peer, answer = f"{self.source} . ether daddr", f"{self.source} . th sport . ether daddr . th dport"
        return (
            f"update @udp_peers{self.version} {{ {peer} }}",
            f"update @udp_answers{self.version} {{ {answer} }}",
        )

    def answers(self) -> tuple[str, str]:
        """The two rules that make an answer come from the service's address."""
        right = f"{self.source} set {self.source} map @services_of{self.version}"
        return (
            f"{self.fragment} {self.target} . ether saddr @udp_peers{self.version} {right} return",
            f"meta l4proto udp {self.target} . th dport . ether saddr . th sport @udp_answers{self.version} {right}",
        )

    def opened(self, flows: str, timeout: str, after: str, full: str) -> dict[str, tuple[str, ...]]:
        """The chains, but for what goes before, that send a new flow by its bucket and learn it.

        Args:
            flows: the map that learns it.
            timeout: how long it is known when nothing follows; empty: as long as others.
            after: what is done next.
            full: what is done when it cannot be learned.
        """
        learn = f"{self.write('update', flows, timeout)} {after}"
        by_flow = self.bucket(f"{self.source} . th sport . th dport")
        return {
            "flow": (
                f"{self.target} @clients{self.version} goto {flows}_client{self.version}",
                f"{by_flow} {learn}",
                full,
            ),
            "client": (f"{self.bucket(self.source)} {learn}", full),
        }


def _opening(family: _Family) -> dict[str, tuple[str, ...]]:
    """Chains for what opens a flow: learned anew, whatever was known of it."""
    version, holder = family.version, f"ether daddr set {family.target} map @holders{family.version}"
    expect = f"goto udp_expect{version}"
    tcp = family.opened("tcp_flows", _OPENING, "accept", holder)
    udp = family.opened("udp_flows", "", expect, expect)
    sctp = family.opened("sctp_flows", "", "accept", holder)
    return {
        "tcp_open": (family.write("delete", "tcp_flows"), family.write("delete", "closing_flows"), *tcp["flow"]),
        "tcp_flows_client": tcp["client"],
        "udp_open": (family.write("delete", "udp_flows"), *udp["flow"]),
        "udp_flows_client": udp["client"],
        "sctp_open": (family.write("delete", "sctp_flows"), *sctp["flow"]),
        "sctp_flows_client": sctp["client"],
    }


def _chains(family: _Family) -> dict[str, tuple[str, ...]]:
    version, holder = family.version, f"ether daddr set {family.target} map @holders{family.version}"
    protocols = ", ".join(f"{name} : goto {name}{version}" for name in ("tcp", "udp", "sctp"))
    return _opening(family) | {
        "source": (family.bucket(family.source), f"meta l4proto udp goto udp_expect{version}"),
        "udp_expect": family.expect(),
        "reply": family.answers(),
        "tcp_known": (
            # the last acknowledgements must find the flow, yet not keep it for hours
            f"tcp flags & (fin | rst) != 0 {family.write('update', 'closing_flows')} "
            f"{family.write('delete', 'tcp_flows')} accept",
            family.write("update", "tcp_flows"),
        ),
        "tcp": (
            f"tcp flags & (fin | syn | rst | ack) == syn goto tcp_open{version}",
            f"{family.learned('tcp_flows')} goto tcp_known{version}",
            # one side may close long before the other: what goes on is remembered as long as it does
            f"{family.learned('closing_flows')} {family.write('update', 'closing_flows')} accept",
            holder,
        ),
        "udp_known": (family.write("update", "udp_flows"), f"goto udp_expect{version}"),
        "udp": (f"{family.learned('udp_flows')} goto udp_known{version}", f"goto udp_open{version}"),
        "sctp_known": (family.write("update", "sctp_flows"),),
        "sctp": (
            f"@th,96,8 1 goto sctp_open{version}",  # the first chunk is INIT
            f"{family.learned('sctp_flows')} goto sctp_known{version}",
            holder,
        ),
        "service": (
            # what the host is to route is none of our business, whatever its address
            "ether daddr @routers accept",
            f"{family.fragment} goto source{version}",
            f"meta l4proto vmap {{ {protocols} }}",
            f"{family.other} accept",
            f"goto source{version}",
        ),
    }


_FLOWS: Final = {"tcp_flows": _TCP_IDLE, "closing_flows": _CLOSING, "udp_flows": _IDLE, "sctp_flows": _IDLE}
_FAMILIES: Final = (_Family(4), _Family(6))
_BASE: Final = "prerouting"
_SENT: Final = "udp_sent"
_GATES: Final = (
    f"meta l4proto udp jump {_SENT}",
    *(f"{family.target} @services{family.version} goto service{family.version}" for family in _FAMILIES),
)
"""What every frame on every bridge of the host passes: for all but datagrams it is one look-up."""


def bridge_ruleset() -> str:
    """The whole table but for its elements: made, or brought to this state without losing a learned flow.

    Raises nothing, but the kernel refuses it where a table of another version has a set of another shape.
    """
    lines = [f"add table {BRIDGE}", f"add set {BRIDGE} routers {{ type ether_addr; }}", f"flush set {BRIDGE} routers"]
    for family in _FAMILIES:
        lines += _objects(family)
    # before br_netfilter (0), which may do the work of the inet table in the midst of this hook
    hook = "{ type filter hook prerouting priority dstnat; policy accept; }"
    lines += [f"add chain {BRIDGE} {_BASE} {hook}", f"flush chain {BRIDGE} {_BASE}"]
    for family in _FAMILIES:
        chains = {f"{name}{family.version}": rules for name, rules in _chains(family).items()}
        lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in chains]
        lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in chains.items() for rule in rules]
    lines += [f"add chain {BRIDGE} {_SENT}", f"flush chain {BRIDGE} {_SENT}"]
    lines += [f"add rule {BRIDGE} {_SENT} {rule}" for family in _FAMILIES for rule in _sent(family)]
    lines += [f"add rule {BRIDGE} {_BASE} {rule}" for rule in _GATES]
    return "\n".join(lines) + "\n"


def _sent(family: _Family) -> tuple[str, ...]:
    """Rules for datagrams by who sent them: a service's address, or a backend's own."""
    version = family.version
    learned = f"update @udp_flows{version} {{ {family.reverse} : ether saddr }}"
    return (
        f"{family.source} @services{version} {learned}",
        f"{family.source} @secondaries{version} jump reply{version}",
    )


def _objects(family: _Family) -> list[str]:
    version, address = family.version, family.target
    shapes = {
        f"set {BRIDGE} services{version}": f"typeof {address};",
        f"set {BRIDGE} clients{version}": f"typeof {address};",
        f"set {BRIDGE} secondaries{version}": f"typeof {address};",
        f"map {BRIDGE} services_of{version}": f"typeof {address} : {address};",
        f"set {BRIDGE} live{version}": f"typeof {address} . ether daddr;",
        f"map {BRIDGE} holders{version}": f"typeof {address} : ether daddr;",
        f"map {BRIDGE} buckets{version}": f"typeof {address} . meta length : ether daddr;",
    }
    bounds = f"flags dynamic,timeout; size {_MAX_FLOWS};"
    flows = {
        f"map {BRIDGE} {name}{version}": f"{family.flow_type}; {bounds} timeout {idle};"
        for name, idle in _FLOWS.items()
    }
    answered = {
        "udp_peers": f"{address} . ether daddr",
        "udp_answers": f"{address} . th sport . ether daddr . th dport",
    }
    flows |= {
        f"set {BRIDGE} {name}{version}": f"typeof {key}; {bounds} timeout {_IDLE};" for name, key in answered.items()
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
    mac = bridge_mac(net.link)
    yield f"add element {BRIDGE} routers {{ {mac} }}"
    if not add:
        yield f"delete element {BRIDGE} routers {{ {mac} }}"


def inet_maps() -> str:
    """The maps of the inet table, one for each way to come and each affinity."""
    lines = []
    for affinity in Affinity:
        for ip, version in (("ip", 4), ("ip6", 6)):
            port, target = "meta l4proto . th dport . meta length", f"{ip} daddr . th dport"
            lines += [
                f"  map any{version}_{affinity} {{ typeof {port} : {target}; }}",
                f"  map one{version}_{affinity} {{ typeof {ip} daddr . {port} : {target}; }}",
                f"  map own{version}_{affinity} {{ typeof {ip} daddr . meta length : {ip} daddr; }}",
            ]
    return "\n".join(lines) + "\n"


def _slots(ip: str, affinity: Affinity) -> str:
    source = f"{ip} saddr" if affinity is Affinity.CLIENT else f"{ip} saddr . th sport"
    return _hash(source, SLOTS)


def inet_published() -> str:
    """Rules that translate what comes to a published port of the host."""
    lines = []
    for affinity in Affinity:
        for ip, version in (("ip", 4), ("ip6", 6)):
            key = f"meta l4proto . th dport . {_slots(ip, affinity)}"
            beside_loopback = "" if version == 4 else "ip6 daddr != ::1 "
            lines += [
                f"    dnat {ip} to {ip} daddr . {key} map @one{version}_{affinity}",
                f"    {beside_loopback}dnat {ip} to {key} map @any{version}_{affinity}",
            ]
    return "\n".join(lines) + "\n"


def inet_own() -> str:
    """Rules that translate what the host itself sends to a service's address."""
    lines = [
        f"    dnat {ip} to {ip} daddr . {_slots(ip, affinity)} map @own{version}_{affinity}"
        for affinity in Affinity
        for ip, version in (("ip", 4), ("ip6", 6))
    ]
    return "\n".join(lines) + "\n"
