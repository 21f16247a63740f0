"""A model of hosts that claim subnets of networks which may overlap without being equal, each from what it has read.

It follows ``docs/adr/0030-records-of-many-hosts.md``. A host reads the store's claims one by one and at any time, so it
may lag behind, or read on between its comparison and its request. Lost answers are in the other two models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.model.explore import Step

Subnet = frozenset[int]
"""The addresses of a subnet."""
LOW, HIGH, BOTH = Subnet({0}), Subnet({1}), Subnet({0, 1})


class Rules(NamedTuple):
    """What the protocol does; each is switched off in a test, which must then find what goes wrong."""

    compares_range: bool = True
    """The store compares that no claim came after the revision that the host names."""
    compares_known: bool = True
    """The host compares a subnet with the claims that it has read."""
    compares_later: bool = True
    """It compares with those that a refusal shows, before it sends the same again."""
    names_what_it_compared: bool = True
    """The revision is that of the comparison, not that of the request."""


class Claim(NamedTuple):
    """A claim in the store; its revision is its place there, counted from 1."""

    host: int
    subnet: Subnet


class Reply(NamedTuple):
    """Whether a request was applied, and how many claims the store had then."""

    accepted: bool
    revision: int


class Host(NamedTuple):
    """One host; its client wants one of some subnets."""

    wanted: tuple[Subnet, ...]
    at: str = "new"
    read: int = 0
    """How many claims it has read."""
    chosen: Subnet = Subnet()
    compared: int = 0
    """How many claims it has compared with the chosen one."""
    reply: Reply | None = None
    answer: str = ""


class State(NamedTuple):
    """Everything."""

    hosts: tuple[Host, ...]
    claims: tuple[Claim, ...] = ()


class Model:
    """The steps of the model, and its rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield everything that can happen next."""
        for me, host in enumerate(state.hosts):
            if host.read < len(state.claims):
                yield Step(f"host {me} reads a claim", _put(state, me, host._replace(read=host.read + 1)))
            if host.at == "new" or (host.at == "refused" and host.read >= host.compared):
                yield Step(f"host {me} compares", _put(state, me, self._compare(state, host)))
            if host.at == "compared":
                named = host.compared if self._rules.names_what_it_compared else host.read
                yield Step(f"host {me} sends", _put(state, me, host._replace(at="sent", compared=named)))
            if host.at == "sent" and host.reply is None:
                yield Step(f"the store gets the request of host {me}", self._deliver(state, me, host))
            if host.reply is not None:
                yield Step(f"host {me} reads the reply", _put(state, me, self._read(state, host, host.reply)))

    def _compare(self, state: State, host: Host) -> Host:
        known = state.claims[: host.read] if self._rules.compares_known else ()
        chosen = next((each for each in host.wanted if not _overlapping(each, known)), None)
        if chosen is None:
            return host._replace(at="done", answer="refused")
        return host._replace(at="compared", chosen=chosen, compared=host.read)

    def _deliver(self, state: State, me: int, host: Host) -> State:
        later = state.claims[host.compared :]
        equal = any(claim.subnet == host.chosen for claim in state.claims)
        if equal or (later and self._rules.compares_range):
            return _put(state, me, host._replace(reply=Reply(False, len(state.claims))))
        claims = *state.claims, Claim(me, host.chosen)
        return _put(state._replace(claims=claims), me, host._replace(reply=Reply(True, len(claims))))

    def _read(self, state: State, host: Host, reply: Reply) -> Host:
        host = host._replace(reply=None)
        if reply.accepted:
            return host._replace(at="done", answer="ok")
        later = state.claims[host.compared : reply.revision]
        taken = any(claim.subnet == host.chosen for claim in state.claims[: reply.revision])
        if taken or (self._rules.compares_later and _overlapping(host.chosen, later)):
            return host._replace(at="refused", compared=reply.revision)
        return host._replace(at="sent", compared=reply.revision)

    def always(self, state: State) -> str:
        """Return the rule that a state breaks, or the empty string."""
        for number, claim in enumerate(state.claims):
            if _overlapping(claim.subnet, state.claims[:number]):
                return "two subnets overlap"
        return ""

    def at_rest(self, state: State) -> str:
        """Return the rule that a state breaks in which everything sent has arrived, or the empty string."""
        for me, host in enumerate(state.hosts):
            if host.at != "done":
                return f"host {me} waits for ever"
            others = [claim for claim in state.claims if claim.host != me]
            if (host.answer == "ok") != (len(others) < len(state.claims)):
                return f"host {me} answered {host.answer}, and the store has something else"
            if host.answer == "refused" and not all(_overlapping(each, others) for each in host.wanted):
                return f"host {me} was refused a subnet that is free"
        return ""


def _overlapping(subnet: Subnet, claims: Sequence[Claim]) -> bool:
    return any(subnet & claim.subnet for claim in claims)


def _put(state: State, me: int, host: Host) -> State:
    return state._replace(hosts=(*state.hosts[:me], host, *state.hosts[me + 1 :]))
