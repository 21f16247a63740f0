"""The verbs of the plugin protocol, by path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from sandnet.api import parsing
from sandnet.api.plugin import decode
from sandnet.core.controller import Controller
from sandnet.wire import plugin as wire

_GATEWAY: Final = "com.docker.network.gateway"
_EMPTY: Final = wire.PluginMessage()


class Verb(NamedTuple):
    """A verb: the class of its request, and what answers it."""

    request: type[wire.PluginMessage]
    answer: Callable[[Controller, Any], Awaitable[wire.PluginMessage]]


async def _activate(core: Controller, body: wire.PluginMessage) -> wire.PluginMessage:
    return wire.Activation(implements=("NetworkDriver", "IpamDriver"))


async def _ignore(core: Controller, body: wire.PluginMessage) -> wire.PluginMessage:
    return _EMPTY


# The network driver.


async def _driver_capabilities(core: Controller, body: wire.PluginMessage) -> wire.PluginMessage:
    return wire.DriverCapabilities(scope="local", connectivity_scope="local")


async def _create_network(core: Controller, body: wire.CreateNetwork) -> wire.PluginMessage:
    await core.engine_networks.create(decode.network_spec(body))
    return _EMPTY


async def _delete_network(core: Controller, body: wire.NetworkReference) -> wire.PluginMessage:
    await core.engine_networks.delete(decode.object_id(body.network_id, "NetworkID"))
    return _EMPTY


async def _create_endpoint(core: Controller, body: wire.CreateEndpoint) -> wire.PluginMessage:
    spec = decode.endpoint_spec(body)
    made = await core.engine_networks.create_endpoint(decode.object_id(body.network_id, "NetworkID"), spec)
    answer = wire.EndpointInterface(
        address=str(made.address) if made.address and not spec.address else None,
        address_ipv6=str(made.address_ipv6) if made.address_ipv6 and not spec.address_ipv6 else None,
        mac=made.mac if not spec.mac else None,
    )
    return wire.EndpointCreated(interface=answer)


async def _delete_endpoint(core: Controller, body: wire.EndpointReference) -> wire.PluginMessage:
    network_id, endpoint_id = _references(body)
    await core.engine_networks.delete_endpoint(network_id, endpoint_id)
    return _EMPTY


async def _endpoint_info(core: Controller, body: wire.EndpointReference) -> wire.PluginMessage:
    core.engine_networks.check_endpoint(_references(body)[1])
    return wire.EndpointInfo(value={})


async def _join(core: Controller, body: wire.JoinEndpoint) -> wire.PluginMessage:
    key = parsing.path(decode.required(body.sandbox_key, "SandboxKey"), "SandboxKey")
    joined = await core.engine_networks.join(*_references(body), key)
    return wire.JoinAnswer(
        interface=wire.InterfaceName(source=joined.link, prefix="eth"),
        gateway=str(joined.gateway or ""),
        gateway_ipv6=str(joined.gateway_ipv6 or ""),
    )


async def _leave(core: Controller, body: wire.EndpointReference) -> wire.PluginMessage:
    """Do nothing: the engine moves the link out of the container after this, and then deletes the endpoint."""
    _references(body)
    return _EMPTY


async def _publish(core: Controller, body: wire.Connectivity) -> wire.PluginMessage:
    await core.engine_networks.publish(*_references(body), decode.port_mappings(body.options))
    return _EMPTY


async def _unpublish(core: Controller, body: wire.EndpointReference) -> wire.PluginMessage:
    await core.engine_networks.unpublish(_references(body)[1])
    return _EMPTY


def _references(body: wire.EndpointReference) -> tuple[str, str]:
    return decode.object_id(body.network_id, "NetworkID"), decode.object_id(body.endpoint_id, "EndpointID")


# The IPAM driver.


async def _ipam_capabilities(core: Controller, body: wire.PluginMessage) -> wire.PluginMessage:
    return wire.IpamCapabilities(requires_mac=False, requires_replay=False)


async def _address_spaces(core: Controller, body: wire.PluginMessage) -> wire.PluginMessage:
    return wire.AddressSpaces(local="sandnet", worldwide="sandnet-global")


async def _request_pool(core: Controller, body: wire.PoolRequest) -> wire.PluginMessage:
    pool = await core.engine_ipam.request_pool(decode.pool_spec(body))
    return wire.PoolGrant(pool_id=pool.id, pool=str(pool.prefix))


async def _release_pool(core: Controller, body: wire.PoolRelease) -> wire.PluginMessage:
    await core.engine_ipam.release_pool(decode.required(body.pool_id, "PoolID"))
    return _EMPTY


async def _request_address(core: Controller, body: wire.AddressRequest) -> wire.PluginMessage:
    gateway = (body.options or {}).get("RequestAddressType") == _GATEWAY
    pool_id, address = decode.required(body.pool_id, "PoolID"), decode.address(body.address)
    return wire.AddressGrant(address=str(await core.engine_ipam.request_address(pool_id, address, gateway=gateway)))


async def _release_address(core: Controller, body: wire.AddressRequest) -> wire.PluginMessage:
    pool_id, address = decode.required(body.pool_id, "PoolID"), decode.address(body.address)
    if address:
        await core.engine_ipam.release_address(pool_id, address)
    return _EMPTY


VERBS: Final[Mapping[str, Verb]] = {
    "/Plugin.Activate": Verb(wire.PluginMessage, _activate),
    "/NetworkDriver.GetCapabilities": Verb(wire.PluginMessage, _driver_capabilities),
    "/NetworkDriver.CreateNetwork": Verb(wire.CreateNetwork, _create_network),
    "/NetworkDriver.DeleteNetwork": Verb(wire.NetworkReference, _delete_network),
    "/NetworkDriver.CreateEndpoint": Verb(wire.CreateEndpoint, _create_endpoint),
    "/NetworkDriver.DeleteEndpoint": Verb(wire.EndpointReference, _delete_endpoint),
    "/NetworkDriver.EndpointOperInfo": Verb(wire.EndpointReference, _endpoint_info),
    "/NetworkDriver.Join": Verb(wire.JoinEndpoint, _join),
    "/NetworkDriver.Leave": Verb(wire.EndpointReference, _leave),
    "/NetworkDriver.ProgramExternalConnectivity": Verb(wire.Connectivity, _publish),
    "/NetworkDriver.RevokeExternalConnectivity": Verb(wire.EndpointReference, _unpublish),
    "/NetworkDriver.DiscoverNew": Verb(wire.PluginMessage, _ignore),
    "/NetworkDriver.DiscoverDelete": Verb(wire.PluginMessage, _ignore),
    "/IpamDriver.GetCapabilities": Verb(wire.PluginMessage, _ipam_capabilities),
    "/IpamDriver.GetDefaultAddressSpaces": Verb(wire.PluginMessage, _address_spaces),
    "/IpamDriver.RequestPool": Verb(wire.PoolRequest, _request_pool),
    "/IpamDriver.ReleasePool": Verb(wire.PoolRelease, _release_pool),
    "/IpamDriver.RequestAddress": Verb(wire.AddressRequest, _request_address),
    "/IpamDriver.ReleaseAddress": Verb(wire.AddressRequest, _release_address),
}
