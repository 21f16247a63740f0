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

No port takes the room of others. Each learns so many new flows in a second. TCP and SCTP flows beyond, and those that
find the map full, are kept together by their buckets in ``spill``: one place for each port, service and bucket, so
nobody else can take it. Datagrams beyond go by the buckets and are not learned; whose answers must be set right stands
in ``udp_askers``, by network and hash.

Who speaks first, as a client of others, is remembered as said above; a drained backend only where it is the holder,
which has no other address, and speaks like a client: from a high port to a low one.

``update`` in a rule leaves the value of an element that exists, hence ``delete`` before it.

Three traps of libnftables 1.0.6. A named map cannot be keyed by a hash, which is an ``integer``: ``meta length``
is one too and may stand in ``typeof``. The key of a map that a rule writes to must fit 16 bytes, or the library
aborts the process: hence hashes for IPv6, 64 bits over both addresses beside the exact ports. And a hash without a
seed gets another one in each rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandnet.drivers.bridge.balance import BRIDGE, BUCKETS, network_number
from sandnet.kernel.links import PORTS, bridge_mac
from sandnet.model import Network

_MAX_FLOWS: Final = 1 << 18
"""Learned flows of one protocol and family, about 150 bytes each."""
SEED: Final = "SEED-OF-BUCKETS"
"""Stands in the rules where the host's own random number goes; see :mod:`sandnet.drivers.bridge.seeds`."""
KEY_SEEDS: Final = ("SEED-OF-KEYS-1", "SEED-OF-KEYS-2")
_ROOMS: Final = {"tcp": "1000/second burst 32768", "udp": "400/second burst 16384", "sctp": "400/second burst 16384"}
"""New flows that one port may have learned. It bounds how fast a map fills, and not what one port holds in it: flows
that go on are refreshed without a limit."""
_SAID: Final = "100/second burst 4096"
"""The same of flows that a backend begins."""
_EPHEMERAL: Final = 32768
"""The first port that Linux gives a client by itself (``ip_local_port_range``)."""
_ASKERS: Final = 65536
_ALL_BITS: Final = 4294967295
_TCP_IDLE: Final = "124m"
"""RFC 5382, REQ-5: no established connection is forgotten before two hours and four minutes."""
FULL: Final = "full"
"""The set that has the protocols whose map of learned flows was found full, for five minutes each time."""
_IDLE: Final = "5m"
"""RFC 4787, REQ-5: the recommended time for UDP; SCTP sends heartbeats every 30 s (RFC 9260, 16)."""
_CLOSING: Final = "2m"
_OPENING: Final = "1m"


def hashed(of: str, modulus: int, seed: str = SEED) -> str:
    """An expression of nft that spreads what it is given over so many numbers."""
    return f"jhash {of} mod {modulus} seed {seed}"


def _both(source: str, target: str) -> str:
    """The network and both addresses, as 64 bits; the library has registers for no more than two addresses of IPv6."""
    ends, sender = f"{source} . {target}", f"meta mark . {source}"
    return f"{hashed(ends, _ALL_BITS, KEY_SEEDS[0])} . {hashed(sender, _ALL_BITS, KEY_SEEDS[1])}"


