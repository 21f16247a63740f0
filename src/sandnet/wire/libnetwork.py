"""The dialect of the reference: messages of the 2015 libnetwork REST interface.

Fields are in the order in which the reference prints them. In requests ``None`` means absent, unknown fields are
ignored, and only types and numeric ranges are checked here. In responses the fields with the default ``UNSET`` are the
verbose ones: they are left out unless the request has ``verbose=true``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sandnet.wire.bandwidth import Bandwidth
from sandnet.wire.direct_ports import DirectPort
from sandnet.wire.interface_options import InterfaceRequest
from sandnet.wire.sandbox_interfaces import AddressLease, SandboxInterface, TapRequest

T = TypeVar("T")

Port = Annotated[int, Meta(ge=1, le=65535)]
HostPort = Annotated[int, Meta(ge=0, le=65535, description="0: the daemon chooses")]
Protocol = Annotated[int, Meta(ge=0, le=255, description="IP protocol number: 6 TCP, 17 UDP, 132 SCTP")]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Weight = Annotated[int, Meta(ge=1, le=100, description="share of the new flows among the backends")]
Affinity = Literal["flow", "client"]
Pid = Annotated[int, Meta(ge=0, le=2**22, description="0: none; the kernel's PID_MAX_LIMIT is 2^22")]

_PORT_KEYS: Final = {
    "proto": "proto",
    "port": "port",
    "portend": "port_end",
    "ip": "ip",
    "hostip": "host_ip",
    "hostport": "host_port",
    "hostportend": "host_port_end",
}
"""Fields of port objects by key in lower case without underscores: Go's spelling and snake case are both accepted."""


class ExposedPort(Struct, kw_only=True, omit_defaults=True):
    """A port on which the container listens."""

    proto: Protocol | str | None = None
    """A number, or ``tcp``, ``udp``, ``sctp``."""
    port: Port | None = None


class PortMapping(Struct, kw_only=True, omit_defaults=True):
    """A container port to be published on the host."""

    proto: Protocol | str | None = None
    ip: str | None = None
    """The container's address in Go's structure; it is checked and has no other effect, as in 2015."""
    port: Port | None = None
    port_end: Port | None = None
    """Last port of a range of container ports. Each is published separately; its offset from ``port`` is added to
    ``host_port``."""
    host_ip: str | None = None
    host_port: HostPort | None = None
    host_port_end: HostPort | None = None
    """Last port of a range from which the first free port is allocated. With ``port_end`` it is the last host port of a
    range of the same length."""


class NetworkCreate(Struct, kw_only=True, omit_defaults=True):
    """Body of ``POST /networks``."""

    name: str | None = None
    network_type: str | None = None
    """The driver; empty: ``bridge``."""
    options: dict[str, Any] | None = None
    labels: dict[str, str] | None = None


class NetworkChange(Struct, kw_only=True, omit_defaults=True):
    """Body of ``PATCH /networks/{network}``; absent fields are not changed."""

    labels: dict[str, str] | None = None
    """All labels of the network."""
    label_changes: dict[str, str | None] | None = None
    """Labels to set, and with ``null`` to remove; the others stay."""
    options: dict[str, Any] | None = None
    """Options to change, with the keys of ``POST /networks``."""


class Probe(Struct, kw_only=True):
    """The health check of a service's backends; each is probed from inside its sandbox."""

    kind: Literal["tcp", "http"]
    port: Annotated[int, Meta(ge=1, le=65535)]
    path: Annotated[str, Meta(max_length=1024, pattern=r"^/[!-~]*$")] = "/"
    """Path of an HTTP probe; any status below 400 is a success."""
    interval: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    """Seconds between two probes."""
    timeout: Annotated[float, Meta(ge=0.05, le=1800)] = 1.0
    """Seconds that a probe may take, at most half the interval."""


class EndpointCreate(Struct, kw_only=True, omit_defaults=True):
    """Body of ``POST /networks/{network}/endpoints``."""

    name: str | None = None
    exposed_ports: list[ExposedPort] | None = None
    port_mapping: list[PortMapping] | None = None
    address: str | None = None
    address_ipv6: str | None = None
    additional_addresses: list[str] | None = None
    """Further addresses of its one container, of both families."""
    mac: str | None = None
    labels: dict[str, str] | None = None
    aliases: list[str] | None = None
    """Further names of it on its network."""
    affinity: Affinity | None = None
    """Traffic that always reaches the same backend: a ``flow`` (the default), or all flows of a ``client``."""
    probe: Probe | None = None
    bandwidth: Bandwidth | None = None
    watch_pid: Pid | None = None
    """Process whose exit deletes the endpoint and detaches its containers."""


