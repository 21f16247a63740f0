"""``/services``: routes of endpoints of any network, and of the containers behind them."""

from __future__ import annotations

from litestar.params import JSONBody

from sandnet.api.libnetwork import decode
from sandnet.api.libnetwork.encode import Encoder
from sandnet.api.libnetwork.parameters import LISTING, Core, Force, Name, OfNetwork, PartialId, Ref, Verbose
from sandnet.api.libnetwork.routing import change, create, read, remove
from sandnet.wire import libnetwork as wire
from sandnet.wire.bandwidth import EndpointChange
from sandnet.wire.sandbox_interfaces import Tap


@read("/services", filters=(*LISTING, "network"), summary="List services")
async def list_services(
    core: Core,
    name: Name = None,
    partial_id: PartialId = None,
    network: OfNetwork = None,
    verbose: Verbose = False,
) -> list[wire.Service]:
    """List the services in creation order; several networks may each have one of the same name."""
    encoder = Encoder(core, verbose)
    return [encoder.service(ep) for ep in core.services.list(name, partial_id, network)]


@create("/services", summary="Publish a service")
async def publish(core: Core, data: JSONBody[wire.ServicePublish]) -> str:
    """Return the new service's id."""
    return (await core.services.publish(data.network_name or "", decode.endpoint_spec(data))).id


@read("/services/{service:str}", summary="Get a service")
async def get_service(core: Core, service: Ref, verbose: Verbose = False) -> wire.Service:
    """Find the service by id, name or unique id prefix."""
    return Encoder(core, verbose).service(core.services.find(service))


@change("/services/{service:str}", summary="Change a service")
async def change_service(core: Core, service: Ref, data: JSONBody[EndpointChange]) -> None:
    """Change the limits of its traffic, also while containers use it."""
    await core.endpoint_updates.limit(core.services.find(service), decode.endpoint_change(data))


@remove("/services/{service:str}", optional=("force",), summary="Unpublish a service")
async def unpublish(core: Core, service: Ref, force: Force = False) -> None:
    """Remove a service without running backends; with ``force``, one with running backends as well."""
    await core.services.unpublish(service, force=force)


@read("/services/{service:str}/backend", summary="Get the backends of a service")
async def list_backends(core: Core, service: Ref, verbose: Verbose = False) -> list[wire.Backend]:
    """List the backends in the order of attachment."""
    return Encoder(core, verbose).backends(core.services.find(service))


@create("/services/{service:str}/backend", summary="Attach a backend to a service")
async def attach(core: Core, service: Ref, data: JSONBody[wire.Join]) -> str | Tap:
    """Return the path of the container's sandbox, or the tap of a virtual machine."""
    found = core.services.find(service)
    sandbox = await core.services.attach(service, decode.join_spec(data))
    return Encoder(core, verbose=True).joined(sandbox, found)


@change("/services/{service:str}/backend/{container:str}", summary="Drain a backend, or change its weight")
async def change_backend(core: Core, service: Ref, container: Ref, data: JSONBody[wire.BackendChange]) -> None:
    """Drain a backend: it gets no new flows and keeps those it has. ``active`` returns it to rotation."""
    drained, weight = decode.backend_change(data)
    await core.services.change_backend(service, container, drained=drained, weight=weight)


@remove(
    "/services/{service:str}/backend/{container:str}",
    summary="Detach a backend from a service",
)
async def detach(core: Core, service: Ref, container: Ref) -> None:
    """Detach the container. The service keeps its address and ports."""
    await core.services.detach(service, container)


HANDLERS = [
    list_services,
    publish,
    get_service,
    change_service,
    unpublish,
    list_backends,
    attach,
    change_backend,
    detach,
]
