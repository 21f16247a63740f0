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
    claims_again: bool = True
    """A host whose lease ended claims its attachments again before it counts on them."""


class Holder(NamedTuple):
    """The value of the endpoint's attachment key."""

    host: int
    lease: int
    """Number of the lease that the host had."""


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
    replaces: Holder | None = None
    """The holder that a claim expects."""


class Reply(NamedTuple):
    """Whether the comparisons held, and what the store holds afterwards."""

    accepted: bool
    store: Store


class Host(NamedTuple):
    """One host: ``intent`` and ``plugged`` outlive its daemon, the rest does not."""

    at: str = "new"
    afterwards: str = ""
    epoch: int = 1
    lease: int = 1
    sent: int = 0
    waiting: int = 0
    """Number of the request whose reply is awaited; 0: none."""
    reply: Reply | None = None
    intent: bool = False
    plugged: bool = False
    answer: str = ""
    """The answer to the request to attach: ok, refused, failed; or cut off."""


class World(NamedTuple):
    """Everything, and how much bad luck is left."""

    store: Store = Store()
    hosts: tuple[Host, Host] = (Host(), Host())
    wire: frozenset[Request] = frozenset()
    timeouts: int = 2
    expiries: int = 1
    crashes: int = 1
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
                yield Step(
                    f"the lease of host {me} ends", world._replace(store=store, expiries=world.expiries - 1), False
                )

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
        match request.kind:
            case "claim":
                return current and (held == request.replaces or not self._rules.compares_holder)
            case "claim again":
                return current and held is not None and held.host == me
            case "release":
                return held is not None and held.host == me
            case _:  # fence, renew
                return current

    # A host.

    def _own(self, world: World, me: int, host: Host) -> Iterator[Step[World]]:
        """Yield what a host does that waits for no reply."""
        match host.at:
            case "new":
                begun = host._replace(intent=True)
                yield Step(f"host {me} is asked to attach", self._send(world, me, begun, "claim"))
            case "plug":
                yield Step(f"host {me} plugs", _put(world, me, host._replace(at="answer", plugged=True)))
            case "answer":
                yield Step(f"host {me} answers", _put(world, me, host._replace(at="attached", answer="ok")))
            case "attached":
                if world.store.leases[me] != host.lease:
                    yield Step(f"host {me} notices that its lease ended", self._renew(world, me, host, "claim again"))
                yield Step(f"host {me} is asked to detach", self._release(world, me, host), False)
            case "boot":
                yield Step(f"host {me} starts", self._renew(world, me, host, "inspect"))
            case _:
                pass

    def _send(self, world: World, me: int, host: Host, kind: str, held: Holder | None = None) -> World:
        number = host.sent + 1
        request = Request(me, number, kind, host.epoch, host.lease, held)
        host = host._replace(at=kind, sent=number, waiting=number, reply=None)
        return _put(world._replace(wire=world.wire | {request}), me, host)

    def _renew(self, world: World, me: int, host: Host, afterwards: str) -> World:
        if not self._rules.claims_again and afterwards == "claim again":
            afterwards = "attached"
        return self._send(world, me, host._replace(afterwards=afterwards), "renew")

    def _release(self, world: World, me: int, host: Host) -> World:
        return self._send(world, me, host._replace(plugged=False), "release")

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
        kept = Host(at="boot", epoch=0, lease=0, sent=host.sent, intent=host.intent, plugged=host.plugged)
        kept = kept._replace(answer=host.answer or "cut off")
        return _put(world, me, kept)._replace(crashes=world.crashes - 1)

    def _read(self, world: World, me: int, host: Host, reply: Reply) -> World:
        host = host._replace(waiting=0)
        seen = reply.store
        mine = seen.holder is not None and seen.holder.host == me
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
            case "renew":
                return self._after_renewal(world, me, host, reply)
            case "claim again":
                if seen.holder == Holder(me, host.lease):
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
            return self._renew(world, me, host, host.afterwards)
        host = host._replace(lease=seen.epochs[me])
        if host.afterwards == "attached":
            return _put(world, me, host._replace(at="attached", reply=None))
        if host.afterwards != "inspect":
            return self._send(world, me, host, host.afterwards)
        if seen.holder is None or seen.holder.host != me:
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
            if alive and world.store.holder != Holder(me, host.lease):
                return f"host {me} counts on an attachment that the store does not give it"
        return ""

    def at_rest(self, world: World) -> str:
        """Return the rule that a state breaks in which everything sent has arrived, or the empty string."""
        held = world.store.holder
        for me in HOSTS:
            host = world.hosts[me]
            if host.waiting or host.at not in ("attached", "done"):
                return f"host {me} waits for ever at {host.at}"
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
            return store._replace(holder=Holder(me, request.lease))
        case "release":
            return store._replace(holder=None)
        case "fence":
            return store._replace(epochs=_with(store.epochs, me, number))
        case _:  # renew
            return store._replace(epochs=_with(store.epochs, me, number), leases=_with(store.leases, me, number))


def _with(pair: tuple[T, T], index: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if index == 0 else (pair[0], value)


def _put(world: World, me: int, host: Host) -> World:
    return world._replace(hosts=_with(world.hosts, me, host))


def _end(world: World, me: int, host: Host, answer: str) -> World:
    """The operation is over: nothing is attached here."""
    ended = host._replace(at="done", waiting=0, reply=None, plugged=False, intent=False, answer=host.answer or answer)
    return _put(world, me, ended)
