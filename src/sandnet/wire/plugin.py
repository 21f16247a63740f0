"""The messages of Docker's plugin protocol: network driver and IPAM driver.

Field names are Go's. An engine sends ``null`` for what is absent, and newer ones send more fields: unknown ones are
ignored, and every field has a default.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class PluginMessage(Struct, kw_only=True):
    """A request or an answer without fields."""


class PluginFailure(Struct, kw_only=True):
    """The answer to a request that failed: network drivers have one name for the reason, IPAM drivers the other."""

    error: str = field(name="Err")
    ipam_error: str = field(name="Error")


class Activation(PluginMessage):
    """The protocols that a plugin speaks."""

    implements: tuple[str, ...] = field(name="Implements")


class DriverCapabilities(PluginMessage):
    """The scopes of the network driver."""

    scope: str = field(name="Scope")
    connectivity_scope: str = field(name="ConnectivityScope")


class IpamCapabilities(PluginMessage):
    """What the IPAM driver requires of the engine."""

    requires_mac: bool = field(name="RequiresMACAddress")
    requires_replay: bool = field(name="RequiresRequestReplay")


class AddressSpaces(PluginMessage):
    """The default address spaces of the IPAM driver."""

    local: str = field(name="LocalDefaultAddressSpace")
    worldwide: str = field(name="GlobalDefaultAddressSpace")


class PoolRequest(PluginMessage):
    """``RequestPool``."""

    pool: str | None = field(name="Pool", default=None)
    sub_pool: str | None = field(name="SubPool", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    v6: bool | None = field(name="V6", default=None)


class PoolGrant(PluginMessage):
    """The answer to ``RequestPool``."""

    pool_id: str = field(name="PoolID")
    pool: str = field(name="Pool")
    data: dict[str, str] = field(name="Data", default_factory=dict)


class PoolRelease(PluginMessage):
    """``ReleasePool``."""

    pool_id: str | None = field(name="PoolID", default=None)


class AddressRequest(PluginMessage):
    """``RequestAddress`` and ``ReleaseAddress``."""

    pool_id: str | None = field(name="PoolID", default=None)
    address: str | None = field(name="Address", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)


class AddressGrant(PluginMessage):
    """The answer to ``RequestAddress``: an address with its prefix length."""

    address: str = field(name="Address")
    data: dict[str, str] = field(name="Data", default_factory=dict)


class IpamData(PluginMessage):
    """A pool of a network."""

    space: str | None = field(name="AddressSpace", default=None)
    pool: str | None = field(name="Pool", default=None)
    gateway: str | None = field(name="Gateway", default=None)


class CreateNetwork(PluginMessage):
    """``CreateNetwork``."""

    network_id: str | None = field(name="NetworkID", default=None)
    options: dict[str, Any] | None = field(name="Options", default=None)
    ipv4: tuple[IpamData, ...] | None = field(name="IPv4Data", default=None)
    ipv6: tuple[IpamData, ...] | None = field(name="IPv6Data", default=None)


class CreateNetwork2015(PluginMessage):
    """``CreateNetwork`` of the protocol's first generation: the plugin chooses subnets and addresses."""

    network_id: str = field(name="NetworkID")
    options: dict[str, Any] | None = field(name="Options")


class NetworkReference(PluginMessage):
    """``DeleteNetwork``, and verbs that are ignored."""

    network_id: str | None = field(name="NetworkID", default=None)


class EndpointInterface(PluginMessage, omit_defaults=True):
    """The interface of an endpoint."""

    address: str | None = field(name="Address", default=None)
    address_ipv6: str | None = field(name="AddressIPv6", default=None)
    mac: str | None = field(name="MacAddress", default=None)


class EndpointReference(PluginMessage):
    """``DeleteEndpoint``, ``EndpointOperInfo``, ``Leave``, ``RevokeExternalConnectivity``."""

    network_id: str | None = field(name="NetworkID", default=None)
    endpoint_id: str | None = field(name="EndpointID", default=None)


class CreateEndpoint(EndpointReference):
    """``CreateEndpoint``."""

    interface: EndpointInterface | None = field(name="Interface", default=None)
    options: dict[str, Any] | None = field(name="Options", default=None)


class CreateEndpoint2015(EndpointReference):
    """``CreateEndpoint`` of the first generation."""

    interfaces: tuple[EndpointInterface, ...] = field(name="Interfaces", default=())
    options: dict[str, Any] = field(name="Options", default_factory=dict)


class EndpointCreated(PluginMessage):
    """The answer to ``CreateEndpoint``: the values that the request did not have."""

    interface: EndpointInterface = field(name="Interface")


class EndpointInfo(PluginMessage):
    """The answer to ``EndpointOperInfo``."""

    value: dict[str, str] = field(name="Value")


class JoinEndpoint(EndpointReference):
    """``Join``."""

    sandbox_key: str | None = field(name="SandboxKey", default=None)
    options: dict[str, Any] | None = field(name="Options", default=None)


class InterfaceName(PluginMessage):
    """The link that the engine moves into the container, and the prefix of its name there."""

    source: str = field(name="SrcName")
    prefix: str = field(name="DstPrefix")


class JoinAnswer(PluginMessage):
    """The answer to ``Join``."""

    interface: InterfaceName = field(name="InterfaceName")
    gateway: str = field(name="Gateway")
    gateway_ipv6: str = field(name="GatewayIPv6")
    routes: tuple[str, ...] = field(name="StaticRoutes", default=())
    no_gateway_service: bool = field(name="DisableGatewayService", default=True)


class Connectivity(EndpointReference):
    """``ProgramExternalConnectivity``."""

    options: dict[str, Any] | None = field(name="Options", default=None)


class PortMap(Struct, kw_only=True):
    """A port to be published, in ``com.docker.network.portmap``; also an exposed port."""

    proto: int = field(name="Proto", default=6)
    port: int = field(name="Port", default=0)
    host_ip: str | None = field(name="HostIP", default=None)
    host_port: int = field(name="HostPort", default=0)
    host_port_end: int = field(name="HostPortEnd", default=0)
