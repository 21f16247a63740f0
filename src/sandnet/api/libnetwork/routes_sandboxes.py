"""``/sandboxes``: routes of the containers' network stacks. Not in the reference."""

from __future__ import annotations

from sandnet.api.libnetwork.encode import Encoder
from sandnet.api.libnetwork.parameters import Core, Ref, Verbose
from sandnet.api.libnetwork.routing import read
from sandnet.wire import libnetwork as wire


@read("/sandboxes", summary="List sandboxes")
async def list_sandboxes(core: Core, verbose: Verbose = False) -> list[wire.Sandbox]:
    """List the sandboxes in creation order."""
    encoder = Encoder(core, verbose)
    return [encoder.sandbox(sandbox) for sandbox in core.sandboxes.list()]


@read("/sandboxes/{sandbox:str}", summary="Get a sandbox")
async def get_sandbox(core: Core, sandbox: Ref, verbose: Verbose = False) -> wire.Sandbox:
    """Find the sandbox by container id, unique prefix of one, or the last part of the sandbox key."""
    return Encoder(core, verbose).sandbox(core.sandboxes.find(sandbox))


HANDLERS = [list_sandboxes, get_sandbox]
