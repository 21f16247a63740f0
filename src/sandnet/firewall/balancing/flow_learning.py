"""Rules that learn the flows of services, as text: the key of a flow, and the capacity of a port.

A flow is learned if its **place** is free. A port has a fixed number of places, and the hash of a flow selects one of
them. The place is kept as long as the flow, so a port never holds more flows than it has places, whatever it sends and
however long. Two flows may share one place: the later one then tries the second stage, which has places and maps of its
own. Of a client with 3,000 flows about one finds both taken.

The bound holds for what one port sends. Two ports that may send the same flow (without anti-spoofing, or backends of
one service) can keep more alive together: the port that refreshes a flow has a place for it, and the rules do not check
for other ports.

Flows that are refused there, and flows above the rate of :data:`_LEARNING_RATES`, are kept by their bucket (``spill``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sandnet.firewall.balancing.service_elements import BUCKETS

SEED: Final = "SEED-OF-BUCKETS"
"""Placeholder in the rules for the host's own random number; see :mod:`sandnet.firewall.balancing.hash_seeds`."""
KEY_SEEDS: Final = ("SEED-OF-KEYS-1", "SEED-OF-KEYS-2")
FULL: Final = "full"
"""The set of the protocols whose map of learned flows was found full; an element lasts for a while."""
_LEARNING_RATES: Final = {
    "tcp": "1000/second burst 32768",
    "udp": "400/second burst 16384",
    "sctp": "400/second burst 16384",
}
"""Rate of new flows that one port may have learned. It bounds how fast a port's places fill."""
RATE_LIMITS: Final = (*_LEARNING_RATES, "said", "parts")
"""The names of the rate limits that are kept for each port."""
BACKEND_FLOW_RATE: Final = "100/second burst 4096"
"""Rate of datagrams of one port that may learn or keep a flow begun by a backend: 34,096 flows in five minutes."""
FRAGMENT_RATE: Final = "100/second burst 4096"
"""Rate of fragments of one port by which the rules learn that a datagram's answer has the service's address."""
_ASKERS: Final = 65536
_ALL_BITS: Final = 4294967295
_TCP_IDLE: Final = "124m"
"""Idle time of an established connection (RFC 5382, REQ-5): it may not be forgotten before two hours and four minutes.
"""
IDLE: Final = "5m"
"""Idle time for UDP (RFC 4787, REQ-5, recommended value); SCTP sends heartbeats every 30 s (RFC 9260, 16)."""
CLOSING: Final = "2m"
OPENING: Final = "1m"


class Room(NamedTuple):
    """The limits of learned flows."""

    flows: int = 1 << 18
    """Limit for one protocol and family on the host, about 150 bytes per flow."""
    shares: tuple[int, int] = (1 << 15, 1 << 14)
    """Limits for one protocol and family of one port, in the first stage and in the second."""
    reported: str = "5m"
    """How long a map that was found full is reported, as nft writes it."""


DEFAULT_ROOM: Final = Room()


class Stage(NamedTuple):
    """One of the two attempts to find a place for a flow."""

    suffix: str
    """Suffix of the names of its maps and chains, before the family."""
    share: int
    """Number of places of each port."""
    seed: str


def stages(room: Room) -> tuple[Stage, Stage]:
    """Return both stages, in the order in which they are tried."""
    return Stage("", room.shares[0], KEY_SEEDS[0]), Stage("_second", room.shares[1], KEY_SEEDS[1])


FLOWS: Final = {"tcp_flows": _TCP_IDLE, "closing_flows": CLOSING, "udp_flows": IDLE, "sctp_flows": IDLE}
"""The maps of learned flows, which each stage has, and the idle time of a flow."""
PLACES: Final = {"tcp_places": _TCP_IDLE, "udp_places": IDLE, "sctp_places": IDLE}
"""The sets of places, and the idle time of a place; closing flows keep the places that they had."""


def hashed(of: str, modulus: int, seed: str = SEED) -> str:
    """Return an expression of nft that hashes ``of`` to a number below ``modulus``."""
    return f"jhash {of} mod {modulus} seed {seed}"


_PORTS: Final = "@th,0,32"
"""Both ports of TCP, UDP or SCTP."""
HASHED_FLOW: Final = "meta length . meta length . th sport . th dport"
"""The type of a flow's key that contains hashes of the addresses."""


