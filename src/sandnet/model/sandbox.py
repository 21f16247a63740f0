"""Sandboxes, and the attachments that join them to endpoints."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

import msgspec

from sandnet.model.address import Address
from sandnet.model.network import Phase
from sandnet.model.process import Process

KEY_LENGTH: Final = 12
"""Characters of a container id in its sandbox key, as the reference prints it."""
EARLIER_BOOT: Final = -1
"""In place of the inode of a namespace that went with an earlier boot of the machine: no namespace has it."""


class Origin(StrEnum):
    """Where a sandbox's network namespace came from."""

    MADE = "made"
    """Made for the container; gone with its last leave."""
    JOINED = "joined"
    """Found at a path or a pid; given back as it was."""
    HOST = "host"
    """The host's own namespace (the ``host`` driver); nothing in it is touched."""


class HostEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a hosts file."""

    name: str
    address: Address


class ParentUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A wish that the container behind ``endpoint_id`` knows ``name`` by ``address`` (libnetwork notes, C.4)."""

    endpoint_id: str
    name: str
    address: Address


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network stack: a namespace, its hosts and resolv.conf files, and who it is."""

    container_id: str
    key: str
    """Absolute path at which the namespace is pinned."""
    origin: Origin
    phase: Phase
    sequence: int
    created: float
    inode: int = 0
    """The namespace's inode number (``ls -i /proc/PID/ns/net``): tells it from one that took its path."""
    loopback_was_up: bool = False
    """Only of a joined namespace: whether ``lo`` was up when we came."""
    host_name: str = ""
    domain_name: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    resolv_conf_digest: str = ""
    """SHA-256 of the resolv.conf we wrote last: one that differs has been changed by its user and is left alone."""
    hosts_digest: str = ""
    """The same of a hosts file that is a copy of the host's."""
    made_dirs: tuple[str, ...] = ()
    """Directories of its files that were not there before, the innermost first: they go with it when they are empty."""
    kept_files: tuple[str, ...] = ()
    """Paths at which others had a file before the first join: it is set aside, and given back at the last leave."""
    dns: tuple[Address, ...] = ()
    dns_search: tuple[str, ...] = ()
    """Search domains of resolv.conf; empty: the networks', else the host's."""
    dns_options: tuple[str, ...] = ()
    """Options of resolv.conf, beside the networks' and the host's."""
    extra_hosts: tuple[HostEntry, ...] = ()
    parent_hosts: tuple[HostEntry, ...] = ()
    """Names other containers' ``parent_updates`` gave to this one."""
    parent_updates: tuple[ParentUpdate, ...] = ()
    """What its own joins are still to tell others."""
    process: Process | None = None
    """The process that a join named; when it has ended, the container is dead."""
    end_process: bool = False
    """``process`` runs for this sandbox alone: it is ended when everything is removed."""
    auto_remove: bool = False
    """Reclaim the sandbox when ``process`` ends; without one, when the namespace has had processes and none is left."""
    occupied: bool = False
    """Processes were seen in the namespace; only kept with ``auto_remove`` and no ``process``."""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint joined to a sandbox: one interface there, one link here."""

    endpoint_id: str
    network_id: str
    container_id: str
    phase: Phase
    sequence: int
    """Order of attachment: the first attached wins the default route among equal priorities."""
    interface: str = ""
    """Name inside the sandbox (``eth0``…); empty for drivers without links."""
    host_link: str = ""
    """Name of the veth end on the host (``snv`` and ten hex digits)."""
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    """The interface's own: the endpoint's, unless another backend had that when this one came."""
    mac: str = ""
    gateway_priority: int = 0
    holder: bool = True
    """It answers for the endpoint's address: of several backends one does."""
    leased: bool = False
    """Its own address is not the endpoint's but one more of the network, given back with the attachment."""
    weight: int = 1
    """Share of the new flows among the backends, 1 to 100."""
    drained: bool = False
    """No new flows; those it has go on."""
    healthy: bool = True
    """What its last probes said; true without a probe."""
    aliases: tuple[str, ...] = ()
    """Names this sandbox alone knows the endpoint by."""


class JoinSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish to join a container to an endpoint.

    At most one of ``netns`` and ``pid`` is set; with neither, a namespace is made.
    """

    container_id: str
    host_name: str = ""
    domain_name: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    dns: tuple[Address, ...] = ()
    dns_search: tuple[str, ...] = ()
    """Search domains of resolv.conf; empty: the networks', else the host's."""
    dns_options: tuple[str, ...] = ()
    """Options of resolv.conf, beside the networks' and the host's."""
    extra_hosts: tuple[HostEntry, ...] = ()
    parent_updates: tuple[ParentUpdate, ...] = ()
    use_default_sandbox: bool = False
    gateway_priority: int = 0
    weight: int = 1
    """1 to 100."""
    aliases: tuple[str, ...] = ()
    netns: str = ""
    """Absolute path of an existing network namespace."""
    pid: int = 0
    """Process whose network namespace becomes the sandbox, and whose end is the container's."""
    watch_pid: int = 0
    """Process whose end is the container's, where that is another one than ``pid``."""
    end_process: bool = False
    """End the process of ``watch_pid`` when everything is removed."""
    auto_remove: bool | None = None
    """Reclaim the sandbox when its container died; ``None``: where a process is named, or as before."""
