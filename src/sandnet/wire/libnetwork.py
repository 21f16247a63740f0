"""The dialect of the reference: messages of the 2015 libnetwork REST interface.

Fields stand in the order in which the reference prints them. In requests ``None`` means absent, unknown
fields are ignored, and nothing but types and numeric ranges is checked here. In responses the fields that
default to ``UNSET`` are the verbose ones: they are left out unless the request said ``verbose=true``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

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
"""Keys of port objects without case and underscores: Go's spelling, lower case and snake case are one."""


class ExposedPort(Struct, kw_only=True, omit_defaults=True):
    """A port the container listens on."""

    proto: Protocol | str | None = None
    """A number, or ``tcp``, ``udp``, ``sctp``."""
    port: Port | None = None


class PortMapping(Struct, kw_only=True, omit_defaults=True):
    """A container port to be published on the host."""

    proto: Protocol | str | None = None
    ip: str | None = None
    """The container's address in Go's structure; checked, otherwise without effect, as in 2015."""
    port: Port | None = None
    port_end: Port | None = None
    """Last port of a range of the container's. Each is published by itself, at the host port that is as far from
    ``host_port`` as it is from ``port``."""
    host_ip: str | None = None
    host_port: HostPort | None = None
    host_port_end: HostPort | None = None
    """Last port of a range; the first free one is taken. With ``port_end`` the last host port of as many."""


class NetworkCreate(Struct, kw_only=True, omit_defaults=True):
    """Body of ``POST /networks``."""

    name: str | None = None
    network_type: str | None = None
    """The driver; empty: ``bridge``."""
    options: dict[str, Any] | None = None
    labels: dict[str, str] | None = None


class Probe(Struct, kw_only=True):
    """How the backends of a service are checked, each from inside its sandbox."""

    kind: Literal["tcp", "http"]
    port: Annotated[int, Meta(ge=1, le=65535)]
    path: Annotated[str, Meta(max_length=1024, pattern=r"^/[!-~]*$")] = "/"
    """Of an HTTP probe; any status below 400 is good."""
    interval: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    """Seconds from probe to probe."""
    timeout: Annotated[float, Meta(ge=0.05, le=1800)] = 1.0
    """Seconds, at most half the interval."""


class EndpointCreate(Struct, kw_only=True, omit_defaults=True):
    """Body of ``POST /networks/{network}/endpoints``."""

    name: str | None = None
    exposed_ports: list[ExposedPort] | None = None
    port_mapping: list[PortMapping] | None = None
    address: str | None = None
    address_ipv6: str | None = None
    mac: str | None = None
    labels: dict[str, str] | None = None
    aliases: list[str] | None = None
    """Further names by which the network knows it."""
    affinity: Affinity | None = None
    """What keeps going to one backend: a ``flow`` (the default), or all of a ``client``."""
    probe: Probe | None = None
    watch_pid: Pid | None = None
    """Process with which it goes, and takes along who is attached."""


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


class Join(Struct, kw_only=True, omit_defaults=True):
    """Body of ``POST …/containers`` and ``POST …/backend``."""

    container_id: str | None = None
    host_name: str | None = None
    domain_name: str | None = None
    hosts_path: str | None = None
    resolv_conf_path: str | None = None
    dns: list[str] | None = None
    dns_search: list[str] | None = None
    """Search domains of its resolv.conf, in place of the host's."""
    dns_options: list[str] | None = None
    """Options of its resolv.conf (``ndots:1``), beside the host's."""
    extra_hosts: list[ExtraHost] | None = None
    parent_updates: list[ParentUpdate] | None = None
    use_default_sandbox: bool | None = None
    gateway_priority: Priority | None = None
    aliases: list[str] | None = None
    """Names by which this sandbox alone knows the endpoint."""
    weight: Weight | None = None
    """1 when absent."""
    netns: str | None = None
    """Path of an existing network namespace that becomes the sandbox."""
    pid: Pid | None = None
    """Process whose network namespace becomes the sandbox, and with which it goes."""
    watch_pid: Pid | None = None
    """Process with which the sandbox goes, where that is another one."""
    end_process: bool | None = None
    """Whether the process of ``watch_pid`` runs for this sandbox alone, so that ``sandnet down`` ends it."""
    auto_remove: bool | None = None
    """Whether the sandbox goes when its container died: with that process; without one, when its namespace has had
    processes and none is left. Absent: where a process is named."""


class BackendChange(Struct, kw_only=True, omit_defaults=True):
    """Body of ``PATCH /services/{service}/backend/{container}``: what is absent stays as it is."""

    state: Literal["drained", "active"] | None = None
    """``drained``: no new flows, those it has go on; ``active``: in the rotation again."""
    weight: Weight | None = None


class TransportPort(Struct, kw_only=True):
    """An exposed port, as told."""

    proto: int
    port: int


class BoundPort(Struct, kw_only=True):
    """A published port as it stands on the host."""

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
    """Its own, CIDR; of the one that holds it, the service's."""
    address_ipv6: str | UnsetType | None = UNSET
    state: str | UnsetType = UNSET
    """``ready``, ``drained`` (no new flows by wish) or ``failing`` (none because its checks fail)."""
    weight: int | UnsetType = UNSET
    holder: bool | UnsetType = UNSET
    """It answers for the service's address: one of them does."""


