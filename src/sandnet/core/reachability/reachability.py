"""How this host reaches each of the others: on request, and watched, for health.

A host is checked when it joins, when its address or its lease changes, when an overlay network needs larger packets,
and now and then. What fails is a problem only after a second check.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.core.cluster.shared_values import HostRecord
from sandnet.core.cluster.view import ClusterView
from sandnet.core.reachability.path_check import DEADLINE, PathCheck, PathState
from sandnet.core.reachability.probe_exchange import ProbeExchange
from sandnet.errors import not_found
from sandnet.kernel.vxlan.base import Underlay, overhead
from sandnet.model import Network

_log = logging.getLogger(__name__)

TICK: Final = 2.0
"""Seconds from one look for hosts to be checked to the next; those that failed are checked each time."""
KEPT: Final = 60.0
"""Seconds after which a host that passed is checked again."""
FAILED_TWICE: Final = 2
_AT_ONCE: Final = 128
"""Checks at a time."""
CLOCKS: Final = 1.0
"""Seconds by which clocks may differ without a remark."""
_UNKNOWN: Final = PathState("unknown", echo=False)


class HostReachability(NamedTuple):
    """What is known of the way to a host."""

    host: HostRecord
    alive: bool
    """Whether its lease lasts."""
    path: PathState
    needed: int
    """Size of the packets of overlay networks, outside; 0: there is none."""
    faults: tuple[str, ...]
    """What keeps packets from passing, each with a way out; health reports it after a second check."""
    remarks: tuple[str, ...]
    """What else is wrong."""

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong."""
        return self.faults + self.remarks


class _Sizes(NamedTuple):
    """Sizes of packets outside."""

    needed: int
    """Of the overlay networks that there are; 0: there is none."""
    around: int
    """How many bytes of these are around the packets of the network that needs the largest ones."""
    tried: int
    """The largest that a network could need."""


class _Watched(NamedTuple):
    identity: tuple[object, ...]
    """What makes a new check necessary when it changes."""
    checked: float
    failures: int
    faults: tuple[str, ...]
    path_mtu: int


