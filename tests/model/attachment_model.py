"""A model of two hosts that attach one endpoint of a shared network, over a store that may answer late or never.

It follows ``docs/adr/0030-records-of-many-hosts.md``. The store applies each request at once and as a whole; a request
that a host has given up may still be applied at any later time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from tests.model.explore import Step

HOSTS = (0, 1)
T = TypeVar("T")


class Rules(NamedTuple):
    """What the protocol does; each is switched off in a test, which must then find what goes wrong."""

    fences: bool = True
    """A request whose outcome is unknown is made impossible before anybody learns that it failed."""
    undoes: bool = True
    """What an unknown outcome turns out to have written after its client was answered is removed."""
    compares_holder: bool = True
    """A claim holds only if the attachment is still as the host has read it."""
    compares_lease: bool = True
    """A claim holds only while the host has the lease that it claims for."""
    compares_request: bool = True
    """A release, and a claim again, hold only for the attachment of the same request."""
    keeps_lease: bool = True
    """A daemon that starts keeps the number of a lease that has not ended."""
    claims_again: bool = True
    """A host whose lease ended claims its attachments again before it counts on them."""


class Holder(NamedTuple):
    """The value of the endpoint's attachment key."""

    host: int
    lease: int
    """Number of the lease that the host had."""
    request: int
    """Number of the client's request, which never repeats."""


class Store(NamedTuple):
    """What etcd holds. Its leases are numbers here; 0: the host has none."""

    holder: Holder | None = None
    epochs: tuple[int, int] = (1, 1)
    """The fencing number of each host: what a host sent under an earlier one is refused."""
    leases: tuple[int, int] = (1, 1)


class Request(NamedTuple):
    """A transaction: what it compares and what it writes follows from its kind."""

    host: int
    number: int
    kind: str
    epoch: int
    lease: int
    client: int
    """Number of the client's request."""
    replaces: Holder | None = None
    """The holder that a claim expects."""


class Reply(NamedTuple):
    """Whether the comparisons held, and what the store holds afterwards."""

    accepted: bool
    store: Store


class Host(NamedTuple):
    """One host: ``intent``, with the number of the request, and ``plugged`` outlive its daemon, the rest does not."""

    at: str = "new"
    afterwards: str = ""
    epoch: int = 1
    lease: int = 1
    sent: int = 0
    waiting: int = 0
    """Number of the request whose reply is awaited; 0: none."""
    reply: Reply | None = None
    client: int = 0
    """Number of the client's request; 0: there was none."""
    intent: bool = False
    plugged: bool = False
    answer: str = ""
    """The answer to the request to attach: ok, refused, failed; or cut off."""
    may_lose: bool = False
    """Whether the attachment may go: its client has detached it, or the host's lease has ended."""


