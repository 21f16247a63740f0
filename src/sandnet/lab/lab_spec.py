"""The description of a lab: how many hosts, with which addresses."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sandnet.errors import invalid

MOST_HOSTS: Final = 64
MOST_MEMBERS: Final = 3
"""An etcd cluster of three goes on without one of them."""
CLIENT_PORT, PEER_PORT = 2379, 2380
"""The ports of etcd, as IANA has them."""
PREFIX_LENGTH, PREFIX_LENGTH6 = 24, 64
SWITCH_ADDRESS: Final = f"10.200.0.254/{PREFIX_LENGTH}"
"""The supervisor's own address on the switch, from which it asks the members of the store how they are."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


class LabSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What ``sandnet lab up`` was asked for."""

    name: str
    hosts: int
    store: bool
    """Whether there is an etcd cluster, and the daemons use it."""
    mtu: int
    """Of the network between the hosts."""
    daemon_options: tuple[str, ...]
    """Further words of each ``sandnet daemon``."""
    etcd_options: tuple[str, ...] = ()
    """Further words of each ``etcd``."""
    program: str
    """Absolute path of ``sandnet``."""

    @property
    def members(self) -> int:
        """The number of etcd's members, on the first hosts. It is odd: a second one would only add a way to fail."""
        return 0 if not self.store else MOST_MEMBERS if self.hosts >= MOST_MEMBERS else 1

    @property
    def store_url(self) -> str:
        """The value of the daemons' ``--store``."""
        members = ",".join(f"{address(number)}:{CLIENT_PORT}" for number in range(1, self.members + 1))
        return f"etcd://{members}/sandnet"


def host_name(number: int) -> str:
    """Return the name of a host, which is also that of its port of the switch."""
    return f"h{number}"


def address(number: int) -> str:
    """Return a host's address on the network between the hosts."""
    return f"10.200.0.{number}"


def address6(number: int) -> str:
    """Return a host's IPv6 address there (RFC 4193)."""
    return f"fd00:200::{number}"


def check_name(name: str) -> None:
    """Refuse a name that is no single, plain component of a path.

    Raises:
        Error: ``INVALID``.
    """
    if not _NAME.fullmatch(name):
        hint = "use at most 31 lower-case letters, digits and hyphens"
        raise invalid(f"{name!r} cannot be the name of a lab", hint, "invalid_name")


def check_spec(spec: LabSpec) -> None:
    """Refuse numbers that no lab can have.

    Raises:
        Error: ``INVALID``.
    """
    check_name(spec.name)
    if not 1 <= spec.hosts <= MOST_HOSTS:
        raise invalid(f"a lab has between 1 and {MOST_HOSTS} hosts", code="invalid_hosts")
    if not 1280 <= spec.mtu <= 65535:
        raise invalid("the MTU must be between 1280, which IPv6 requires, and 65535", code="invalid_mtu")


def check_host(number: int, hosts: int) -> None:
    """Refuse a number that no host has.

    Raises:
        Error: ``INVALID``.
    """
    if not 1 <= number <= hosts:
        raise invalid(f"there is no host {number}", f"hosts are numbered from 1 to {hosts}", "no_such_host")
