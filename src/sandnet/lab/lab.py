"""The lab as a whole: its hosts, its switch and its store, and what requests change in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind, invalid
from sandnet.lab.child_processes import ProcessTable
from sandnet.lab.etcd_member import member_role
from sandnet.lab.lab_host import LabHost
from sandnet.lab.lab_messages import HostStatus, LabStatus
from sandnet.lab.lab_spec import LabSpec, address, address6, check_host
from sandnet.lab.switch import Switch

START_DEADLINE: Final = 40.0
"""Seconds in which a new cluster elects its leader, and in which daemons serve: they take two or three."""
_STEP: Final = 0.02
_MEMBER_ACTIONS: Final = {
    "start": LabHost.start_member,
    "stop": LabHost.stop_member,
    "kill": LabHost.kill_member,
}


class Lab:
    """All that the supervisor has started.

    Args:
        spec: what the lab has.
        folder: its directory.
        processes: where the ends of processes are noticed.
    """

    def __init__(self, spec: LabSpec, folder: Path, processes: ProcessTable) -> None:
        self.spec = spec
        self._folder = folder
        self._since = time.time()
        self._switch = Switch(processes, spec.mtu)
        self._hosts = {
            number: LabHost(number, spec, folder / "hosts" / str(number), processes)
            for number in range(1, spec.hosts + 1)
        }

    # Start.

    def start(self, report: Callable[[str], None]) -> None:
        """Start everything, and report each step when it is done.

        Raises:
            Error: ``UNAVAILABLE``, something does not start.
        """
        began = time.monotonic()
        self._switch.start()
        self._power_on(self._hosts.values())
        last = self.spec.hosts
        hosts = "host h1" if last == 1 else f"hosts h1 to h{last}"
        report(f"{hosts} on {address(1)}{f' to .{last}' if last > 1 else ''}, {address6(1)}: {_elapsed(began)}")
        for host in self._hosts.values():
            host.start_member()
        self._await_store(began, report)
        for host in self._hosts.values():
            host.start_daemon()
        self._await_daemons(began, report)

    def _power_on(self, hosts: Iterable[LabHost]) -> None:
        started = [(host, host.power_on()) for host in hosts]
        self._switch.plug({host.number: power.pid for host, power in started})
        for host, power in started:
            host.finish_power_on(power)

    def _await_store(self, began: float, report: Callable[[str], None]) -> None:
        members = [host for host in self._hosts.values() if host.has_member]
        if not members:
            return
        roles = _await(
            "the store has no leader",
            lambda: [_State(host, self._store_role(host), host.member_log) for host in members],
            {"leader", "follower"},
        )
        leader = next((found.host.number for found in roles if found.state == "leader"), 0)
        count = "1 member" if len(members) == 1 else f"{len(members)} members"
        report(f"etcd with {count}, led by host {leader}: {_elapsed(began)}")

    def _await_daemons(self, began: float, report: Callable[[str], None]) -> None:
        hosts = self._hosts.values()
        _await(
            "a daemon does not serve",
            lambda: [_State(host, host.daemon_state(), host.daemon_log) for host in hosts],
            {"ready"},
        )
        count = "1 daemon" if len(hosts) == 1 else f"{len(hosts)} daemons"
        report(f"{count} ready: {_elapsed(began)}")

    # Requests.

    def status(self) -> LabStatus:
        """Return how everything is."""
        return LabStatus(
            name=self.spec.name,
            directory=str(self._folder),
            store_url=self.spec.store_url if self.spec.members else "",
            since=self._since,
            hosts=tuple(self._host_status(host) for host in self._hosts.values()),
        )

    def _host_status(self, host: LabHost) -> HostStatus:
        delay, loss = self._switch.impairment(host.number)
        return HostStatus(
            number=host.number,
            name=host.name,
            address=address(host.number),
            address6=address6(host.number),
            power=host.has_power,
            daemon=host.daemon_state(),
            store=self._store_role(host),
            delay=delay,
            loss=loss,
            cut_from=self._switch.cut_from(host.number, store_only=False),
            cut_from_store_of=self._switch.cut_from(host.number, store_only=True),
            daemon_log=host.daemon_log,
            store_log=host.member_log if host.has_member else "",
        )

    def _store_role(self, host: LabHost) -> str:
        return host.member_state() or (member_role(host.number) if host.has_member else "")

    def host(self, number: int) -> LabHost:
        """Return a host.

        Raises:
            Error: ``INVALID``, there is none of this number.
        """
        check_host(number, self.spec.hosts)
        return self._hosts[number]

    def cut(self, pairs: Iterable[tuple[int, int]], *, store_only: bool) -> None:
        """Drop what goes from the first to the second host of each pair."""
        checked = [(self.host(source).number, self.host(target).number) for source, target in pairs]
        self._switch.cut(checked, store_only=store_only)

    def heal(self) -> None:
        """Undo all cuts, delays and losses."""
        self._switch.heal()

    def impair(self, number: int, delay: float | None, loss: float | None) -> None:
        """Change the delay or the loss of a host."""
        self._switch.impair(self.host(number).number, delay, loss)

    def kill(self, number: int, *, power: bool, lose_state: bool) -> None:
        """Kill a host's daemon, or all of the host: then nothing of it reaches the others any more, no last packet."""
        host = self.host(number)
        if not power:
            host.kill_daemon()
            return
        self._switch.unplug(number)
        host.power_off()
        if lose_state:
            host.lose_state()

    def start_host(self, number: int) -> None:
        """Start what is not running on a host: its power, its member of etcd, its daemon."""
        host = self.host(number)
        if not host.has_power:
            self._switch.unplug(number)
            self._power_on([host])
            host.start_member()
        host.start_daemon()

    def change_member(self, number: int, action: str) -> None:
        """Start, stop or kill the member of etcd on a host.

        Raises:
            Error: ``INVALID``, it has none.
        """
        host = self.host(number)
        if not host.has_member:
            members = self.spec.members
            hint = f"the members are on the hosts 1 to {members}" if members else "this lab was made without a store"
            raise invalid(f"the host {number} has no member of etcd", hint, "no_member")
        host.require_power()
        _MEMBER_ACTIONS[action](host)


class _State(NamedTuple):
    host: LabHost
    state: str
    log: str


def _await(what: str, read: Callable[[], list[_State]], good: Collection[str]) -> list[_State]:
    """Wait until all hosts are in a good state, and return these.

    Raises:
        Error: ``UNAVAILABLE``, something has ended, or takes too long.
    """
    deadline = time.monotonic() + START_DEADLINE
    states = read()
    while missing := [found for found in states if found.state not in good]:
        ended = [found for found in missing if "ended" in found.state]
        if ended or time.monotonic() > deadline:
            host, state, log = (ended or missing)[0]
            hint = f"its log ends: {host.log_tail(log)}"
            raise Error(Kind.UNAVAILABLE, f"{what}: host {host.number}: {state}", hint, "lab_not_started")
        time.sleep(_STEP)
        states = read()
    return states


def _elapsed(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
