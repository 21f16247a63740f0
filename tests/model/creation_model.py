"""A model of two hosts that create endpoints on one shared network, or delete it, at the same time.

It follows ``docs/adr/0030-records-of-many-hosts.md``, with the same store as ``attachment_model``: it may answer late
or never, and what a host has given up may still be applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.explore import Step

HOSTS = (0, 1)
POOL = (2, 3)
"""The addresses of the network."""


class Rules(NamedTuple):
    """What the protocol does; each is switched off in a test, which must then find what goes wrong."""

    claims: bool = True
    """Name and address are compared in the transaction that writes the endpoint."""
    compares_network: bool = True
    """An endpoint is written only while its network is there."""
    compares_endpoints: bool = True
    """A network is removed only while it has no endpoint."""
    compares_request: bool = True
    """An undo removes only what the same request of a client made."""
    fences: bool = True
    """A request whose outcome is unknown is made impossible before anybody learns that it failed."""


class Wanted(NamedTuple):
    """What the client of a host asks for."""

    name: str = ""
    """Name of the endpoint to create; empty: delete the network."""
    address: int = 0
    """0: any."""


class Endpoint(NamedTuple):
    """A record in the store."""

    host: int
    name: str
    address: int
    client: int
    """Number of the client's request, which never repeats."""


class Store(NamedTuple):
    """What etcd holds."""

    network: bool = True
    endpoints: frozenset[Endpoint] = frozenset()
    epochs: tuple[int, int] = (1, 1)


class Request(NamedTuple):
    """A transaction."""

    host: int
    number: int
    kind: str
    epoch: int
    client: int
    address: int = 0


class Reply(NamedTuple):
    """Whether the comparisons held, and what the store holds afterwards."""

    accepted: bool
    store: Store


class Host(NamedTuple):
    """One host; it has one request of a client."""

    wanted: Wanted
    at: str = "new"
    epoch: int = 1
    sent: int = 0
    waiting: int = 0
    reply: Reply | None = None
    client: int = 1
    """Number of the client's request."""
    answer: str = ""


class State(NamedTuple):
    """Everything, and how often a deadline may still pass."""

    hosts: tuple[Host, Host]
    store: Store = Store()
    wire: frozenset[Request] = frozenset()
    timeouts: int = 2
    repeats: int = 0
    """How often a client repeats a creation that failed."""


