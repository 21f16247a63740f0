"""The interfaces of sandboxes, the leases of their addresses, and the taps of virtual machines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

UserId = Annotated[int, Meta(ge=0, le=2**32 - 2)]
Queues = Annotated[int, Meta(ge=1, le=256)]


class AddressLease(Struct, kw_only=True):
    """What the server of the segment gave an endpoint, while a container is attached."""

    server: str | None
    obtained: datetime
    """When it was given, or renewed last."""
    ends: datetime | None
    """``null``: it does not end."""
    router: str | None
    dns: list[str]
    domain: str


class TapRequest(Struct, kw_only=True, omit_defaults=True):
    """Options of a join with ``"type": "tap"``."""

    owner: UserId | None = None
    """User id that may open the tap; 0 when absent."""
    group: UserId | None = None
    """Group id whose members may open it; absent: only the owner."""
    queues: Queues | None = None
    """How often the emulator opens it, once for each pair of queues; 1 when absent."""
    vhost: bool | None = None
    """Whether the emulator is to use ``/dev/vhost-net``; false when absent."""
    offload: bool | None = None
    """Whether the emulator is to pass large segments and partial checksums; true when absent."""
    place: Literal["host", "sandbox"] | None = None
    """Where the tap is: on the host, or in the sandbox's namespace, where the emulator runs; ``host`` when absent."""


class Tap(Struct, kw_only=True):
    """A tap: what an emulator and its guest need of it."""

    container: str
    """The id that stands for the virtual machine."""
    network: str
    """The network's name."""
    device: str
    """The tap's name, on the host or in the namespace."""
    netns: str | None
    """Path of the namespace that the tap is in; ``null``: it is on the host."""
    interface: str
    """The name that the guest's interface should have."""
    mac: str
    """The MAC that the guest must use; frames with another one are dropped."""
    mtu: int
    address: str
    """The guest's address in CIDR notation."""
    address_ipv6: str | None
    additional_addresses: list[str] = []
    """Further addresses that the guest may set."""
    gateway: str | None
    """``null``: no default route leads through this interface."""
    gateway_ipv6: str | None
    name_servers: list[str]
    host_name: str
    kernel_argument: str
    """``ip=…`` for a guest whose kernel, or first process, reads it from the kernel's command line."""
    owner: int
    group: int | None
    queues: int
    vhost: bool
    offload: bool


class SandboxInterface(Struct, kw_only=True):
    """An endpoint's interface inside a sandbox."""

    endpoint: str
    """The endpoint's id."""
    network: str
    """The network's name."""
    interface: str
    address: str | None
    address_ipv6: str | None
    additional_addresses: list[str] = []
    mac: str | None
    gateway_priority: int
    state: str
    aliases: list[str] = []
    """Names of the endpoint that resolve only in this sandbox."""
    tap: Tap | UnsetType = UNSET
    """Only of a virtual machine."""
