"""Configure WireGuard links with the program ``wg`` (wg(8)), which does it for the kernel's and for wireguard-go's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind
from sandnet.kernel.wireguard.base import PrivateKey, Tunnel, TunnelPeer

PROGRAM: Final = "wg"
SILENT: Final = "wireguard_silent"
"""Error code: the process of a link does not answer."""
_DEADLINE: Final = 5.0
"""Seconds: it answers within 20 ms."""
_STDIN: Final = "/proc/self/fd/0"
"""Not ``/dev/stdin``: udev makes that, which a small machine may lack."""
_KEEPALIVE: Final = "25"
"""Seconds between keepalives to a silent peer, as wg(8) recommends."""
_OFF: Final = "off"


class PeerState(NamedTuple):
    """A peer as ``wg`` shows it."""

    endpoint: str
    """Where it receives."""
    allowed: str
    """Its addresses inside."""
    keepalive: str


class Configured(NamedTuple):
    """A link as ``wg`` shows it."""

    private_key: PrivateKey
    port: int
    peers: dict[str, PeerState]
    """By public key."""


def ask(*words: str, secret: str = "") -> str:
    """Run ``wg`` and return what it prints.

    Args:
        words: its arguments, which other users of the machine can see.
        secret: what it reads from its standard input.

    Raises:
        Error: ``UNAVAILABLE``; with the code ``SILENT``: the process that it asked does not answer.
    """
    try:
        done = subprocess.run(
            ["wg", *words], input=secret, capture_output=True, text=True, timeout=_DEADLINE, check=False
        )
    except subprocess.TimeoutExpired as failure:
        raise Error(Kind.UNAVAILABLE, f"wg {words[0]} does not end: {failure}", code=SILENT) from failure
    except OSError as failure:
        raise Error(
            Kind.UNAVAILABLE, f"cannot run wg: {failure.strerror}", "apt-get install wireguard-tools"
        ) from failure
    if done.returncode:
        raise Error(Kind.UNAVAILABLE, f"wg {words[0]} failed: {done.stderr.strip()[:200]}")
    return done.stdout


def show(name: str) -> Configured:
    """Return how a link is configured.

    Raises:
        Error: as :func:`ask`.
    """
    return parsed(ask("show", name, "dump"))


def parsed(dump: str) -> Configured:
    """Return what ``wg show … dump`` prints.

    Raises:
        Error: ``UNAVAILABLE``: it is something else.
    """
    first, *others = dump.splitlines() or [""]
    try:
        private_key, _public_key, port, _mark = first.split("\t")
        peers = {}
        for line in others:
            public_key, _shared, endpoint, allowed, *_statistics, keepalive = line.split("\t")
            peers[public_key] = PeerState(endpoint, allowed, keepalive)
        return Configured(PrivateKey(private_key), int(port), peers)
    except ValueError as failure:
        raise Error(Kind.UNAVAILABLE, "wg prints something else than expected") from failure


def configure(tunnel: Tunnel) -> None:
    """Change what differs, and nothing else: a port that is set again would be closed for a moment.

    A peer whose keepalives begin is greeted at once. Otherwise it would go on sending by keys that a process had before
    it was killed, until 15 s without an answer have passed.

    Raises:
        Error: as :func:`ask`.
    """
    found = show(tunnel.name)
    if found.private_key != tunnel.private_key:
        silent = [word for key in found.peers for word in ("peer", key, "persistent-keepalive", _OFF)]
        ask("set", tunnel.name, "private-key", _STDIN, *silent, secret=tunnel.private_key)
        found = show(tunnel.name)
    words = [*changes(found, tunnel)]
    if words:
        ask("set", tunnel.name, *words)


def changes(found: Configured, tunnel: Tunnel) -> Iterator[str]:
    """Yield the arguments of ``wg set`` that make a link with the right key what it should be; none: it is."""
    if found.port != tunnel.port:
        yield from ("listen-port", str(tunnel.port))
    if tunnel.peers is None:
        return
    wanted = {peer.public_key: peer for peer in tunnel.peers}
    for key in found.peers.keys() - wanted.keys():
        yield from ("peer", key, "remove")
    for key, peer in wanted.items():
        state = _state(peer)
        if found.peers.get(key) != state:
            yield from ("peer", key, "endpoint", state.endpoint, "allowed-ips", state.allowed)
            yield from ("persistent-keepalive", state.keepalive)


def differences(found: Configured, tunnel: Tunnel) -> Iterator[str]:
    """Yield how a link differs, as texts; where peers send from may change, and is no fault."""
    if found.port != tunnel.port:
        yield f"its port is {found.port}, not {tunnel.port}"
    if found.private_key != tunnel.private_key:
        yield "its private key is another one"
    if tunnel.peers is None:
        return
    wanted = {peer.public_key: _state(peer)[1:] for peer in tunnel.peers}
    present = {key: state[1:] for key, state in found.peers.items()}
    for key in sorted(wanted.keys() - present.keys()):
        yield f"the peer {key} is missing"
    for key in sorted(present.keys() - wanted.keys()):
        yield f"the peer {key} should not be there"
    for key in sorted(wanted.keys() & present.keys()):
        if wanted[key] != present[key]:
            yield f"the peer {key} has other addresses, or is greeted otherwise"


def _state(peer: TunnelPeer) -> PeerState:
    endpoint = f"[{peer.host}]:{peer.port}" if peer.host.version == 6 else f"{peer.host}:{peer.port}"
    return PeerState(endpoint, f"{peer.address}/128", _KEEPALIVE if peer.in_use else _OFF)