class State(NamedTuple):
    """Everything, and how much bad luck is left."""

    store: Store = Store()
    hosts: tuple[Host, Host] = (Host(), Host())
    wire: frozenset[Request] = frozenset()
    timeouts: int = 2
    expiries: int = 1
    crashes: int = 1
    repeats: int = 0
    """How often a host is asked to attach once more."""
    stolen: bool = False
    """Whether an attachment was replaced while its holder's lease was alive."""


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
            if host.reply is not None:
                yield Step(f"host {me} reads the reply at {host.at}", self._read(state, me, host, host.reply))
            elif not host.waiting:
                yield from self._own(state, me, host)
            if host.waiting and state.timeouts:
                changed = self._give_up(state, me, host)
                yield Step(f"host {me} gives up {host.at}", changed._replace(timeouts=state.timeouts - 1), False)
            if state.crashes and host.at not in ("new", "boot"):
                yield Step(f"host {me} is killed at {host.at}", self._crash(state, me, host), False)
            if state.expiries and state.store.leases[me]:
                store = state.store._replace(leases=_with(state.store.leases, me, 0))
                lapsed = _put(
                    state._replace(store=store, expiries=state.expiries - 1), me, host._replace(may_lose=True)
                )
                yield Step(f"the lease of host {me} ends", lapsed, False)

    # The store.

    def _deliver(self, state: State, request: Request) -> State:
        store, me = state.store, request.host
        accepted = self._accepts(store, request)
        stolen = state.stolen
        if accepted:
            held = store.holder
            if held and request.kind == "claim" and held.host != me and store.leases[held.host] == held.lease:
                stolen = True
            store = _applied(store, request)
        host = state.hosts[me]
        if host.waiting == request.number:
            host = host._replace(reply=Reply(accepted, store))
        return state._replace(
            store=store, hosts=_with(state.hosts, me, host), wire=state.wire - {request}, stolen=stolen
        )

    def _accepts(self, store: Store, request: Request) -> bool:
        me, held = request.host, store.holder
        current = store.epochs[me] == request.epoch
        leased = store.leases[me] == request.lease or not self._rules.compares_lease
        match request.kind:
            case "claim":
                return current and leased and (held == request.replaces or not self._rules.compares_holder)
            case "claim again":
                return current and leased and self._is_of(held, request)
            case "release":
                return self._is_of(held, request)
            case _:  # fence, renew
                return current

    def _is_of(self, held: Holder | None, request: Request) -> bool:
        same = held is not None and (held.request == request.client or not self._rules.compares_request)
        return held is not None and held.host == request.host and same

    # A host.

    def _own(self, state: State, me: int, host: Host) -> Iterator[Step[State]]:
        """Yield what a host does that waits for no reply."""
        match host.at:
            case "new":
                begun = host._replace(intent=True, client=1)
                yield Step(f"host {me} is asked to attach", self._send(state, me, begun, "claim"))
            case "plug":
                yield Step(f"host {me} plugs", _put(state, me, host._replace(at="answer", plugged=True)))
            case "answer":
                yield Step(f"host {me} answers", _put(state, me, host._replace(at="attached", answer="ok")))
            case "attached":
                if state.store.leases[me] != host.lease:
                    yield Step(f"host {me} notices that its lease ended", self._renew(state, me, host, "claim again"))
                yield Step(f"host {me} is asked to detach", self._release(state, me, host), False)
            case "done" if state.repeats:
                begun = host._replace(intent=True, client=host.client + 1, answer="", may_lose=False)
                after = self._send(state._replace(repeats=state.repeats - 1), me, begun, "claim")
                yield Step(f"host {me} is asked to attach once more", after, False)
            case "boot":
                start = "start" if self._rules.keeps_lease else "renew"
                yield Step(f"host {me} starts", self._send(state, me, host._replace(afterwards="inspect"), start))
            case _:
                pass

    def _send(self, state: State, me: int, host: Host, kind: str, held: Holder | None = None) -> State:
        number = host.sent + 1
        request = Request(me, number, kind, host.epoch, host.lease, host.client, held)
        host = host._replace(at=kind, sent=number, waiting=number, reply=None)
        return _put(state._replace(wire=state.wire | {request}), me, host)

    def _renew(self, state: State, me: int, host: Host, afterwards: str) -> State:
        if not self._rules.claims_again and afterwards == "claim again":
            afterwards = "attached"
        return self._send(state, me, host._replace(afterwards=afterwards), "renew")

    def _release(self, state: State, me: int, host: Host) -> State:
        return self._send(state, me, host._replace(plugged=False, may_lose=True), "release")

    def _give_up(self, state: State, me: int, host: Host) -> State:
        """The deadline passed. What was sent may still be applied."""
        host = host._replace(waiting=0, reply=None)
        if host.at == "claim":
            if not self._rules.fences:
                return _put(state, me, host._replace(at="done", answer="failed", intent=False))
            return self._send(state, me, host, "fence")
        if host.at == "fence":  # the client is answered in time; what may have been written is undone
            return self._send(state, me, host._replace(answer="failed"), "fence")
        return self._send(state, me, host, host.at)

    def _crash(self, state: State, me: int, host: Host) -> State:
        kept = Host("boot", epoch=0, lease=0, sent=host.sent, client=host.client)
        kept = kept._replace(intent=host.intent, plugged=host.plugged, may_lose=host.may_lose)
        kept = kept._replace(answer=host.answer or "cut off")
        return _put(state, me, kept)._replace(crashes=state.crashes - 1)

    def _read(self, state: State, me: int, host: Host, reply: Reply) -> State:
        host = host._replace(waiting=0)
        seen = reply.store
        mine = _is_mine(seen, me, host)
        match host.at:
            case "claim":
                return self._after_claim(state, me, host, reply)
            case "fence":
                host = host._replace(epoch=seen.epochs[me])
                if not mine:
                    return _end(state, me, host, "failed")
                if host.answer:
                    return self._release(state, me, host) if self._rules.undoes else _end(state, me, host, "")
                return self._plug(state, me, host, seen)
            case "renew" | "start":
                return self._after_renewal(state, me, host, reply)
            case "claim again":
                if seen.holder == Holder(me, host.lease, host.client):
                    return _put(state, me, host._replace(at="attached", reply=None))
                if not mine:
                    return _end(state, me, host, "")
                return self._renew(state, me, host._replace(epoch=seen.epochs[me]), "claim again")
            case _:  # release
                return _end(state, me, host, "")

    def _after_claim(self, state: State, me: int, host: Host, reply: Reply) -> State:
        held, seen = reply.store.holder, reply.store
        if reply.accepted:
            return self._plug(state, me, host, seen)
        if held and held.host != me and seen.leases[held.host] == held.lease:
            return _end(state, me, host, "refused")
        if seen.leases[me] != host.lease or seen.epochs[me] != host.epoch:
            return self._renew(state, me, host._replace(epoch=seen.epochs[me]), "claim")
        return self._send(state, me, host, "claim", held)

    def _after_renewal(self, state: State, me: int, host: Host, reply: Reply) -> State:
        seen = reply.store
        host = host._replace(epoch=seen.epochs[me])
        if not reply.accepted:
            return self._send(state, me, host, host.at)
        host = host._replace(lease=seen.leases[me])
        if host.afterwards == "attached":
            return _put(state, me, host._replace(at="attached", reply=None))
        if host.afterwards != "inspect":
            return self._send(state, me, host, host.afterwards)
        if not _is_mine(seen, me, host):
            return _end(state, me, host, "")
        return self._send(state, me, host, "claim again") if host.plugged else self._release(state, me, host)

    def _plug(self, state: State, me: int, host: Host, seen: Store) -> State:
        return _put(state, me, host._replace(at="plug", reply=None, epoch=seen.epochs[me]))

    # The rules.

    def always(self, state: State) -> str:
        """Return the rule that a state breaks, or the empty string."""
        if state.stolen:
            return "an attachment was taken from a host whose lease was alive"
        for me in HOSTS:
            host = state.hosts[me]
            alive = host.at == "attached" and state.store.leases[me] == host.lease
            if alive and state.store.holder != Holder(me, host.lease, host.client):
                return f"host {me} counts on an attachment that the store does not give it"
        return ""

    def at_rest(self, state: State) -> str:
        """Return the rule that a state breaks in which everything sent has arrived, or the empty string."""
        held = state.store.holder
        for me in HOSTS:
            host = state.hosts[me]
            if host.waiting or host.at not in ("attached", "done"):
                return f"host {me} waits for ever at {host.at}"
            if host.answer == "ok" and host.at == "done" and not host.may_lose:
                return f"host {me} lost an attachment that it had answered"
            mine = held is not None and held.host == me
            if mine != host.plugged:
                return f"host {me}: kernel and store differ"
            if mine != host.intent:
                return f"host {me}: a record of its own is left, or missing"
            if mine and host.answer in ("failed", "refused"):
                return f"host {me} is attached, though its client was answered {host.answer}"
        return ""