class _Family:
    """How one IP version spells it."""

    def __init__(self, version: int) -> None:
        ip = "ip" if version == 4 else "ip6"
        self.version = version
        self.source, self.target = f"{ip} saddr", f"{ip} daddr"
        self.service, self.sender = f"meta mark . {self.target}", f"meta mark . {self.source}"
        self.flow = f"{_both(self.source, self.target)} . th sport . th dport"
        self.reverse = f"{_both(self.target, self.source)} . th dport . th sport"
        self.place = f"iif . {hashed(self.service, _ALL_BITS)} . {hashed(f'{self.source} . th sport', BUCKETS)}"
        if version == 4:
            self.fragment = "ip frag-off & 0x3fff != 0"
            self.other = "icmp type != echo-request"
        else:
            self.fragment = "exthdr frag exists"
            self.other = "icmpv6 type != echo-request"

    def is_one_of(self, backends: str) -> str:
        """Matches when the frame goes to one of the service's backends: ``live`` or ``takers``."""
        return f"{self.service} . ether daddr @{backends}{self.version}"

    def learned(self, flows: str) -> str:
        """Matches a flow of the map whose backend is live, and sends it there."""
        return f"ether daddr set {self.flow} map @{flows}{self.version} {self.is_one_of('live')}"

    def spilled(self, flows: str, backends: str) -> str:
        """Sends what is kept by its bucket there, if that is one of these backends."""
        spill = f"{flows}_spill{self.version}"
        kept = f"update @{spill} {{ {self.place} : ether daddr }} return"
        return f"ether daddr set {self.place} map @{spill} {self.is_one_of(backends)} {kept}"

    def bucket(self, of: str) -> str:
        """Sends to the backend that takes a bucket."""
        return f"ether daddr set {self.service} . {hashed(of, BUCKETS)} map @buckets{self.version}"

    def write(self, verb: str, flows: str, timeout: str = "") -> str:
        """Learns, refreshes or forgets the flow."""
        lasting = f" timeout {timeout}" if timeout else ""
        return f"{verb} @{flows}{self.version} {{ {self.flow}{lasting} : ether daddr }}"

    def expect(self) -> tuple[str, ...]:
        """The rules that remember whose answers are to bear the service's address."""
        peer, answer = f"{self.sender} . ether daddr", f"{self.sender} . th sport . ether daddr . th dport"
        return (
            f"update @udp_peers{self.version} {{ {peer} }}",
            f"update @udp_answers{self.version} {{ {answer} }} return",
            *self.expect_any(),
        )

    def expect_any(self) -> tuple[str, ...]:
        """The rule that remembers the same where there is no room: by network and hash, so it has room always."""
        asker = hashed(f"{self.source} . th sport", _ASKERS, KEY_SEEDS[0])
        return (f"update @udp_askers{self.version} {{ meta mark . {asker} }}",)

    def answers(self) -> tuple[str, ...]:
        """The rules that make an answer come from the service's address."""
        right = f"{self.source} set {self.sender} map @services_of{self.version} return"
        asker = hashed(f"{self.target} . th dport", _ASKERS, KEY_SEEDS[0])
        return (
            f"{self.fragment} {self.service} . ether saddr @udp_peers{self.version} {right}",
            f"meta l4proto udp {self.service} . th dport . ether saddr . th sport @udp_answers{self.version} {right}",
            f"meta l4proto udp meta mark . {asker} @udp_askers{self.version} {right}",
        )

    def beyond(self, protocol: str, spill: str) -> str:
        """Sends new flows beyond a port's room elsewhere."""
        return f"update @{protocol}_room {{ iif limit rate over {_ROOMS[protocol]} packets }} goto {spill}"

    def opened(self, protocol: str, timeout: str, after: str) -> dict[str, tuple[str, ...]]:
        """The chains that send a new flow by its bucket and learn it, or keep it by its bucket where there is no room.

        Args:
            protocol: ``tcp``, ``udp`` or ``sctp``.
            timeout: how long it is known when nothing follows; empty: as long as others.
            after: what is done next.
        """
        flows, version = f"{protocol}_flows", self.version
        spill, full = f"{protocol}_spill{version}", f"{protocol}_full{version}"
        learn = f"{self.write('update', flows, timeout)} {after}"
        by_flow, by_client = self.bucket(f"{self.source} . th sport"), self.bucket(self.source)
        return {
            f"{flows}_open": (
                self.beyond(protocol, spill),
                f"{self.service} @clients{version} goto {flows}_client{version}",
                f"{by_flow} {learn}",
                f"goto {full}",
            ),
            f"{flows}_client": (f"{by_client} {learn}", f"goto {full}"),
            f"{protocol}_full": (f"update @{FULL} {{ meta l4proto }}", f"goto {spill}"),
            f"{protocol}_spill": self._spill(protocol, by_flow, by_client),
        }

    def _spill(self, protocol: str, by_flow: str, by_client: str) -> tuple[str, ...]:
        chosen = (by_flow, f"{self.service} @clients{self.version} {by_client}")
        if protocol == "udp":
            return (*chosen, *self.expect_any())
        place = f"@{protocol}_flows_spill{self.version} {{ {self.place}"
        return (
            self.spilled(f"{protocol}_flows", "takers"),
            f"delete {place} : ether daddr }}",
            *chosen,
            f"update {place} : ether daddr }} return",
            self.holder(),
        )

    def holder(self) -> str:
        """Sends to the holder of the address."""
        return f"ether daddr set {self.service} map @holders{self.version}"


