"""Records of sandboxes, and of the attachments that join them to endpoints."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

import msgspec

from sandnet.model.address import Address, Interface, all_addresses
from sandnet.model.interfaces.interface_options import InterfaceOptions
from sandnet.model.network import Phase
from sandnet.model.process import Process
from sandnet.model.supplied_link import SuppliedLink
from sandnet.model.tap import TapOptions

KEY_LENGTH: Final = 12
"""Characters of a container id in its sandbox key, as in the reference."""
EARLIER_BOOT: Final = -1
"""Inode for a namespace that ended with an earlier boot of the machine: no namespace has it."""


class Origin(StrEnum):
    """The origin of a sandbox's network namespace."""

    MADE = "made"
    """Created for the container; deleted with its last leave."""
    JOINED = "joined"
    """An existing namespace of a path or a pid; restored to its former state at the end."""
    HOST = "host"
    """The host's own namespace (the ``host`` driver); nothing in it is changed."""
    EXTERNAL = "external"
    """A namespace that a container engine creates and configures, often after the join. The engine moves the inner end
    of each link into it. Nothing in it is changed, and the daemon writes no files for it."""
    GUEST = "guest"
    """No namespace: the network stack is a virtual machine's. Each of its links is a tap on the host, which an emulator
    opens. Nothing is pinned at the key, and the daemon writes no files for it."""


class HostEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a hosts file."""

    name: str
    address: Address


class ParentUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A request to add ``name`` with ``address`` to the hosts file of the container behind ``endpoint_id``.

    Source: libnetwork notes, C.4.
    """

    endpoint_id: str
    name: str
    address: Address


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network stack: its identity, a namespace, and its hosts and resolv.conf files."""

    container_id: str
    key: str
    """Absolute path at which the namespace is pinned, by the engine if the namespace is external."""
    origin: Origin
    phase: Phase
    sequence: int
    created: float
    inode: int = 0
    """Inode number of the namespace (``ls -i /proc/PID/ns/net``); a later namespace at its path has another one."""
    loopback_was_up: bool = False
    """Whether ``lo`` was up before the first join; only for a joined namespace."""
    host_name: str = ""
    domain_name: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    resolv_conf_digest: str = ""
    """SHA-256 of the resolv.conf that we wrote last. A file that differs was changed by its user and is kept."""
    hosts_digest: str = ""
    """SHA-256 of a hosts file that is a copy of the host's."""
    made_dirs: tuple[str, ...] = ()
    """Directories created for its files, the innermost first: they are removed with it if they are empty."""
    kept_files: tuple[str, ...] = ()
    """Paths of files that existed before the first join: they are renamed, and restored at the last leave."""
    dns: tuple[Address, ...] = ()
    dns_search: tuple[str, ...] = ()
    """Search domains of resolv.conf; empty: the networks', else the host's."""
    dns_options: tuple[str, ...] = ()
    """Options of resolv.conf, in addition to the networks' and the host's."""
    extra_hosts: tuple[HostEntry, ...] = ()
    parent_hosts: tuple[HostEntry, ...] = ()
    """Hosts entries from the ``parent_updates`` of other containers."""
    parent_updates: tuple[ParentUpdate, ...] = ()
    """Updates from its own joins that are pending for other containers."""
    process: Process | None = None
    """Process in the join request; when it has exited, the container counts as exited."""
    end_process: bool = False
    """Whether ``process`` runs only for this sandbox, and is ended when everything is removed."""
    auto_remove: bool = False
    """Whether the sandbox is removed when ``process`` exits; without a process, when its namespace becomes empty."""
    occupied: bool = False
    """Whether processes were seen in the namespace; only kept with ``auto_remove`` and no ``process``."""
    watched_path: str = ""
    """Path of a joined namespace. Where it is given, ``auto_remove`` also waits until this path does not lead to the
    namespace any more."""

    @property
    def is_outside(self) -> bool:
        """Whether the daemon sets up nothing but the host's ends of its links: it enters no namespace, and writes no
        hosts and resolv.conf files.
        """
        return self.origin in (Origin.EXTERNAL, Origin.GUEST)

    @property
    def has_files(self) -> bool:
        """Whether the daemon writes its hosts and resolv.conf files."""
        return not self.is_outside


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint joined to a sandbox: an interface in the sandbox, a link on the host."""

    endpoint_id: str
    network_id: str
    container_id: str
    phase: Phase
    sequence: int
    """Order of attachment: among equal priorities the first attached one has the default route."""
    interface: str = ""
    """Name inside the sandbox (``eth0``…); empty for drivers without links. In an external namespace the engine chooses
    another name, and this is the one that the inner end has on the host (``sne`` and ten hex digits)."""
    host_link: str = ""
    """Name of the veth end, or of the tap, on the host (``snv`` and ten hex digits)."""
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    """Address of the interface: the endpoint's, unless another backend had it when this one was attached."""
    additional_addresses: tuple[Interface, ...] = ()
    """Further addresses of the interface: those of the endpoint."""
    mac: str = ""
    gateway_priority: int = 0
    holder: bool = True
    """Whether it answers for the endpoint's address: exactly one of several backends does."""
    leased: bool = False
    """Whether its address is not the endpoint's but a separate lease, released with the attachment."""
    weight: int = 1
    """Share of the new flows among the backends, 1 to 100."""
    drained: bool = False
    """Whether it gets no new flows; existing flows continue."""
    healthy: bool = True
    """Result of its last probes; true without a probe."""
    aliases: tuple[str, ...] = ()
    """Names of the endpoint that resolve only in this sandbox."""
    tap: TapOptions | None = None
    """The link is a tap, and ``interface`` is the name that the guest is advised to give its interface."""
    options: InterfaceOptions | None = None
    supplied: SuppliedLink | None = None
    """The link that a network plugin made for it; ``None``: the daemon makes the link, or there is none."""

    @property
    def addresses(self) -> tuple[Interface, ...]:
        """All addresses of the interface, the primary ones first."""
        return all_addresses(self.address, self.address_ipv6, self.additional_addresses)


class JoinSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request to join a container to an endpoint.

    At most one of ``netns`` and ``pid`` is set; with neither, a namespace is created.
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
    """Options of resolv.conf, in addition to the networks' and the host's."""
    extra_hosts: tuple[HostEntry, ...] = ()
    parent_updates: tuple[ParentUpdate, ...] = ()
    use_default_sandbox: bool = False
    gateway_priority: int = 0
    weight: int = 1
    """1 to 100."""
    aliases: tuple[str, ...] = ()
    netns: str = ""
    """Absolute path of an existing network namespace."""
    watch_netns: bool = False
    """Whether to remove the sandbox when no process is in it and ``netns`` does not lead to it any more."""
    interface: str = ""
    """Name of the interface inside; empty: the first free one of ``eth0``, ``eth1``…"""
    pid: int = 0
    """Process whose network namespace becomes the sandbox, and whose exit is the container's."""
    running_container: str = ""
    """Id, or the begin of one, of a container of another engine; its first process stands for ``pid``."""
    external_key: str = ""
    """Path at which a container engine pins the namespace, now or later; instead of ``netns`` and ``pid``."""
    watch_pid: int = 0
    """Process whose exit is the container's, if it is not ``pid``."""
    end_process: bool = False
    """Whether to end the process of ``watch_pid`` when everything is removed."""
    tap: TapOptions | None = None
    """The container is a virtual machine, and gets a tap."""
    options: InterfaceOptions | None = None
    auto_remove: bool | None = None
    """Whether to remove the sandbox when its container has exited; ``None``: if a process is given, else unchanged."""
