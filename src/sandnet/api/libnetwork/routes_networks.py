"""``/networks``: networks, their endpoints, and the containers joined to these."""

from __future__ import annotations

import logging

from litestar import Response
from litestar.params import JSONBody

from sandnet.api.libnetwork import decode
from sandnet.api.libnetwork.encode import Encoder
from sandnet.api.libnetwork.parameters import LISTING, Core, Force, Name, PartialId, Ref, Verbose
from sandnet.api.libnetwork.responses import JsonResponse, warning
from sandnet.api.libnetwork.routing import create, read, remove
from sandnet.wire import libnetwork as wire

_log = logging.getLogger(__name__)


@read("/networks", filters=LISTING, empty_name=True, summary="List networks")
async def list_networks(
    core: Core, name: Name = None, partial_id: PartialId = None, verbose: Verbose = False
) -> list[wire.Network]:
    """An empty name means the default network: the 2015 command line relies on it."""
    if name == "":
        default = core.networks.default()
        return [Encoder(core, verbose).network(default)] if default else []
    found = core.networks.list(name, partial_id)
    answers = Encoder(core, verbose)
    return [answers.network(net) for net in found]


@create("/networks", summary="Create a network")
async def create_network(core: Core, data: JSONBody[wire.NetworkCreate]) -> Response[str]:
    """The new network's id. Options that mean nothing to us are told in a ``Warning`` header."""
    spec, unknown = decode.network_spec(data)
    net = await core.networks.create(spec)
    if unknown:
        _log.warning("network %s: ignored unknown options: %s", net.name, ", ".join(map(ascii, unknown)))
    return JsonResponse(net.id, headers=warning(unknown))


@read("/networks/{network:str}", summary="Get a network")
async def get_network(core: Core, network: Ref, verbose: Verbose = False) -> wire.Network:
    """By id, name or unique id prefix."""
    return Encoder(core, verbose).network(core.networks.find(network))


@remove("/networks/{network:str}", optional=("force",), summary="Delete a network")
async def delete_network(core: Core, network: Ref, force: Force = False) -> None:
    """Its endpoints must be dead, unless it is forced."""
    await core.removal.network(network, force=force)


@read("/networks/{network:str}/endpoints", filters=LISTING, summary="List a network's endpoints")
async def list_endpoints(
    core: Core, network: Ref, name: Name = None, partial_id: PartialId = None, verbose: Verbose = False
) -> list[wire.Endpoint]:
    """In creation order."""
    net = core.networks.find(network)
    answers = Encoder(core, verbose)
    return [answers.endpoint(ep, net) for ep in core.endpoints.list(net, name, partial_id)]


@create("/networks/{network:str}/endpoints", summary="Create an endpoint")
async def create_endpoint(core: Core, network: Ref, data: JSONBody[wire.EndpointCreate]) -> str:
    """The new endpoint's id."""
    return (await core.endpoints.create(network, decode.endpoint_spec(data))).id


@read("/networks/{network:str}/endpoints/{endpoint:str}", summary="Get an endpoint")
async def get_endpoint(core: Core, network: Ref, endpoint: Ref, verbose: Verbose = False) -> wire.Endpoint:
    """By id, name or unique id prefix."""
    net = core.networks.find(network)
    return Encoder(core, verbose).endpoint(core.endpoints.find(net, endpoint), net)


@remove(
    "/networks/{network:str}/endpoints/{endpoint:str}",
    optional=("force",),
    summary="Delete an endpoint",
)
async def delete_endpoint(core: Core, network: Ref, endpoint: Ref, force: Force = False) -> None:
    """No container that is alive may be joined to it, unless it is forced."""
    await core.removal.endpoint(network, endpoint, force=force)


@create(
    "/networks/{network:str}/endpoints/{endpoint:str}/containers",
    summary="Join a container to an endpoint",
)
async def join(core: Core, network: Ref, endpoint: Ref, data: JSONBody[wire.Join]) -> str:
    """The path of the container's sandbox."""
    return (await core.sandboxes.join(network, endpoint, decode.join_spec(data))).key


@remove(
    "/networks/{network:str}/endpoints/{endpoint:str}/containers/{container:str}",
    summary="Take a container off an endpoint",
)
async def leave(core: Core, network: Ref, endpoint: Ref, container: Ref) -> None:
    """The endpoint keeps its address and ports."""
    await core.sandboxes.leave(network, endpoint, container)


HANDLERS = [
    list_networks,
    create_network,
    get_network,
    delete_network,
    list_endpoints,
    create_endpoint,
    get_endpoint,
    delete_endpoint,
    join,
    leave,
]
