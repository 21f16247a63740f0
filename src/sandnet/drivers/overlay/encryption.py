"""The tunnel that encrypts what this host's encrypted networks send to other hosts.

There is one for all of them, as long as there are any. VXLAN links of encrypted networks send to addresses of the
tunnel. These are reached by its link or not at all, by routes and by rules of the packet filter that do not depend on
it; so nothing is sent in clear while the link, its keys or its process are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from sandnet.drivers.overlay.tunnel_keys import TunnelKeys
from sandnet.errors import NO_ENCRYPTION, Error, Kind
from sandnet.kernel.safe_files import Files
from sandnet.kernel.vxlan.base import Underlay
from sandnet.kernel.wireguard.base import Tunnel, TunnelPeer, Tunnels
from sandnet.kernel.workers import Workers
from sandnet.model.tunnel import (
    TUNNEL_LINK,
    TUNNEL_OVERHEAD,
    TUNNEL_RANGE,
    HostTunnel,
    TunnelHost,
    tunnel_address,
)

_log = logging.getLogger(__name__)

TUNNEL_PORT: Final = 51871
"""UDP port of encrypted packets; 51820, WireGuard's usual one, is left to other programs."""
KEY_PERIOD: Final = 86_400
"""Seconds for which a key is used."""
LEAST_PERIOD: Final = 60
"""The shortest period: a change takes a third of it."""
KEY_FILE: Final = "wireguard.json"
UNSPECIFIED: Final = IPv6Address(0)
"""Local address of VXLAN links of encrypted networks: the route to the tunnel chooses the source, which changes with
the key."""


class TunnelSettings(NamedTuple):
    """What the operator chose."""

    state_dir: str = "/var/lib/sandnet"
    port: int = TUNNEL_PORT
    period: float = KEY_PERIOD


class Encryption:
    """The tunnel, its keys, and the networks that need it.

    Args:
        tunnels: of the kernel.
        workers: threads for its calls.
        settings: see :class:`TunnelSettings`.
    """

    def __init__(self, tunnels: Tunnels, workers: Workers, settings: TunnelSettings) -> None:
        self._tunnels, self._workers, self._settings = tunnels, workers, settings
        files = Files([settings.state_dir])
        self._keys = TunnelKeys(tunnels, files, f"{settings.state_dir}/{KEY_FILE}", settings.period)
        self.lacking = ""
        """Why this host can have no encrypted networks, as :meth:`announce` found it last; empty: it can."""
        self._announced: HostTunnel | None = None
        self._peers: frozenset[TunnelPeer] | None = None
        self._right: Tunnel | None = None
        """The tunnel as the kernel was last seen to have it."""
        self._is_used = False
        """Whether this host has encrypted networks."""
        self._lock = asyncio.Lock()

    def missing(self) -> str:
        """Return why this host can have no encrypted networks, as text; empty: it can."""
        return self._tunnels.missing()

    def refuse_without(self, name: str) -> None:
        """Refuse an encrypted network on a host that cannot have one.

        Raises:
            Error: ``UNAVAILABLE``, code ``no_encryption``.
        """
        if reason := self.missing():
            message = f"network {name} is encrypted, and this host cannot have it: {reason}"
            raise Error(Kind.UNAVAILABLE, message, code=NO_ENCRYPTION)

    async def announce(self, published: HostTunnel | None) -> HostTunnel | None:
        """Return what other hosts need to know; ``None``: this host can have no encrypted networks.

        It is also when keys are changed: called every few seconds.

        Args:
            published: what the other hosts can read.
        """
        try:
            self.lacking = await self._workers.run(self.missing)
            if self.lacking and not self._is_used:  # a tunnel that is there goes on without the program that made it
                self._announced = None
            if self.lacking:
                return self._announced
            # without the lock: the lease of this host must not wait for a process that hangs
            changed, keys = await self._workers.run(self._keys.announce, published.keys if published else ())
            if changed:
                _log.info("the tunnel to other hosts has another key")
                await self._apply_key()
            self._announced = HostTunnel(port=self._settings.port, keys=keys)
        except Error as failure:
            _log.warning("the key of the tunnel to other hosts: %s", failure)
            self.lacking = f"encrypted networks need a key: {failure.message}"
        return self._announced

    async def _apply_key(self) -> None:
        async with self._lock:
            if self._right:
                try:
                    await self._ensure(self._right.mtu)
                except Error as failure:  # the next comparison finds and repairs it
                    _log.warning("the tunnel to other hosts: %s", failure)

    async def set_hosts(self, hosts: Sequence[TunnelHost]) -> None:
        """Set the keys of the other hosts.

        Raises:
            Error: the kernel refuses; it is repaired later.
        """
        async with self._lock:
            self._peers = frozenset(peer for host in hosts for peer in _peers(host))
            if self._right and self._right.peers != self._peers:
                await self._ensure(self._right.mtu)

    async def use(self, underlay: Underlay) -> None:
        """Make the tunnel, or bring it into line.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        self._is_used = True
        async with self._lock:
            await self._ensure(_mtu(underlay))

    async def release(self, is_needed: Callable[[], bool]) -> None:
        """Delete the tunnel unless it is needed, which is asked when no one else changes it."""
        async with self._lock:
            if not is_needed():
                self._right, self._is_used = None, False
                await self._workers.run(self._tunnels.delete, TUNNEL_LINK, TUNNEL_RANGE)

    async def works(self) -> bool:
        """Return whether the tunnel is there, as far as it was seen to be right; cheap."""
        right = self._right
        return right is not None and await self._workers.run(self._tunnels.works, right)

    async def differences(self, underlay: Underlay) -> list[str]:
        """Return how the tunnel differs in the kernel."""
        async with self._lock:
            try:
                wanted = await self._workers.run(self._wanted, _mtu(underlay))
                found = await self._workers.run(self._tunnels.differences, wanted)
            except Error as failure:
                return [failure.message]
            self._right = None if found else wanted
            return found

    async def _ensure(self, mtu: int) -> None:
        wanted = await self._workers.run(self._wanted, mtu)
        self._right = None
        await self._workers.run(self._tunnels.ensure, wanted)
        self._right = wanted

    def _wanted(self, mtu: int) -> Tunnel:
        current, former = self._keys.in_use()
        addresses = tuple(tunnel_address(key) for key in (current.public, former) if key)
        return Tunnel(TUNNEL_LINK, self._settings.port, mtu, current.private, addresses, TUNNEL_RANGE, self._peers)


def _mtu(underlay: Underlay) -> int:
    return underlay.mtu - TUNNEL_OVERHEAD[underlay.address.version]


def _peers(host: TunnelHost) -> Iterable[TunnelPeer]:
    """Yield the keys of a host."""
    if not 0 < host.tunnel.port < 1 << 16:
        return
    for key in host.tunnel.accepted_keys:
        in_use = key == host.tunnel.keys[0]
        yield TunnelPeer(key, tunnel_address(key), host.underlay, host.tunnel.port, in_use)