class Endpoint(Struct, kw_only=True):
    """An endpoint of a network."""

    id: str
    name: str
    network: str
    """The network's name."""
    address: str | UnsetType | None = UNSET
    address_ipv6: str | UnsetType | None = UNSET
    mac: str | UnsetType | None = UNSET
    gateway: str | UnsetType | None = UNSET
    exposed_ports: list[TransportPort] | UnsetType = UNSET
    port_mapping: list[BoundPort] | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET
    affinity: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    backends: list[Backend] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Service(Struct, kw_only=True):
    """An endpoint, told in the order of keys that the reference prints for services."""

    name: str
    id: str
    network: str
    """The network's name."""
    address: str | UnsetType | None = UNSET
    address_ipv6: str | UnsetType | None = UNSET
    mac: str | UnsetType | None = UNSET
    gateway: str | UnsetType | None = UNSET
    exposed_ports: list[TransportPort] | UnsetType = UNSET
    port_mapping: list[BoundPort] | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET
    affinity: str | UnsetType = UNSET
    probe: Probe | UnsetType | None = UNSET
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
    """``local``: of this host; ``global``: of the cluster."""
    subnets: list[str] | UnsetType = UNSET
    gateways: list[str] | UnsetType = UNSET
    internal: bool | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    """What was asked for, in the plain keys."""
    labels: dict[str, str] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class SandboxInterface(Struct, kw_only=True):
    """An endpoint's interface inside a sandbox."""

    endpoint: str
    """Id."""
    network: str
    """Name."""
    interface: str
    address: str | None
    address_ipv6: str | None
    mac: str | None
    gateway_priority: int
    state: str
    aliases: list[str] = []
    """Names by which this sandbox alone knows the endpoint."""


class Sandbox(Struct, kw_only=True):
    """A container's network stack. Not part of the reference."""

    id: str
    """The container's id."""
    sandbox_key: str
    endpoints: list[Endpoint]
    origin: str | UnsetType = UNSET
    """``made``, ``joined`` or ``host``."""
    state: str | UnsetType = UNSET
    host_name: str | UnsetType = UNSET
    domain_name: str | UnsetType = UNSET
    hosts_path: str | UnsetType = UNSET
    resolv_conf_path: str | UnsetType = UNSET
    dns: list[str] | UnsetType = UNSET
    dns_search: list[str] | UnsetType = UNSET
    dns_options: list[str] | UnsetType = UNSET
    pid: int | UnsetType = UNSET
    """The process that a join named; 0: none."""
    auto_remove: bool | UnsetType = UNSET
    interfaces: list[SandboxInterface] | UnsetType = UNSET
    created: datetime | UnsetType = UNSET


class Event(Struct, kw_only=True):
    """A line of ``GET /events``. Not part of the reference."""

    sequence: int
    """Grows from event to event, over restarts too; where to go on with ``since``."""
    time: datetime
    type: str | UnsetType = UNSET
    """``network``, ``endpoint`` (services are endpoints), ``sandbox`` or ``backend``."""
    action: str
    """``created``, ``changed`` or ``removed``; of backends ``attached``, ``changed`` or ``detached``; ``repaired`` of
    what others had changed or removed and is back (``type`` may then be ``rules``, ``parameter``, ``stray`` or
    ``state`` too, without an ``id``); ``warning`` of what somebody has to look at. ``missed``, with nothing but number
    and time: events are lost to this reader, who has to read the lists anew."""
    id: str | UnsetType = UNSET
    """Of sandboxes and backends the container's."""
    name: str | UnsetType = UNSET
    """Of a sandbox its host name, of a backend its service's name."""
    network: str | UnsetType = UNSET
    """The network's name."""
    service: str | UnsetType = UNSET
    """Of a backend: the service's id."""
    container: str | UnsetType = UNSET
    """Of a backend: the container's id."""
    problem: str | UnsetType = UNSET
    """Of what is ``repaired``: what was wrong. Of a ``warning``: what there is to look at."""
    object: dict[str, Any] | UnsetType = UNSET
    """What ``GET`` with ``verbose=true`` shows; not of what is gone."""


class DriverHealth(Struct, kw_only=True):
    """Whether a kind of network works on this host."""

    name: str
    available: bool
    reason: str
    """Why not, or what its networks cannot have here; empty: nothing is wrong."""


class Health(Struct, kw_only=True):
    """Answer of ``GET /healthz``."""

    status: str
    """``ok`` or ``degraded``."""
    problems: list[str]
    drivers: list[DriverHealth]
    operations: int | UnsetType = UNSET
    """Changes under way, those included whose client has gone."""


class Version(Struct, kw_only=True):
    """Answer of ``GET /version``."""

    version: str
    api_version: str
    """Highest version prefix that is served."""
    min_api_version: str


class ErrorBody(Struct, kw_only=True):
    """Every answer that is not a success."""

    message: str
    code: str = ""
    """A stable word for programs."""
    hint: str = ""
    """What to do about it."""


def decode(body: bytes, kind: type[T]) -> T:
    """A request's body as ``kind``; a literal ``null`` is an object without fields.

    Raises:
        ValueError: the body is no JSON, or a value has the wrong type or is out of range. The text says where.
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