class ServicePublish(EndpointCreate, kw_only=True, omit_defaults=True):
    """Body of ``POST /services``."""

    network_name: str | None = None
    """Empty: the default network."""


class ExtraHost(Struct, kw_only=True, omit_defaults=True):
    """A line for the container's hosts file."""

    name: str | None = None
    address: str | None = None


class ParentUpdate(Struct, kw_only=True, omit_defaults=True):
    """A name for the hosts file of the container behind another endpoint."""

    endpoint_id: str | None = None
    name: str | None = None
    address: str | None = None


class Join(InterfaceRequest, kw_only=True, omit_defaults=True):
    """Body of ``POST …/containers`` and ``POST …/backend``."""

    container_id: str | None = None
    host_name: str | None = None
    domain_name: str | None = None
    hosts_path: str | None = None
    resolv_conf_path: str | None = None
    dns: list[str] | None = None
    dns_search: list[str] | None = None
    """Search domains of its resolv.conf, instead of its networks' and the host's."""
    dns_options: list[str] | None = None
    """Options of its resolv.conf (``ndots:1``), with precedence over its networks' and the host's of their kind."""
    extra_hosts: list[ExtraHost] | None = None
    parent_updates: list[ParentUpdate] | None = None
    use_default_sandbox: bool | None = None
    gateway_priority: Priority | None = None
    aliases: list[str] | None = None
    """Names of the endpoint that resolve only in this sandbox."""
    weight: Weight | None = None
    """1 when absent."""
    type: Literal["veth", "tap"] | None = None
    """``tap``: the container is a virtual machine; absent: ``veth``."""
    tap: TapRequest | None = None
    netns: str | None = None
    """Path of an existing network namespace that becomes the sandbox."""
    pid: Pid | None = None
    """Process whose network namespace becomes the sandbox, and whose exit removes it."""
    running_container: str | None = None
    """Id (12 to 64 hex digits) of a running container of Docker, Podman, containerd or CRI-O, whose first process is
    ``pid``."""
    watch_pid: Pid | None = None
    """Process whose exit removes the sandbox, if it is not ``pid``."""
    end_process: bool | None = None
    """Whether the process of ``watch_pid`` runs only for this sandbox, so that ``sandnet down`` ends it."""
    auto_remove: bool | None = None
    """Whether the sandbox is removed when its container has exited: when the process exits; without a process, when the
    last process in its namespace exits. Absent: if a process is given."""


class BackendChange(Struct, kw_only=True, omit_defaults=True):
    """Body of ``PATCH /services/{service}/backend/{container}``; absent fields are not changed."""

    state: Literal["drained", "active"] | None = None
    """``drained``: no new flows, existing ones continue; ``active``: in the rotation again."""
    weight: Weight | None = None


class TransportPort(Struct, kw_only=True):
    """An exposed port in answers."""

    proto: int
    port: int


class BoundPort(Struct, kw_only=True):
    """A published port on the host."""

    proto: int
    port: int
    host_ip: str
    host_port: int


class Backend(Struct, kw_only=True):
    """A container behind a service."""

    id: str
    sandbox_key: str | UnsetType = UNSET
    interface: str | UnsetType = UNSET
    """Name inside the sandbox; empty where the network has no links."""
    address: str | UnsetType | None = UNSET
    """Its own address in CIDR notation; for the holder, the service's address."""
    address_ipv6: str | UnsetType | None = UNSET
    state: str | UnsetType = UNSET
    """``ready``, ``drained`` (no new flows, by request) or ``failing`` (no new flows: its health checks fail)."""
    weight: int | UnsetType = UNSET
    holder: bool | UnsetType = UNSET
    """Whether it answers for the service's address: exactly one backend does."""
    host: str | UnsetType = UNSET
    """The node that it is on, if that is another one."""


