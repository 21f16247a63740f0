"""Routes about the hosts that share networks. Not in the reference."""

from __future__ import annotations

from sandnet.api.libnetwork import encode
from sandnet.api.libnetwork.parameters import Core, OfNode, Ref
from sandnet.api.libnetwork.routing import read, remove
from sandnet.wire.nodes import Node, NodeReachability


@read("/nodes", summary="The hosts that share networks")
async def list_nodes(core: Core) -> list[Node]:
    """List the hosts by name; 404 where the daemon shares no store with others."""
    return [encode.node(each) for each in core.nodes.list()]


@read("/nodes/{node:str}", summary="One of them")
async def get_node(core: Core, node: Ref) -> Node:
    """Return the host with that name."""
    return encode.node(core.nodes.find(node))


@remove("/nodes/{node:str}", summary="Remove a host that does not come back")
async def delete_node(core: Core, node: Ref) -> None:
    """Remove a host that is away, with its attachments and the endpoints that ended with it."""
    await core.remove_node(node)


@read("/reachability", optional=("node",), summary="How this host reaches the others")
async def get_reachability(core: Core, node: OfNode = None) -> list[NodeReachability]:
    """Probe the others at the same time, two seconds at most; 404 where the daemon shares no store with others."""
    return [encode.reachability(each) for each in await core.reachability.check(node or "")]


HANDLERS = [list_nodes, get_node, delete_node, get_reachability]