class Model:
    """The steps of the model, and its rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield everything that can happen next."""
        for request in sorted(state.wire):
            yield Step(f"the store applies {request.kind} of host {request.host}", self._deliver(state, request))
        for me in HOSTS:
            host = state.hosts[me]
            if host.at == "new":
                yield Step(f"host {me} is asked for {host.wanted}", self._try(state, me, host, Store()))
            if host.answer == "failed" and host.at == "done" and host.wanted.name and state.repeats:
                again = host._replace(client=host.client + 1, answer="")
                after = self._try(state._replace(repeats=state.repeats - 1), me, again, Store())
                yield Step(f"host {me} is asked once more for {host.wanted}", after, False)
            if host.reply is not None:
                yield Step(f"host {me} reads the reply at {host.at}", self._read(state, me, host, host.reply))
            if host.waiting and state.timeouts:
                after = self._give_up(state._replace(timeouts=state.timeouts - 1), me, host)
                yield Step(f"host {me} gives up {host.at}", after, False)

    def _deliver(self, state: State, request: Request) -> State:
        store, me, host = state.store, request.host, state.hosts[request.host]
        made = Endpoint(me, host.wanted.name, request.address, request.client)
        accepted = request.epoch == store.epochs[me]
        match request.kind:
            case "create":
                accepted = accepted and self._may_create(store, made)
                changed = store._replace(endpoints=store.endpoints | {made})
            case "delete":
                empty = not store.endpoints or not self._rules.compares_endpoints
                accepted = accepted and store.network and empty
                changed = store._replace(network=False)
            case "undo":
                accepted = True
                kept = frozenset(each for each in store.endpoints if not self._is_of(each, request))
                changed = store._replace(endpoints=kept)
            case _:
                changed = store._replace(epochs=_with(store.epochs, me, request.epoch + 1))
        store = changed if accepted else store
        if host.waiting == request.number:
            host = host._replace(reply=Reply(accepted, store))
        return _put(state._replace(store=store, wire=state.wire - {request}), me, host)

    def _is_of(self, endpoint: Endpoint, request: Request) -> bool:
        same = endpoint.client == request.client or not self._rules.compares_request
        return endpoint.host == request.host and same

    def _may_create(self, store: Store, made: Endpoint) -> bool:
        taken = any(made.name == each.name or made.address == each.address for each in store.endpoints)
        return (store.network or not self._rules.compares_network) and not (taken and self._rules.claims)

    def _try(self, state: State, me: int, host: Host, seen: Store) -> State:
        """Send the request that fits what the host has seen, or answer why there is none."""
        if not host.wanted.name:
            return self._send(state, me, host, "delete")
        used = {each.address for each in seen.endpoints}
        free = [address for address in POOL if address not in used and host.wanted.address in (0, address)]
        named = any(each.name == host.wanted.name for each in seen.endpoints)
        if named or not free or not seen.network:
            return _end(state, me, host, "refused")
        return self._send(state, me, host, "create", free[0])

    def _send(self, state: State, me: int, host: Host, kind: str, address: int = 0) -> State:
        number = host.sent + 1
        request = Request(me, number, kind, host.epoch, host.client, address)
        host = host._replace(at=kind, sent=number, waiting=number, reply=None)
        return _put(state._replace(wire=state.wire | {request}), me, host)

    def _give_up(self, state: State, me: int, host: Host) -> State:
        host = host._replace(waiting=0, reply=None)
        if host.at == "undo":
            return self._send(state, me, host, "undo")
        if host.at == "fence":
            return self._send(state, me, host._replace(answer="failed"), "fence")
        return self._send(state, me, host, "fence") if self._rules.fences else _end(state, me, host, "failed")

    def _read(self, state: State, me: int, host: Host, reply: Reply) -> State:
        seen = reply.store
        mine = any((each.host, each.client) == (me, host.client) for each in seen.endpoints)
        done = mine if host.wanted.name else not seen.network
        host = host._replace(epoch=seen.epochs[me], reply=None, waiting=0)
        if host.at == "fence" and done and host.answer and host.wanted.name:
            return self._send(state, me, host, "undo")
        if host.at == "fence":
            return _end(state, me, host, "ok" if done else "failed")
        if host.at == "undo" or done:
            return _end(state, me, host, "ok")
        if host.at == "delete":
            return _end(state, me, host, "refused")
        return self._try(state, me, host, seen)

    def always(self, state: State) -> str:
        """Return the rule that a state breaks, or the empty string."""
        endpoints = state.store.endpoints
        if len({each.name for each in endpoints}) < len(endpoints):
            return "two endpoints have one name"
        if len({each.address for each in endpoints}) < len(endpoints):
            return "two endpoints have one address"
        return "an endpoint has no network" if endpoints and not state.store.network else ""

    def at_rest(self, state: State) -> str:
        """Return the rule that a state breaks in which everything sent has arrived, or the empty string."""
        for me in HOSTS:
            host = state.hosts[me]
            if host.at != "done":
                return f"host {me} waits for ever at {host.at}"
            made = any(each.host == me for each in state.store.endpoints)
            if host.wanted.name and made != (host.answer == "ok"):
                return f"host {me} answered {host.answer}; its endpoint is {'there' if made else 'missing'}"
            if not host.wanted.name and host.answer == "ok" and state.store.network:
                return f"host {me} deleted the network, and it is there"
        return ""


def _with(pair: tuple[int, int], index: int, value: int) -> tuple[int, int]:
    return (value, pair[1]) if index == 0 else (pair[0], value)


def _put(state: State, me: int, host: Host) -> State:
    return state._replace(hosts=(host, state.hosts[1]) if me == 0 else (state.hosts[0], host))


def _end(state: State, me: int, host: Host, answer: str) -> State:
    return _put(state, me, host._replace(at="done", waiting=0, reply=None, answer=host.answer or answer))
