"""Bad luck for the hosts of a lab: each kind begins with a call, which returns how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random

import httpx

from sandnet.errors import Error
from tests.stress.hosts.facts import Facts
from tests.support.daemon import RefusedError
from tests.support.lab import RunningLab
from tests.support.lab_truth import LIVING

Undo = Callable[[], object]
DAEMON = "sandnet daemon"
"""In the command lines of daemons."""


class BadLuck:
    """Random bad luck.

    Args:
        lab: what it meets.
        facts: learn what must not be expected any more.
        renewed: called when a host has a new daemon's socket, after a loss of power.
        random: decides.
    """

    def __init__(self, lab: RunningLab, facts: Facts, renewed: Callable[[int], None], random: Random) -> None:
        self._lab, self._facts, self._renewed, self._random = lab, facts, renewed, random
        self._kinds: dict[str, tuple[Callable[[], Undo], int]] = {
            "cut a host off": (self._cut_off, 4),
            "cut a host off from the store": (self._cut_off_from_store, 4),
            "divide the hosts": (self._divide, 2),
            "lose one direction": (self._one_way, 2),
            "delay and lose frames": (self._impair, 2),
            "kill a daemon": (self._kill_daemon, 5),
            "stop a daemon": (self._stop_daemon, 2),
            "kill the power": (self._kill_power, 3),
            "kill the power and lose the state": (self._lose_state, 2),
            "kill the power and remove the node": (self._remove_node, 1),
            "kill a member": (self._kill_member, 3),
            "stop a member": (self._stop_member, 2),
            "kill all members": (self._kill_members, 1),
            "compact": (self._compact, 2),
        }

    def begin(self) -> tuple[str, Undo]:
        """Let something happen; return what, and how it ends."""
        name = self._random.choices([*self._kinds], [weight for _, weight in self._kinds.values()])[0]
        self._host = self._random.choice(self._lab.hosts)
        return f"{name} (host {self._host})", self._kinds[name][0]()

    def end(self) -> None:
        """Undo everything, whatever has happened."""
        lab = self._lab
        lab.heal()
        for host in lab.control.status().hosts:
            number = host.number
            if not host.power:
                self._start(number)
            self._signal(number, "CONT", "-x", "etcd")
            self._signal(number, "CONT", "-f", DAEMON)
            if host.store and host.store not in (*LIVING, "no leader", "starting"):
                with suppress(Error):
                    lab.member(number, "start")
        for number in lab.hosts:
            lab.start(number)

    def _others(self) -> list[int]:
        return [number for number in self._lab.hosts if number != self._host]

    def _members(self) -> list[int]:
        return [host.number for host in self._lab.control.status().hosts if host.store]

    def _signal(self, number: int, signal: str, *pattern: str) -> None:
        self._lab.run(number, "pkill", f"-{signal}", *pattern)

    # The network between the hosts.

    def _cut_off(self) -> Undo:
        self._lab.partition([self._host], self._others())
        return self._lab.heal

    def _cut_off_from_store(self) -> Undo:
        self._lab.partition([self._host], self._others(), store_only=True)
        return self._lab.heal

    def _divide(self) -> Undo:
        numbers = self._random.sample(self._lab.hosts, len(self._lab.hosts))
        at = self._random.randint(1, len(numbers) - 1)
        self._lab.partition(numbers[:at], numbers[at:])
        return self._lab.heal

    def _one_way(self) -> Undo:
        self._lab.cut([(self._host, other) for other in self._others()])
        return self._lab.heal

    def _impair(self) -> Undo:
        with suppress(Error):  # this machine may not open taps
            self._lab.impair(self._host, delay=self._random.uniform(0, 0.1), loss=self._random.choice([0, 0.05, 0.2]))
        return self._lab.heal

    # Daemons and hosts.

    def _kill_daemon(self) -> Undo:
        host = self._host
        self._lab.kill(host)
        return lambda: self._lab.start(host)

    def _stop_daemon(self) -> Undo:
        host = self._host
        self._signal(host, "STOP", "-f", DAEMON)
        return lambda: self._signal(host, "CONT", "-f", DAEMON)

    def _kill_power(self, *, lose_state: bool = False) -> Undo:
        host = self._host
        self._facts.lose_power(host)
        self._lab.kill(host, power=True, lose_state=lose_state)
        return lambda: self._start(host)

    def _lose_state(self) -> Undo:
        return self._kill_power(lose_state=True)

    def _remove_node(self) -> Undo:
        host, other = self._host, self._random.choice(self._others())
        self._kill_power(lose_state=True)

        def undo() -> None:
            with suppress(RefusedError, httpx.TransportError):  # its lease may last, and the other daemon be dead
                self._lab.client(other).delete(f"/nodes/h{host}")
            self._start(host)

        return undo

    def _start(self, number: int) -> None:
        try:
            self._lab.start(number)
        finally:  # the other bad luck may be starting, or killing, its daemon: its socket is another one all the same
            self._renewed(number)

    # The store.

    def _kill_member(self) -> Undo:
        host = self._random.choice(self._members())
        self._lab.member(host, "kill")
        return lambda: self._start_members([host])

    def _stop_member(self) -> Undo:
        host = self._random.choice(self._members())
        self._signal(host, "STOP", "-x", "etcd")
        return lambda: self._signal(host, "CONT", "-x", "etcd")

    def _kill_members(self) -> Undo:
        members = self._members()
        for number in members:
            with suppress(Error):
                self._lab.member(number, "kill")
        return lambda: self._start_members(members)

    def _start_members(self, members: Sequence[int]) -> None:
        for number in members:
            with suppress(Error):  # it was started with its host
                self._lab.member(number, "start")

    def _compact(self) -> Undo:
        words = "etcdctl --endpoints=127.0.0.1:2379 --command-timeout=5s"
        revision = f"{words} get x --write-out=fields | sed -n 's/\"Revision\" : //p'"
        for number in self._members():
            self._lab.run(number, "sh", "-c", f"{words} compact --physical $({revision})")
        return list


def dwell(random: Random, lease: float) -> Iterator[float]:
    """How long bad luck lasts: mostly shorter than a lease, now and then longer."""
    while True:
        yield random.uniform(0.2, lease / 2) if random.random() < 0.75 else random.uniform(lease / 2, lease * 1.6)
