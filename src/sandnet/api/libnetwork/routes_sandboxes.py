"""``/sandboxes``: the containers' network stacks. Not part of the reference."""

from __future__ import annotations

from sandnet.api.libnetwork.encode import Encoder
from sandnet.api.libnetwork.parameters import Core, Ref, Verbose
from sandnet.api.libnetwork.routing import read
from sandnet.wire import libnetwork as wire


@read("/sandboxes", summary="List sandboxes")
async def list_sandboxes(core: Core, verbose: Verbose = False) -> list[wire.Sandbox]:
    """In creation order."""
    answers = Encoder(core, verbose)
    return [answers.sandbox(sandbox) for sandbox in core.sandboxes.list()]


@read("/sandboxes/{sandbox:str}", summary="Get a sandbox")
async def get_sandbox(core: Core, sandbox: Ref, verbose: Verbose = False) -> wire.Sandbox:
    """By container id, unique prefix of one, or the last part of the sandbox key."""
    return Encoder(core, verbose).sandbox(core.sandboxes.find(sandbox))


HANDLERS = [list_sandboxes, get_sandbox]
