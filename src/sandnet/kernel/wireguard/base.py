"""A WireGuard link to other hosts, and the routes that keep what is meant for it from leaving by another link."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple, Protocol

from sandnet.model.address import Address


class PrivateKey(str):
    """A private key, as WireGuard writes it. It does not show itself in logs and in the texts of failed assertions."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<private key>"


class TunnelPeer(NamedTuple):
    """A key of another host."""

    public_key: str
    address: IPv6Address
    """Its address inside of the tunnel."""
    host: Address
    port: int
    """Where its host receives encrypted packets."""
    in_use: bool = True
    """Whether its host uses the key already; a next one is only accepted."""


class Tunnel(NamedTuple):
    """A WireGuard link as it should be."""

    name: str
    port: int
    """UDP port that receives encrypted packets."""
    mtu: int
    private_key: PrivateKey
    addresses: tuple[IPv6Address, ...]
    """This host's own ones, the source of what it sends first."""
    range: IPv6Network
    """The addresses of all hosts, which are reached by this link or not at all."""
    peers: frozenset[TunnelPeer] | None
    """``None``: they are not known yet, and stay as they are."""


class Tunnels(Protocol):
    """WireGuard links: of the kernel where it has them, and else of the program wireguard-go."""

    def missing(self) -> str:
        """Return why this host can have none, as text with what to install; empty: it can."""
        ...

    def new_key(self) -> PrivateKey:
        """Return a new key.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        ...

    def public_key(self, key: PrivateKey) -> str:
        """Return the public half of a key.

        Raises:
            Error: ``UNAVAILABLE``; ``INVALID``: it is no key.
        """
        ...

    def ensure(self, tunnel: Tunnel) -> None:
        """Bring the link, its process, its addresses, keys and routes into line; what is right stays untouched.

        First comes the route that refuses the range, which is used while there is no link.

        Raises:
            Error: ``UNAVAILABLE``; ``CONFLICT`` a link of that name is no WireGuard link.
        """
        ...

    def works(self, tunnel: Tunnel) -> bool:
        """Return whether the link, its process and the route to it are there; cheap."""
        ...

    def differences(self, tunnel: Tunnel) -> list[str]:
        """Return how the kernel differs, as texts; not where peers send from, as they may move."""
        ...

    def delete(self, name: str, addresses: IPv6Network) -> None:
        """Delete the link, its process and all routes to a range; absent ones are success."""
        ...