def _opening(family: _Family) -> dict[str, tuple[str, ...]]:
    """Chains for what opens a flow: learned anew, whatever was known of it."""
    version = family.version
    forget = {
        "tcp_open": (family.write("delete", "tcp_flows"), family.write("delete", "closing_flows")),
        "udp_open": (family.write("delete", "udp_flows"),),
        "sctp_open": (family.write("delete", "sctp_flows"),),
    }
    openings = (
        family.opened("tcp", _OPENING, "return")
        | family.opened("udp", "", f"goto udp_expect{version}")
        | family.opened("sctp", "", "return")
    )
    return openings | {
        name: (*rules, f"goto {name.removesuffix('_open')}_flows_open{version}") for name, rules in forget.items()
    }


def _chains(family: _Family) -> dict[str, tuple[str, ...]]:
    version, holder = family.version, family.holder()
    protocols = ", ".join(f"{name} : goto {name}{version}" for name in ("tcp", "udp", "sctp"))
    return (
        _opening(family)
        | _said(family)
        | {
            "source": (family.bucket(family.source), f"meta l4proto udp goto udp_expect{version}"),
            "udp_expect": family.expect(),
            "reply": family.answers(),
            "tcp_known": (
                # the last acknowledgements must find the flow, yet not keep it for hours
                f"tcp flags & (fin | rst) != 0 {family.write('update', 'closing_flows')} "
                f"{family.write('delete', 'tcp_flows')} return",
                family.write("update", "tcp_flows"),
            ),
            "tcp": (
                f"tcp flags & (fin | syn | rst | ack) == syn goto tcp_open{version}",
                f"{family.learned('tcp_flows')} goto tcp_known{version}",
                # one side may close long before the other: what goes on is remembered as long as it does
                f"{family.learned('closing_flows')} {family.write('update', 'closing_flows')} return",
                family.spilled("tcp_flows", "live"),
                holder,
            ),
            "udp_known": (family.write("update", "udp_flows"), f"goto udp_expect{version}"),
            "udp": (f"{family.learned('udp_flows')} goto udp_known{version}", f"goto udp_open{version}"),
            "sctp_known": (family.write("update", "sctp_flows"),),
            "sctp": (
                f"@th,96,8 1 goto sctp_open{version}",  # the first chunk is INIT
                f"{family.learned('sctp_flows')} goto sctp_known{version}",
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


_FLOWS: Final = {"tcp_flows": _TCP_IDLE, "closing_flows": _CLOSING, "udp_flows": _IDLE, "sctp_flows": _IDLE}
_FAMILIES: Final = (_Family(4), _Family(6))
_BASE: Final = "prerouting"
_NETWORK: Final = "network"
_SENT: Final = "udp_sent"
_GATE: Final = f"meta mark 0 meta mark set iifname map @ports goto {_NETWORK}"
"""What every frame on every bridge of the host passes: one look-up."""
_UNKNOWN: Final = f"meta mark 0 iifgroup {PORTS} drop"
"""A port of ours that the map does not know: one that was renamed on its bridge, so the guard does not know it either,
or one that a crash left behind."""
_OF_A_NETWORK: Final = (
    f"meta l4proto udp jump {_SENT}",
    *(f"{family.service} @services{family.version} jump service{family.version}" for family in _FAMILIES),
    "meta mark set 0",
)
"""And what those of our networks pass; the mark is nobody's before and afterwards."""


def bridge_ruleset() -> str:
    """The whole table but for its elements: made, or brought to this state without losing a learned flow.

    Raises nothing, but the kernel refuses it where a table of another version has a set of another shape.
    """
    lines = [f"add table {BRIDGE}", *_shared_objects()]
    for family in _FAMILIES:
        lines += _objects(family)
    # before br_netfilter (0), which may do the work of the inet table in the midst of this hook
    hook = "{ type filter hook prerouting priority dstnat; policy accept; }"
    lines += [f"add chain {BRIDGE} {_BASE} {hook}", f"flush chain {BRIDGE} {_BASE}"]
    for family in _FAMILIES:
        chains = {f"{name}{family.version}": rules for name, rules in _chains(family).items()}
        lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in chains]
        lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in chains.items() for rule in rules]
    shared = {_SENT: [rule for family in _FAMILIES for rule in _sent(family)], _NETWORK: _OF_A_NETWORK}
    lines += [f"{verb} chain {BRIDGE} {name}" for verb in ("add", "flush") for name in shared]
    lines += [f"add rule {BRIDGE} {name} {rule}" for name, rules in shared.items() for rule in rules]
    lines += [f"add rule {BRIDGE} {_BASE} {rule}" for rule in (_GATE, _UNKNOWN)]
    return "\n".join(lines) + "\n"


def _shared_objects() -> list[str]:
    """Sets and maps that both families have in common."""
    shapes = {
        "map ports": "typeof iifname : meta mark;",
        "set routers": "typeof meta mark . ether daddr;",
        "set secret": "type ipv6_addr;",
    }
    rooms = {
        f"set {name}_room": "typeof iif; flags dynamic,timeout; size 65536; timeout 5m;" for name in (*_ROOMS, "said")
    }
    full = {f"set {FULL}": f"typeof meta l4proto; flags dynamic,timeout; size 16; timeout {_IDLE};"}
    made = [f"add {each.replace(' ', f' {BRIDGE} ')} {{ {shape} }}" for each, shape in (shapes | rooms | full).items()]
    return [*made, *(f"flush {each.replace(' ', f' {BRIDGE} ')}" for each in shapes)]


def _sent(family: _Family) -> tuple[str, ...]:
    """Rules for datagrams by who sent them: a service's address, or a backend's own."""
    version = family.version
    return (
        f"{family.sender} @services{version} goto udp_said{version}",
        f"{family.sender} @secondaries{version} jump reply{version}",
    )


def _said(family: _Family) -> dict[str, tuple[str, ...]]:
    """Chains for datagrams from a service's address: who sends them may be a client of somebody."""
    version, speaker = family.version, f"{family.sender} . ether saddr"
    like_a_client = f"th sport >= {_EPHEMERAL} th dport < {_EPHEMERAL}"
    return {
        "udp_said": (
            f"{speaker} @takers{version} goto udp_said_first{version}",
            f"{speaker} @speakers{version} {like_a_client} goto udp_said_first{version}",
        ),
        "udp_said_first": (
            f"update @said_room {{ iif limit rate over {_SAID} packets }} return",
            f"update @udp_flows{version} {{ {family.reverse} : ether saddr }}",
        ),
    }


def _objects(family: _Family) -> list[str]:
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
    bounds = f"flags dynamic,timeout; size {_MAX_FLOWS};"
    flow, place = "meta length . meta length . th sport . th dport", "iif . meta length . meta length"
    flows = {
        f"map {BRIDGE} {name}{version}": f"typeof {flow} : ether daddr; {bounds} timeout {idle};"
        for name, idle in _FLOWS.items()
    }
    flows |= {
        f"map {BRIDGE} {name}_spill{version}": f"typeof {place} : ether daddr; {bounds} timeout {_FLOWS[name]};"
        for name in ("tcp_flows", "sctp_flows")
    }
    answered = {
        "udp_peers": f"meta mark . {address} . ether daddr",
        "udp_answers": f"meta mark . {address} . th sport . ether daddr . th dport",
        "udp_askers": "meta mark . meta length",
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
    key = f"{network_number(net.id)} . {bridge_mac(net.link)}"
    yield f"add element {BRIDGE} routers {{ {key} }}"
    if not add:
        yield f"delete element {BRIDGE} routers {{ {key} }}"
