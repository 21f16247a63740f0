"""What answers requests about networks."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qs

import msgspec

from sandnet.api.engine import decode, encode, filters
from sandnet.api.engine.engine_reply import EngineReply, json_reply
from sandnet.api.engine.engine_request import EngineRequest
from sandnet.api.engine.errors import unreadable
from sandnet.errors import Error, Kind, not_found
from sandnet.model import Network
from sandnet.wire import engine as wire

T = TypeVar("T", bound=msgspec.Struct)


async def list_networks(request: EngineRequest) -> EngineReply:
    """List the networks that pass the filters, in creation order."""
    passes = filters.matcher(filters.parse(request.query, filters.LISTING), lambda net: _is_unused(request, net))
    return json_reply([encode.summary(net) for net in request.core.networks.list() if passes(net)])


async def inspect(request: EngineRequest) -> EngineReply:
    """Find a network by id, name or unique id prefix; ``scope`` other than ``local`` finds none."""
    scope = parse_qs(request.query).get("scope", [""])[-1]
    if scope not in ("", "local"):
        raise not_found("network", f"{request.reference} of scope {scope[:40]!r}")
    return json_reply(encode.details(request.core, request.core.networks.find(request.reference)))


async def create(request: EngineRequest) -> EngineReply:
    """Create a network."""
    requested = decode.network_spec(_body(request, wire.CreateRequest))
    net = await request.core.networks.create(requested.spec)
    return json_reply(wire.Created(id=net.id, warning="; ".join(requested.warnings)), 201)


async def remove(request: EngineRequest) -> EngineReply:
    """Delete a network without running containers."""
    await request.core.removal.network(request.reference)
    return EngineReply(204)


async def connect(request: EngineRequest) -> EngineReply:
    """Connect a container, with an endpoint of its own."""
    await request.core.connections.connect(request.reference, decode.connect_spec(_body(request, wire.ConnectRequest)))
    return EngineReply(200)


async def disconnect(request: EngineRequest) -> EngineReply:
    """Disconnect a container, and delete the endpoint that ``connect`` made."""
    body = _body(request, wire.DisconnectRequest)
    container = decode.container(body.container)
    await request.core.connections.disconnect(request.reference, container, force=bool(body.force))
    return EngineReply(200)


async def prune(request: EngineRequest) -> EngineReply:
    """Delete the networks that have no endpoints and are no container engine's; go on past those that are used now."""
    passes = filters.matcher(filters.parse(request.query, filters.PRUNING), lambda net: True)
    candidates = [net for net in request.core.networks.list() if passes(net) and not net.predefined]
    deleted = []
    for net in candidates:
        if _is_unused(request, net):
            try:
                await request.core.removal.network(net.id)
            except Error as failure:
                if failure.kind not in (Kind.IN_USE, Kind.NOT_FOUND):
                    raise
            else:
                deleted.append(net.name)
    return json_reply(wire.Pruned(networks_deleted=deleted))


def _is_unused(request: EngineRequest, net: Network) -> bool:
    return not request.core.endpoints.list(net) and not request.core.engine_networks.has(net)


def _body(request: EngineRequest, kind: type[T]) -> T:
    """Return the decoded body; an absent one is one without fields."""
    body = request.body if request.body.strip() not in (b"", b"null") else b"{}"
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise unreadable(failure) from failure
    except RecursionError:
        raise Error(Kind.INVALID, "invalid body: nested too deeply", code="invalid_body") from None
