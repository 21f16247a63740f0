"""The WireGuard links of the in-memory kernel."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from ipaddress import IPv6Network
from itertools import count
from typing import Final

from sandnet.errors import NO_ENCRYPTION, Error, Kind, invalid
from sandnet.kernel.fake.common import FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.wireguard.base import PrivateKey, Tunnel
from sandnet.model.tunnel import is_public_key

_KIND: Final = "wireguard"


class FakeTunnels:
    """See :class:`sandnet.kernel.wireguard.base.Tunnels`."""

    area = "tunnels"

    def __init__(self, faults: FaultInjector, links: FakeLinks) -> None:
        self.faults = faults
        self.reason = ""
        """Why there is no WireGuard; empty: there is."""
        self.made: dict[str, Tunnel] = {}
        self.refused: set[IPv6Network] = set()
        """Ranges that are reached by their link or not at all."""
        self._links = links
        self._keys = count(1)

    @recorded
    def missing(self) -> str:
        """Return the reason that a test has set."""
        return self.reason

    @recorded
    def new_key(self) -> PrivateKey:
        """Return the next key."""
        return PrivateKey(b64encode(next(self._keys).to_bytes(32, "big")).decode())

    @recorded
    def public_key(self, key: PrivateKey) -> str:
        """Return a digest."""
        if not is_public_key(key):
            raise invalid("this is no private key of WireGuard", code="invalid_key")
        return b64encode(hashlib.sha256(key.encode()).digest()).decode()

    @recorded
    def ensure(self, tunnel: Tunnel) -> None:
        """Make the link."""
        self.refused.add(tunnel.range)
        found = self._links.present.get(tunnel.name)
        if found and found.kind != _KIND:
            raise Error(Kind.CONFLICT, f"link {tunnel.name} is there and is no WireGuard link")
        if found is None:
            if self.reason:
                raise Error(Kind.UNAVAILABLE, self.reason, code=NO_ENCRYPTION)
            self._links.add(tunnel.name, _KIND)
        known = self._present(tunnel.name)
        peers = tunnel.peers if tunnel.peers is not None else known.peers if known else frozenset()
        self._links.present[tunnel.name] = self._links.present[tunnel.name]._replace(mtu=tunnel.mtu, up=True)
        self.made[tunnel.name] = tunnel._replace(peers=peers)

    @recorded
    def works(self, tunnel: Tunnel) -> bool:
        """Return whether the link is there."""
        return self._present(tunnel.name) is not None

    @recorded
    def differences(self, tunnel: Tunnel) -> list[str]:
        """Return which fields differ."""
        found = self._present(tunnel.name)
        if found is None:
            return [f"WireGuard link {tunnel.name}: it is gone"]
        names = [name for name in Tunnel._fields if name != "peers" or tunnel.peers is not None]
        return [
            f"WireGuard link {tunnel.name}: {name}" for name in names if getattr(found, name) != getattr(tunnel, name)
        ]

    @recorded
    def delete(self, name: str, addresses: IPv6Network) -> None:
        """Delete the link and the routes."""
        found = self._links.present.get(name)
        if found and found.kind == _KIND:
            self._links.drop(name)
        self.made.pop(name, None)
        self.refused.discard(addresses)

    def _present(self, name: str) -> Tunnel | None:
        """Return a link, as far as no other program deleted it or set it down."""
        link = self._links.present.get(name)
        return self.made.get(name) if link and link.up and link.kind == _KIND else None