class Endpoint(Struct, kw_only=True):
    """An endpoint of a network."""

    id: str
    name: str
    network: str
    """The network's name."""
    address: str | UnsetType | None = UNSET
    address_ipv6: str | UnsetType | None = UNSET
    additional_addresses: list[str] | UnsetType = UNSET
    mac: str | UnsetType | None = UNSET
    gateway: str | UnsetType | None = UNSET
    exposed_ports: list[TransportPort] | UnsetType = UNSET
    port_mapping: list[BoundPort] | UnsetType = UNSET
    direct_ports: list[DirectPort] | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET
    affinity: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
    bandwidth: Bandwidth | UnsetType | None = UNSET
    lease: AddressLease | UnsetType | None = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    backends: list[Backend] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Service(Struct, kw_only=True):
    """An endpoint, with its keys in the order that the reference prints for services."""

    name: str
    id: str
    network: str
    """The network's name."""
    address: str | UnsetType | None = UNSET
    address_ipv6: str | UnsetType | None = UNSET
    additional_addresses: list[str] | UnsetType = UNSET
    mac: str | UnsetType | None = UNSET
    gateway: str | UnsetType | None = UNSET
    exposed_ports: list[TransportPort] | UnsetType = UNSET
    port_mapping: list[BoundPort] | UnsetType = UNSET
    direct_ports: list[DirectPort] | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET
    affinity: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
    bandwidth: Bandwidth | UnsetType | None = UNSET
    lease: AddressLease | UnsetType | None = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    backends: list[Backend] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Network(Struct, kw_only=True):
    """A network."""

    name: str
    id: str
    type: str
    endpoints: list[Endpoint]
    driver: str | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    """``local``: valid on this host; ``global``: in the cluster."""
    subnets: list[str] | UnsetType = UNSET
    gateways: list[str] | UnsetType = UNSET
    internal: bool | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    """Requested options, with the plain keys."""
    labels: dict[str, str] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Sandbox(Struct, kw_only=True):
    """A container's network stack. Not part of the reference."""

    id: str
    """The container's id."""
    sandbox_key: str
    endpoints: list[Endpoint]
    origin: str | UnsetType = UNSET
    """``made``, ``joined``, ``host``, ``external`` (a container engine's) or ``guest`` (a virtual machine's)."""
    state: str | UnsetType = UNSET
    host_name: str | UnsetType = UNSET
    domain_name: str | UnsetType = UNSET
    hosts_path: str | UnsetType = UNSET
    resolv_conf_path: str | UnsetType = UNSET
    dns: list[str] | UnsetType = UNSET
    dns_search: list[str] | UnsetType = UNSET
    dns_options: list[str] | UnsetType = UNSET
    pid: int | UnsetType = UNSET
    """Process in the join request; 0: none."""
    auto_remove: bool | UnsetType = UNSET
    interfaces: list[SandboxInterface] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Event(Struct, kw_only=True):
    """A line of ``GET /events``. Not part of the reference."""

    sequence: int
    """Number that grows with each event, also over restarts; a reader continues after it with ``since``."""
    time: datetime
    type: str | UnsetType = UNSET
    """``network``, ``endpoint`` (services are endpoints), ``sandbox`` or ``backend``."""
    action: str
    """``created``, ``changed`` or ``removed``; for backends ``attached``, ``changed`` or ``detached``. ``repaired``:
    another program had changed or removed the object, and it is restored (``type`` may then also be ``rules``,
    ``parameter``, ``stray`` or ``state``, without an ``id``). ``warning``: a problem that a person must check.
    ``missed``, with only a number and a time: this reader has missed events, and must read the lists again."""
    id: str | UnsetType = UNSET
    """The object's id; for sandboxes and backends the container's."""
    name: str | UnsetType = UNSET
    """The object's name; for a sandbox its host name, for a backend its service's name."""
    network: str | UnsetType = UNSET
    """The network's name."""
    service: str | UnsetType = UNSET
    """The service's id, for a backend."""
    container: str | UnsetType = UNSET
    """The container's id, for a backend."""
    problem: str | UnsetType = UNSET
    """For ``repaired``, what was wrong; for ``warning``, what must be checked."""
    object: dict[str, Any] | UnsetType = UNSET
    """The object as ``GET`` with ``verbose=true`` returns it; absent for a removed one."""


class ErrorBody(Struct, kw_only=True):
    """Body of every error answer."""

    message: str
    code: str = ""
    """Stable error code for programs."""
    hint: str = ""
    """Advice to the user."""


def decode(body: bytes, kind: type[T]) -> T:
    """Decode a request's body to ``kind``; a literal ``null`` is an object without fields.

    Raises:
        ValueError: the body is no JSON, or a value has the wrong type or is out of range. The text contains the place.
    """
    try:
        raw = msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if raw is None:
        raw = {}
    if isinstance(raw, dict):
        for field in ("exposed_ports", "port_mapping"):
            if isinstance(ports := raw.get(field), list):
                raw[field] = [_one_spelling(port) for port in ports]
    return msgspec.convert(raw, kind)


def _one_spelling(port: object) -> object:
    if not isinstance(port, dict):
        return port
    return {_PORT_KEYS.get(key.replace("_", "").lower(), key): value for key, value in port.items()}