def _applied(store: Store, request: Request) -> Store:
    me, number = request.host, request.epoch + 1
    match request.kind:
        case "claim" | "claim again":
            return store._replace(holder=Holder(me, request.lease, request.client))
        case "release":
            return store._replace(holder=None)
        case "fence":
            return store._replace(epochs=_with(store.epochs, me, number))
        case "start":
            kept = store.leases[me] or number
            return store._replace(epochs=_with(store.epochs, me, number), leases=_with(store.leases, me, kept))
        case _:  # renew
            return store._replace(epochs=_with(store.epochs, me, number), leases=_with(store.leases, me, number))


def _is_mine(store: Store, me: int, host: Host) -> bool:
    """Return whether the store gives the endpoint to the host, for the request that it works on."""
    return store.holder is not None and (store.holder.host, store.holder.request) == (me, host.client)


def _with(pair: tuple[T, T], index: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if index == 0 else (pair[0], value)


def _put(state: State, me: int, host: Host) -> State:
    return state._replace(hosts=_with(state.hosts, me, host))


def _end(state: State, me: int, host: Host, answer: str) -> State:
    """The operation is over: nothing is attached here."""
    ended = host._replace(at="done", waiting=0, reply=None, plugged=False, intent=False, answer=host.answer or answer)
    return _put(state, me, ended)