class Reachability:
    """This host's way to the others.

    Args:
        name: this host's.
        view: what the shared store holds.
        exchange: sends and answers probes.
        underlay: returns how this host reaches the others, as it is now; ``None``: not at all.
        networks: returns this host's networks.
    """

    def __init__(
        self,
        name: str,
        view: ClusterView,
        exchange: ProbeExchange,
        underlay: Callable[[], Awaitable[Underlay | None]],
        networks: Callable[[], Iterable[Network]],
    ) -> None:
        self._name, self._view, self._exchange = name, view, exchange
        self._underlay, self._networks = underlay, networks
        self._watched: dict[str, _Watched] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Answer probes, and watch the other hosts."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop both."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._exchange.close()

    @property
    def problems(self) -> list[str]:
        """What was wrong at the last two checks of each host, as texts for health."""
        failing = [(name, each) for name, each in sorted(self._watched.items()) if each.failures >= FAILED_TWICE]
        return [f"host {name}: {problem}" for name, each in failing for problem in each.faults]

    def smallest_path(self) -> int:
        """Return the size of the largest packet that reaches every host that answers; 0: none answers."""
        return min((each.path_mtu for each in self._watched.values() if each.path_mtu), default=0)

    async def check(self, name: str = "") -> list[HostReachability]:
        """Check the way to one host, or to all others, at the same time; it takes about two seconds at most.

        Raises:
            Error: ``NOT_FOUND``: there is no such host.
        """
        if name and self._view.host(name) is None:
            raise not_found("node", name, "see the nodes there are with: sandnet node ls")
        hosts = [host for host in self._view.hosts() if host.name != self._name and name in ("", host.name)]
        sizes = await self._prepare()
        found = await asyncio.gather(*(self._checked(host, sizes) for host in hosts))
        for each in found:
            if each.alive:
                self._note(self._identity(each.host, sizes), each)
        return [*found]

    async def _prepare(self) -> _Sizes:
        """Open what probes need; return which sizes matter."""
        underlay = await self._underlay()
        await self._exchange.ensure(underlay.address if underlay else None)
        if underlay is None:
            return _Sizes(0, 0, 0)
        version = underlay.address.version
        arounds = [(net.mtu, overhead(version, encrypted=net.options.encrypted)) for net in self._networks() if net.vni]
        needed, around = max(((mtu + around, around) for mtu, around in arounds), default=(0, 0))
        return _Sizes(needed, around, max(needed, underlay.mtu))

    async def _checked(self, host: HostRecord, sizes: _Sizes) -> HostReachability:
        alive, path = self._view.alive(host.name) is not None, _UNKNOWN
        local = self._exchange.local
        if local and host.underlay and host.underlay.version == local.version and host.underlay != local:
            async with self._slots:
                try:
                    async with asyncio.timeout(DEADLINE):
                        path = await PathCheck(self._exchange, local, host.underlay, sizes.tried).run()
                except OSError as failure:  # a timeout as well
                    _log.info("host %s cannot be probed: %s", host.name, failure)
        faults = _faults(host, path, self._exchange, sizes, alive=alive)
        return HostReachability(host, alive, path, sizes.needed, tuple(faults), tuple(_remarks(path)))

    # Watching.

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # whatever goes wrong: other hosts must go on getting answers
                _log.exception("the other hosts could not be checked")
            await asyncio.sleep(TICK)

    async def _look(self) -> None:
        sizes = await self._prepare()
        hosts = {host.name: host for host in self._view.hosts() if host.name != self._name}
        self._watched = {name: each for name, each in self._watched.items() if name in hosts}
        now = time.monotonic()
        due: list[HostRecord] = []
        for name, host in hosts.items():
            if self._view.alive(name) is None:
                self._watched.pop(name, None)
                continue
            known = self._watched.get(name)
            same = known is not None and known.identity == self._identity(host, sizes)
            if known is None or not same or known.failures or now - known.checked > KEPT:
                due.append(host)
        for found in await asyncio.gather(*(self._checked(host, sizes) for host in due)):
            self._note(self._identity(found.host, sizes), found)

    def _identity(self, host: HostRecord, sizes: _Sizes) -> tuple[object, ...]:
        return self._view.alive(host.name), host.underlay, sizes, self._exchange.local

    def _note(self, identity: tuple[object, ...], found: HostReachability) -> None:
        name = found.host.name
        known = self._watched.get(name)
        failures = (known.failures if known and known.identity == identity else 0) + 1 if found.faults else 0
        if failures == FAILED_TWICE:
            _log.warning("host %s: %s", name, "; ".join(found.faults))
        self._watched[name] = _Watched(identity, time.monotonic(), failures, found.faults, found.path.path_mtu or 0)


def _faults(host: HostRecord, path: PathState, exchange: ProbeExchange, sizes: _Sizes, *, alive: bool) -> Sequence[str]:
    found = [] if alive else ["its lease has ended: its daemon does not run there, or does not reach the store"]
    if host.underlay is None:
        return [*found, "it has no address for other hosts: set underlay in its configuration"]
    if exchange.local is None:
        return [*found, f"no probe is possible: {exchange.problem}"]
    if host.underlay.version != exchange.local.version:
        return [*found, f"it is at {host.underlay} and this host at {exchange.local}: choose one family for all hosts"]
    return [*found, *_of_path(path, exchange.port, sizes)]


def _of_path(path: PathState, port: int, sizes: _Sizes) -> Sequence[str]:
    found = []
    match path.vxlan, path.echo:
        case "refused", _:
            found.append(f"nothing receives UDP port {port} there: its daemon does not run, or has another vxlan_port")
        case "silent", True:
            found.append(
                f"it is there, but does not answer at UDP port {port}: its daemon does not run, or a firewall of the "
                "two hosts does not accept that port"
            )
        case "silent", False:
            found.append("nothing comes back from its address: look at the route, the cable and the firewalls")
        case "unknown", _:
            found.append("it could not be probed in time")
        case _:
            pass
    if path.path_mtu and path.path_mtu < sizes.needed:
        found.append(
            f"packets of {path.path_mtu} bytes pass, and overlay networks send {sizes.needed}: raise the MTU of the "
            f"links between the hosts, or use networks with mtu={path.path_mtu - sizes.around}"
        )
    return found


def _remarks(path: PathState) -> Iterator[str]:
    if path.clock is not None and abs(path.clock) > CLOCKS + (path.round_trip or 0):
        ahead = "ahead" if path.clock > 0 else "behind"
        yield f"its clock is {abs(path.clock):.1f} s {ahead}: nothing in sandnet compares clocks, but logs do"
