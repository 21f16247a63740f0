"""The messages of the CNI dialect: network configurations, results and errors of the CNI specification.

In requests unknown fields are ignored: a configuration has fields for the runtime and for other plugins of its list.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct, field

T = TypeVar("T")

Number = Annotated[int, Meta(ge=0, le=2**53)]


class Range(Struct, kw_only=True, rename="camel"):
    """A range of addresses, in the form of the ``host-local`` plugin."""

    subnet: str | None = None
    range_start: str | None = None
    range_end: str | None = None
    gateway: str | None = None


class ResultRoute(Struct, kw_only=True, omit_defaults=True):
    """A route."""

    dst: str
    gw: str | None = None


class Ipam(Struct, kw_only=True):
    """The addresses of the network."""

    type: str | None = None
    subnet: str | None = None
    gateway: str | None = None
    ranges: list[list[Range]] | None = None
    routes: list[ResultRoute] | None = None


class PortMapping(Struct, kw_only=True, rename="camel"):
    """A container port to be published on the host (capability ``portMappings``)."""

    host_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    container_port: Annotated[int, Meta(ge=1, le=65535)]
    protocol: str | None = None
    host_ip: str | None = field(default=None, name="hostIP")
    held: bool = False
    """The runtime has bound the host port before the call: a field of sandnet's own, which its netavark plugin sets."""


class Bandwidth(Struct, kw_only=True, rename="camel"):
    """Rates in bits per second, bursts in bits (capability ``bandwidth``); 0: no limit."""

    ingress_rate: Number = 0
    ingress_burst: Number = 0
    egress_rate: Number = 0
    egress_burst: Number = 0


class DnsServers(Struct, kw_only=True):
    """Name servers and search domains (capability ``dns``)."""

    servers: list[str] | None = None
    searches: list[str] | None = None
    options: list[str] | None = None


class RuntimeConfig(Struct, kw_only=True, rename="camel"):
    """The runtime's values for the capabilities of the configuration."""

    port_mappings: list[PortMapping] | None = None
    ips: list[str] | None = None
    mac: str | None = None
    aliases: dict[str, list[str]] | None = None
    """Names of the container, by network."""
    dns: DnsServers | None = None
    bandwidth: Bandwidth | None = None


class Dns(Struct, kw_only=True, omit_defaults=True):
    """The resolver's configuration, in a network configuration or a result."""

    nameservers: list[str] = []
    domain: str | None = None
    search: list[str] = []
    options: list[str] = []


class Interface(Struct, kw_only=True, omit_defaults=True):
    """An interface of a result."""

    name: str = ""
    mac: str = ""
    sandbox: str = ""
    """The path of its network namespace; empty: it is on the host."""


class Address(Struct, kw_only=True, omit_defaults=True):
    """An address of a result."""

    version: str = ""
    """``4`` or ``6``; only up to version 0.4.0 of the specification."""
    address: str
    """With the prefix length."""
    gateway: str = ""
    interface: int | None = None
    """The index of its interface in the result."""


class Result(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """The result of ``ADD``, which comes back as ``prevResult``."""

    cni_version: str = ""
    interfaces: list[Interface] = []
    ips: list[Address] = []
    routes: list[ResultRoute] = []
    dns: Dns = field(default_factory=Dns)


class ValidAttachment(Struct, kw_only=True):
    """An attachment that ``GC`` must keep."""

    container_id: str = field(name="containerID")
    ifname: str


class CniArguments(Struct, kw_only=True):
    """The section ``args.cni``, which runtimes use where there is no capability."""

    ips: list[str] | None = None


class Arguments(Struct, kw_only=True):
    """The section ``args``."""

    cni: CniArguments | None = None


class Configuration(Struct, kw_only=True, rename="camel"):
    """A network configuration, as the runtime passes it to the plugin."""

    cni_version: str = ""
    name: str = ""
    network: str | None = None
    """The network of sandnet; absent: ``name``."""
    driver: str | None = None
    """Its type; absent: ``bridge`` for one that is created."""
    master: str | None = None
    """The parent of a macvlan network, as CNI's plugin ``macvlan`` calls it."""
    mode: str | None = None
    """Of a macvlan network."""
    mtu: Number | None = None
    internal: bool | None = None
    ipam: Ipam | None = None
    dns: Dns | None = None
    args: Arguments | None = None
    runtime_config: RuntimeConfig = field(default_factory=RuntimeConfig)
    prev_result: Result | None = None
    valid_attachments: list[ValidAttachment] | None = field(default=None, name="cni.dev/valid-attachments")


class ErrorResult(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """An error."""

    cni_version: str
    code: int
    msg: str
    details: str = ""


def decode(body: bytes, kind: type[T]) -> T:
    """Return the body decoded as ``kind``.

    Raises:
        msgspec.ValidationError: a value has the wrong type.
        ValueError: it is no JSON.
    """
    return msgspec.json.decode(body, type=kind)