def _both(source: str, target: str) -> str:
    """Return the network and both addresses as 64 bits; the library's registers hold at most two IPv6 addresses."""
    ends, sender = f"{source} . {target}", f"meta mark . {source}"
    return f"{hashed(ends, _ALL_BITS, KEY_SEEDS[0])} . {hashed(sender, _ALL_BITS, KEY_SEEDS[1])}"


class Family:
    """The spelling of expressions and rules for one IP version."""

    def __init__(self, version: int, room: Room) -> None:
        ip = "ip" if version == 4 else "ip6"
        self.stages = stages(room)
        self.version = version
        self.source, self.target = f"{ip} saddr", f"{ip} daddr"
        self.service, self.sender = f"meta mark . {self.target}", f"meta mark . {self.source}"
        self.hashed_flow = f"{_both(self.source, self.target)} . th sport . th dport"
        self.reverse = f"{_both(self.target, self.source)} . th dport . th sport"
        # for IPv4 all of it fits, with both ports as one number
        self.flow = f"meta mark . {self.source} . {self.target} . {_PORTS}" if version == 4 else self.hashed_flow
        self.flow_type = self.flow if version == 4 else HASHED_FLOW
        self.routed = "meta mark . ether daddr @routers return"
        self.bucket_place = f"iif . {hashed(self.service, _ALL_BITS)} . {hashed(f'{self.source} . th sport', BUCKETS)}"
        if version == 4:
            self.fragment = "ip frag-off & 0x3fff != 0"
            self.other = "icmp type != echo-request"
        else:
            self.fragment = "exthdr frag exists"
            self.other = "icmpv6 type != echo-request"

    def is_one_of(self, backends: str) -> str:
        """Return a match for frames to one of the service's backends in the set: ``live`` or ``takers``."""
        return f"{self.service} . ether daddr @{backends}{self.version}"

    def learned(self, flows: str, key: str = "") -> str:
        """Return a rule that matches a flow of the map whose backend is live, and sends it to that backend.

        Args:
            flows: the map's name, without the family.
            key: the key of its flows; :attr:`flow`, if empty.
        """
        return f"ether daddr set {key or self.flow} map @{flows}{self.version} {self.is_one_of('live')}"

    def spilled(self, flows: str, backends: str) -> str:
        """Return a rule that sends a flow kept by its bucket to its backend, if that is one of ``backends``."""
        spill = f"{flows}_spill{self.version}"
        kept = f"update @{spill} {{ {self.bucket_place} : ether daddr }} return"
        return f"ether daddr set {self.bucket_place} map @{spill} {self.is_one_of(backends)} {kept}"

    def bucket(self, of: str) -> str:
        """Return a rule that sends to the backend that owns a bucket."""
        return f"ether daddr set {self.service} . {hashed(of, BUCKETS)} map @buckets{self.version}"

    def write(self, verb: str, flows: str, timeout: str = "") -> str:
        """Return a statement that learns, refreshes or forgets the flow."""
        lasting = f" timeout {timeout}" if timeout else ""
        return f"{verb} @{flows}{self.version} {{ {self.flow}{lasting} : ether daddr }}"

    def expect(self) -> tuple[str, ...]:
        """Return the rules that record whose answers are to have the service's address."""
        peer, answer = f"{self.sender} . ether daddr", f"{self.sender} . th sport . ether daddr . th dport"
        return (
            f"update @udp_peers{self.version} {{ {peer} }}",
            f"update @udp_answers{self.version} {{ {answer} }} return",
            self.expect_any(),
        )

    def expect_any(self) -> str:
        """Return the rule that records the same by network and hash, for want of room: this set always has room."""
        asker = hashed(f"{self.source} . th sport", _ASKERS, KEY_SEEDS[0])
        return f"update @udp_askers{self.version} {{ meta mark . {asker} }}"

    def answers(self) -> tuple[str, ...]:
        """Return the rules that set the source of an answer to the service's address."""
        right = f"{self.source} set {self.sender} map @services_of{self.version} return"
        asker = hashed(f"{self.target} . th dport", _ASKERS, KEY_SEEDS[0])
        return (
            f"{self.fragment} {self.service} . ether saddr @udp_peers{self.version} {right}",
            f"meta l4proto udp {self.service} . th dport . ether saddr . th sport @udp_answers{self.version} {right}",
            f"meta l4proto udp meta mark . {asker} @udp_askers{self.version} {right}",
        )

    def beyond(self, protocol: str, spill: str) -> str:
        """Return the rule that sends new flows above a port's rate to ``spill``."""
        return f"update @{protocol}_room {{ iif limit rate over {_LEARNING_RATES[protocol]} packets }} goto {spill}"

    def place(self, stage: Stage) -> str:
        """Return the key of the place that a flow has among those of its port."""
        ends = f"{self.source} . {self.target} . th sport . th dport"
        return f"iif . {hashed(ends, stage.share, stage.seed)}"

    def keep_place(self, protocol: str, stage: Stage, timeout: str = "") -> str:
        """Return a statement that takes the flow's place, or keeps it as long as the flow."""
        lasting = f" timeout {timeout}" if timeout else ""
        return f"update @{protocol}_places{stage.suffix}{self.version} {{ {self.place(stage)}{lasting} }}"

    def keep(self, protocol: str, stage: Stage, timeout: str = "") -> str:
        """Return a statement that learns or refreshes the flow, and its place."""
        flow = self.write("update", f"{protocol}_flows{stage.suffix}", timeout)
        return f"{self.keep_place(protocol, stage, timeout)} {flow}"

    def known(self, flows: str) -> tuple[tuple[Stage, str], ...]:
        """Return for each stage a match for a flow that is known there, whether its backend is live or not."""
        return tuple(
            (stage, f"ether daddr set {self.flow} map @{flows}{stage.suffix}{self.version}") for stage in self.stages
        )

    def find_place(self, protocol: str, among: Sequence[Stage] = ()) -> tuple[str, ...]:
        """Return the rules that learn a flow in the first stage in which its place is free.

        Args:
            protocol: ``tcp``, ``udp`` or ``sctp``.
            among: the stages to try; all of them, if empty.
        """
        return tuple(
            f"{self.place(stage)} != @{protocol}_places{stage.suffix}{self.version} "
            f"goto {protocol}_learn{stage.suffix}{self.version}"
            for stage in among or self.stages
        )

    def _chosen(self) -> tuple[str, str]:
        """Return the rules that send a new flow to the backend of its bucket."""
        by_flow, by_client = self.bucket(f"{self.source} . th sport"), self.bucket(self.source)
        return by_flow, f"{self.service} @clients{self.version} {by_client}"

    def opened(self, protocol: str, timeout: str, after: str) -> dict[str, tuple[str, ...]]:
        """Return the chains that send a new flow by its bucket, and learn it or keep it by its bucket.

        Args:
            protocol: ``tcp``, ``udp`` or ``sctp``.
            timeout: idle time of a flow of which only the first packet was seen; empty: the map's own.
            after: the statement that follows.
        """
        flows, version = f"{protocol}_flows", self.version
        spill, full = f"{protocol}_spill{version}", f"{protocol}_full{version}"
        chains: dict[str, tuple[str, ...]] = {
            # its place in the first stage is free
            f"{flows}_first": (
                self.beyond(protocol, spill),
                *self._chosen(),
                f"goto {protocol}_learn{version}",
            ),
            # its place in the first stage is taken
            f"{flows}_open": (
                self.beyond(protocol, spill),
                *self._chosen(),
                *self.find_place(protocol, self.stages[1:]),
                f"goto {spill}",
            ),
            f"{protocol}_full": (f"update @{FULL} {{ meta l4proto }}", f"goto {spill}"),
            f"{protocol}_spill": self._spill(protocol),
        }
        for stage in self.stages:
            learn = f"{self.keep(protocol, stage, timeout)} {after}"
            chains[f"{protocol}_learn{stage.suffix}"] = (learn, f"goto {full}")
            # the flow still has its place: no new room is needed
            again = (*self._chosen(), learn, f"goto {full}")
            chains[f"{protocol}_again{stage.suffix}"] = (self.write("delete", f"{flows}{stage.suffix}"), *again)
            if protocol == "tcp":
                closing = self.write("delete", f"closing_flows{stage.suffix}")
                chains[f"{protocol}_reopened{stage.suffix}"] = (closing, *again)
        return chains

    def _spill(self, protocol: str) -> tuple[str, ...]:
        chosen = self._chosen()
        if protocol == "udp":
            return (*chosen, self.expect_any())
        place = f"@{protocol}_flows_spill{self.version} {{ {self.bucket_place}"
        return (
            self.spilled(f"{protocol}_flows", "takers"),
            f"delete {place} : ether daddr }}",
            *chosen,
            f"update {place} : ether daddr }} return",
            self.holder(),
        )

    def holder(self) -> str:
        """Return a rule that sends to the holder of the address."""
        return f"ether daddr set {self.service} map @holders{self.version}"
