"""``/networks``: routes of networks, their endpoints, and the containers joined to these."""

from __future__ import annotations

import logging

from litestar import Response
from litestar.params import JSONBody

from sandnet.api.libnetwork import decode
from sandnet.api.libnetwork.encode import Encoder
from sandnet.api.libnetwork.parameters import LISTING, Core, Force, Name, PartialId, Ref, Verbose
from sandnet.api.libnetwork.responses import JsonResponse, warning
from sandnet.api.libnetwork.routing import change, create, read, remove
from sandnet.wire import libnetwork as wire
from sandnet.wire.bandwidth import EndpointChange
from sandnet.wire.sandbox_interfaces import Tap

_log = logging.getLogger(__name__)


@read("/networks", filters=LISTING, empty_name=True, summary="List networks")
async def list_networks(
    core: Core, name: Name = None, partial_id: PartialId = None, verbose: Verbose = False
) -> list[wire.Network]:
    """List networks in creation order. An empty name means the default network: the 2015 command line relies on it."""
    if name == "":
        default = core.networks.default()
        return [Encoder(core, verbose).network(default)] if default else []
    found = core.networks.list(name, partial_id)
    encoder = Encoder(core, verbose)
    return [encoder.network(net) for net in found]


@create("/networks", summary="Create a network")
async def create_network(core: Core, data: JSONBody[wire.NetworkCreate]) -> Response[str]:
    """Return the new network's id. A ``Warning`` header names the options that have no meaning here."""
    spec, unknown = decode.network_spec(data)
    net = await core.networks.create(spec)
    if unknown:
        _log.warning("network %s: ignored unknown options: %s", net.name, ", ".join(map(ascii, unknown)))
    return JsonResponse(net.id, headers=warning(unknown))


@read("/networks/{network:str}", summary="Get a network")
async def get_network(core: Core, network: Ref, verbose: Verbose = False) -> wire.Network:
    """Find the network by id, name or unique id prefix."""
    return Encoder(core, verbose).network(core.networks.find(network))


@change("/networks/{network:str}", summary="Change a network")
async def change_network(core: Core, network: Ref, data: JSONBody[wire.NetworkChange]) -> None:
    """Change labels and options while containers use the network; 409 with the reason for an option that cannot."""
    options, labels = decode.network_change(data)
    await core.network_updates.update(network, options, labels)


@remove("/networks/{network:str}", optional=("force",), summary="Delete a network")
async def delete_network(core: Core, network: Ref, force: Force = False) -> None:
    """Delete a network without running containers; with ``force``, one with running containers as well."""
    await core.removal.network(network, force=force)


@read("/networks/{network:str}/endpoints", filters=LISTING, summary="List a network's endpoints")
async def list_endpoints(
    core: Core, network: Ref, name: Name = None, partial_id: PartialId = None, verbose: Verbose = False
) -> list[wire.Endpoint]:
    """List the endpoints in creation order."""
    net = core.networks.find(network)
    encoder = Encoder(core, verbose)
    return [encoder.endpoint(ep, net) for ep in core.endpoints.list(net, name, partial_id)]


@create("/networks/{network:str}/endpoints", summary="Create an endpoint")
async def create_endpoint(core: Core, network: Ref, data: JSONBody[wire.EndpointCreate]) -> str:
    """Return the new endpoint's id."""
    return (await core.endpoints.create(network, decode.endpoint_spec(data))).id


@read("/networks/{network:str}/endpoints/{endpoint:str}", summary="Get an endpoint")
async def get_endpoint(core: Core, network: Ref, endpoint: Ref, verbose: Verbose = False) -> wire.Endpoint:
    """Find the endpoint by id, name or unique id prefix."""
    net = core.networks.find(network)
    return Encoder(core, verbose).endpoint(core.endpoints.find(net, endpoint), net)


@change("/networks/{network:str}/endpoints/{endpoint:str}", summary="Change an endpoint")
async def change_endpoint(core: Core, network: Ref, endpoint: Ref, data: JSONBody[EndpointChange]) -> None:
    """Change the limits of its traffic, also while a container uses it."""
    found = core.endpoints.find(core.networks.find(network), endpoint)
    await core.endpoint_updates.limit(found, decode.endpoint_change(data))


@remove(
    "/networks/{network:str}/endpoints/{endpoint:str}",
    optional=("force",),
    summary="Delete an endpoint",
)
async def delete_endpoint(core: Core, network: Ref, endpoint: Ref, force: Force = False) -> None:
    """Delete an endpoint without a running container; with ``force``, one with a running container as well."""
    await core.removal.endpoint(network, endpoint, force=force)


@create(
    "/networks/{network:str}/endpoints/{endpoint:str}/containers",
    summary="Join a container to an endpoint",
)
async def join(core: Core, network: Ref, endpoint: Ref, data: JSONBody[wire.Join]) -> str | Tap:
    """Return the path of the container's sandbox, or the tap of a virtual machine."""
    found = core.endpoints.find(core.networks.find(network), endpoint)
    sandbox = await core.sandboxes.join(network, endpoint, decode.join_spec(data))
    return Encoder(core, verbose=True).joined(sandbox, found)


@remove(
    "/networks/{network:str}/endpoints/{endpoint:str}/containers/{container:str}",
    summary="Take a container off an endpoint",
)
async def leave(core: Core, network: Ref, endpoint: Ref, container: Ref) -> None:
    """Detach the container. The endpoint keeps its address and ports."""
    await core.sandboxes.leave(network, endpoint, container)


HANDLERS = [
    list_networks,
    create_network,
    get_network,
    change_network,
    delete_network,
    list_endpoints,
    create_endpoint,
    get_endpoint,
    change_endpoint,
    delete_endpoint,
    join,
    leave,
]
