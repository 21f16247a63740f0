"""The switch between the hosts: a bridge of the kernel, with cuts, delays and losses.

A host's port is one end of a veth pair on the bridge: without delay and loss, no program sees a packet. A host with a
delay or a loss has its port on a bridge of its own, which a delay line joins to the switch
(:mod:`sandnet.lab.delay_line`). Cuts are rules of the packet filter (nft, family bridge); there is none without cuts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.taps.device import check_available
from sandnet.lab.child_processes import ProcessTable, fork
from sandnet.lab.delay_line import Impairment, run_delay_line
from sandnet.lab.host_init import INTERFACE
from sandnet.lab.lab_spec import CLIENT_PORT, PEER_PORT, SWITCH_ADDRESS, host_name

BRIDGE: Final = "switch"
TABLE: Final = "lab"
_MAC: Final = "02:5a:6e:00:00"
"""The first octets of the hosts' addresses: locally administered."""
COMMAND_TIMEOUT: Final = 10.0
NO_IMPAIRMENT: Final = Impairment(0.0, 0.0)
_STORE_PACKETS: Final = tuple(f"tcp {side} {{ {CLIENT_PORT}, {PEER_PORT} }}" for side in ("dport", "sport"))


class Cut(NamedTuple):
    """What is dropped from one host to another."""

    source: int
    target: int
    store_only: bool


class Switch:
    """The bridge in the lab's own network namespace."""

    def __init__(self, processes: ProcessTable, mtu: int) -> None:
        self._processes, self._mtu = processes, mtu
        self._cuts: frozenset[Cut] = frozenset()
        self._impairments: dict[int, Impairment] = {}
        self._lines: dict[int, int] = {}
        """Pids of delay lines, by host."""

    def start(self) -> None:
        """Make the bridge."""
        _ip(
            "link set lo up",
            f"link add {BRIDGE} mtu {self._mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"address add {SWITCH_ADDRESS} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )

    def plug(self, hosts: dict[int, int]) -> None:
        """Connect hosts, given with the pids of their first processes."""
        _ip(*(line for number, pid in hosts.items() for line in self._plug_commands(number, pid)))
        for number in hosts:
            self._apply_impairment(number)

    def _plug_commands(self, number: int, pid: int) -> Iterator[str]:
        port = host_name(number)
        end = f"name {INTERFACE} address {_MAC}:{number:02x} mtu {self._mtu} netns {pid}"
        yield f"link add {port} mtu {self._mtu} type veth peer {end}"
        yield f"link set {port} master {BRIDGE} up"

    def unplug(self, number: int) -> None:
        """Remove the link of a host."""
        self._stop_line(number)
        with suppress(Error):  # it went with the network of a host that was killed
            _ip(f"link delete {host_name(number)}")

    # Cuts.

    def cut(self, pairs: Iterable[tuple[int, int]], *, store_only: bool) -> None:
        """Drop what goes from the first to the second host of each pair, besides what is dropped already."""
        self._replace_cuts(self._cuts | {Cut(source, target, store_only) for source, target in pairs})

    def cut_from(self, number: int, *, store_only: bool) -> tuple[int, ...]:
        """Return the hosts to which nothing goes, or nothing for etcd, from this one."""
        return tuple(sorted(cut.target for cut in self._cuts if cut[::2] == (number, store_only)))

    def heal(self) -> None:
        """Undo all cuts, delays and losses."""
        self._replace_cuts(frozenset())
        for number in [number for number, found in self._impairments.items() if found != NO_IMPAIRMENT]:
            self.impair(number, 0.0, 0.0)

    def _replace_cuts(self, cuts: frozenset[Cut]) -> None:
        rules = "".join(
            f"iifname {_ports(cut.source)} oifname {_ports(cut.target)} {match} drop\n"
            for cut in sorted(cuts)
            for match in (_STORE_PACKETS if cut.store_only else ("",))
        )
        chain = f"chain cuts {{\ntype filter hook forward priority 0\n{rules}}}\n"
        table = f"table bridge {TABLE} {{\n{chain}}}\n" if rules else ""
        _run(["nft", "-f", "-"], f"table bridge {TABLE}\ndelete table bridge {TABLE}\n{table}")
        self._cuts = cuts

    # Delay and loss.

    def impairment(self, number: int) -> Impairment:
        """Return the delay and the loss of a host."""
        return self._impairments.get(number, NO_IMPAIRMENT)

    def impair(self, number: int, delay: float | None, loss: float | None) -> None:
        """Change the delay or the loss of a host; frames that are on their way are lost.

        Raises:
            Error: ``UNAVAILABLE``: there are no taps (code ``no_taps``), or the delay line cannot be made. The host is
                then connected without one.
        """
        before = self.impairment(number)
        wanted = Impairment(before.delay if delay is None else delay, before.loss if loss is None else loss)
        if wanted != NO_IMPAIRMENT:
            check_available()
        self._impairments[number] = wanted
        try:
            self._apply_impairment(number)
        except Error:
            self._impairments[number] = NO_IMPAIRMENT
            self._remove_line(number)
            raise

    def _apply_impairment(self, number: int) -> None:
        if not _exists(host_name(number)):  # a host without power; its next start applies it
            return
        self._stop_line(number)
        if self.impairment(number) != NO_IMPAIRMENT:
            self._start_line(number)

    def _start_line(self, number: int) -> None:
        port, (bridge, near, far) = host_name(number), _line_links(number)
        impairment = self.impairment(number)
        _ip(
            f"link add {bridge} mtu {self._mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            *(f"tuntap add dev {tap} mode tap" for tap in (near, far)),
            *(f"link set {tap} mtu {self._mtu}" for tap in (near, far)),
            f"link set {near} master {bridge} up",
            f"link set {far} master {BRIDGE} up",
            f"link set {port} master {bridge}",
            f"link set {bridge} up",
        )
        self._lines[number] = fork(lambda: run_delay_line(near, far, impairment))
        self._processes.add(self._lines[number])

    def _stop_line(self, number: int) -> None:
        if number in self._lines:
            self._processes.kill_and_wait(self._lines.pop(number))
            self._remove_line(number)

    def _remove_line(self, number: int) -> None:
        with suppress(Error):
            _ip(f"link set {host_name(number)} master {BRIDGE}")
        for link in _line_links(number):
            with suppress(Error):
                _ip(f"link delete {link}")


def _line_links(number: int) -> tuple[str, str, str]:
    """Return the names of a delay line's bridge, of its end towards the host, and of that towards the switch."""
    return f"line{number}", f"near{number}", f"far{number}"


def _ports(number: int) -> str:
    """Return the set of names by which a host is connected to the switch, with and without a delay line."""
    return f'{{ "{host_name(number)}", "{_line_links(number)[2]}" }}'


def _ip(*commands: str) -> None:
    _run(["ip", "-batch", "-"], "".join(f"{command}\n" for command in commands))


def _exists(link: str) -> bool:
    found = subprocess.run(["ip", "link", "show", link], capture_output=True, check=False)
    return found.returncode == 0


def _run(command: list[str], text: str) -> None:
    try:
        subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as failure:
        printed = str(failure.stderr) if isinstance(failure, subprocess.CalledProcessError) else ""
        reason = printed.strip() or str(failure)
        message = f"cannot change the network of the lab: {reason}"
        raise Error(Kind.UNAVAILABLE, message, code="lab_network") from failure
