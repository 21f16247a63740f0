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


class World(NamedTuple):
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

    def steps(self, world: World) -> Iterator[Step[World]]:
        """Yield everything that can happen next."""
        for request in sorted(world.wire):
            yield Step(f"the store applies {request.kind} of host {request.host}", self._deliver(world, request))
        for me in HOSTS:
            host = world.hosts[me]
            if host.reply is not None:
                yield Step(f"host {me} reads the reply at {host.at}", self._read(world, me, host, host.reply))
            elif not host.waiting:
                yield from self._own(world, me, host)
            if host.waiting and world.timeouts:
                changed = self._give_up(world, me, host)
                yield Step(f"host {me} gives up {host.at}", changed._replace(timeouts=world.timeouts - 1), False)
            if world.crashes and host.at not in ("new", "boot"):
                yield Step(f"host {me} is killed at {host.at}", self._crash(world, me, host), False)
            if world.expiries and world.store.leases[me]:
                store = world.store._replace(leases=_with(world.store.leases, me, 0))
                lapsed = _put(
                    world._replace(store=store, expiries=world.expiries - 1), me, host._replace(may_lose=True)
                )
                yield Step(f"the lease of host {me} ends", lapsed, False)

    # The store.

    def _deliver(self, world: World, request: Request) -> World:
        store, me = world.store, request.host
        accepted = self._accepts(store, request)
        stolen = world.stolen
        if accepted:
            held = store.holder
            if held and request.kind == "claim" and held.host != me and store.leases[held.host] == held.lease:
                stolen = True
            store = _applied(store, request)
        host = world.hosts[me]
        if host.waiting == request.number:
            host = host._replace(reply=Reply(accepted, store))
        return world._replace(
            store=store, hosts=_with(world.hosts, me, host), wire=world.wire - {request}, stolen=stolen
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

    def _own(self, world: World, me: int, host: Host) -> Iterator[Step[World]]:
        """Yield what a host does that waits for no reply."""
        match host.at:
            case "new":
                begun = host._replace(intent=True, client=1)
                yield Step(f"host {me} is asked to attach", self._send(world, me, begun, "claim"))
            case "plug":
                yield Step(f"host {me} plugs", _put(world, me, host._replace(at="answer", plugged=True)))
            case "answer":
                yield Step(f"host {me} answers", _put(world, me, host._replace(at="attached", answer="ok")))
            case "attached":
                if world.store.leases[me] != host.lease:
                    yield Step(f"host {me} notices that its lease ended", self._renew(world, me, host, "claim again"))
                yield Step(f"host {me} is asked to detach", self._release(world, me, host), False)
            case "done" if world.repeats:
                begun = host._replace(intent=True, client=host.client + 1, answer="", may_lose=False)
                after = self._send(world._replace(repeats=world.repeats - 1), me, begun, "claim")
                yield Step(f"host {me} is asked to attach once more", after, False)
            case "boot":
                start = "start" if self._rules.keeps_lease else "renew"
                yield Step(f"host {me} starts", self._send(world, me, host._replace(afterwards="inspect"), start))
            case _:
                pass

    def _send(self, world: World, me: int, host: Host, kind: str, held: Holder | None = None) -> World:
        number = host.sent + 1
        request = Request(me, number, kind, host.epoch, host.lease, host.client, held)
        host = host._replace(at=kind, sent=number, waiting=number, reply=None)
        return _put(world._replace(wire=world.wire | {request}), me, host)

    def _renew(self, world: World, me: int, host: Host, afterwards: str) -> World:
        if not self._rules.claims_again and afterwards == "claim again":
            afterwards = "attached"
        return self._send(world, me, host._replace(afterwards=afterwards), "renew")

    def _release(self, world: World, me: int, host: Host) -> World:
        return self._send(world, me, host._replace(plugged=False, may_lose=True), "release")

    def _give_up(self, world: World, me: int, host: Host) -> World:
        """The deadline passed. What was sent may still be applied."""
        host = host._replace(waiting=0, reply=None)
        if host.at == "claim":
            if not self._rules.fences:
                return _put(world, me, host._replace(at="done", answer="failed", intent=False))
            return self._send(world, me, host, "fence")
        if host.at == "fence":  # the client is answered in time; what may have been written is undone
            return self._send(world, me, host._replace(answer="failed"), "fence")
        return self._send(world, me, host, host.at)

    def _crash(self, world: World, me: int, host: Host) -> World:
        kept = Host("boot", epoch=0, lease=0, sent=host.sent, client=host.client)
        kept = kept._replace(intent=host.intent, plugged=host.plugged, may_lose=host.may_lose)
        kept = kept._replace(answer=host.answer or "cut off")
        return _put(world, me, kept)._replace(crashes=world.crashes - 1)

    def _read(self, world: World, me: int, host: Host, reply: Reply) -> World:
        host = host._replace(waiting=0)
        seen = reply.store
        mine = _is_mine(seen, me, host)
        match host.at:
            case "claim":
                return self._after_claim(world, me, host, reply)
            case "fence":
                host = host._replace(epoch=seen.epochs[me])
                if not mine:
                    return _end(world, me, host, "failed")
                if host.answer:
                    return self._release(world, me, host) if self._rules.undoes else _end(world, me, host, "")
                return self._plug(world, me, host, seen)
            case "renew" | "start":
                return self._after_renewal(world, me, host, reply)
            case "claim again":
                if seen.holder == Holder(me, host.lease, host.client):
                    return _put(world, me, host._replace(at="attached", reply=None))
                if not mine:
                    return _end(world, me, host, "")
                return self._renew(world, me, host._replace(epoch=seen.epochs[me]), "claim again")
            case _:  # release
                return _end(world, me, host, "")

    def _after_claim(self, world: World, me: int, host: Host, reply: Reply) -> World:
        held, seen = reply.store.holder, reply.store
        if reply.accepted:
            return self._plug(world, me, host, seen)
        if held and held.host != me and seen.leases[held.host] == held.lease:
            return _end(world, me, host, "refused")
        if seen.leases[me] != host.lease or seen.epochs[me] != host.epoch:
            return self._renew(world, me, host._replace(epoch=seen.epochs[me]), "claim")
        return self._send(world, me, host, "claim", held)

    def _after_renewal(self, world: World, me: int, host: Host, reply: Reply) -> World:
        seen = reply.store
        host = host._replace(epoch=seen.epochs[me])
        if not reply.accepted:
            return self._send(world, me, host, host.at)
        host = host._replace(lease=seen.leases[me])
        if host.afterwards == "attached":
            return _put(world, me, host._replace(at="attached", reply=None))
        if host.afterwards != "inspect":
            return self._send(world, me, host, host.afterwards)
        if not _is_mine(seen, me, host):
            return _end(world, me, host, "")
        return self._send(world, me, host, "claim again") if host.plugged else self._release(world, me, host)

    def _plug(self, world: World, me: int, host: Host, seen: Store) -> World:
        return _put(world, me, host._replace(at="plug", reply=None, epoch=seen.epochs[me]))

    # The rules.

    def always(self, world: World) -> str:
        """Return the rule that a state breaks, or the empty string."""
        if world.stolen:
            return "an attachment was taken from a host whose lease was alive"
        for me in HOSTS:
            host = world.hosts[me]
            alive = host.at == "attached" and world.store.leases[me] == host.lease
            if alive and world.store.holder != Holder(me, host.lease, host.client):
                return f"host {me} counts on an attachment that the store does not give it"
        return ""

    def at_rest(self, world: World) -> str:
        """Return the rule that a state breaks in which everything sent has arrived, or the empty string."""
        held = world.store.holder
        for me in HOSTS:
            host = world.hosts[me]
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


def _put(world: World, me: int, host: Host) -> World:
    return world._replace(hosts=_with(world.hosts, me, host))


def _end(world: World, me: int, host: Host, answer: str) -> World:
    """The operation is over: nothing is attached here."""
    ended = host._replace(at="done", waiting=0, reply=None, plugged=False, intent=False, answer=host.answer or answer)
    return _put(world, me, ended)
