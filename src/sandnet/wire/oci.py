"""The state of a container that an OCI runtime passes to its hooks (OCI runtime specification, "State" and "Hooks")."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from sandnet.errors import invalid

MAX_STATE: Final = 1 << 20
"""Limit of the state's bytes: it contains all annotations of the container."""
STOPPED: Final = "stopped"


class ContainerState(Struct, frozen=True, kw_only=True):
    """The fields of the state that are used. runc leaves ``pid`` out of a stopped container, crun sends 0."""

    id: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Unique among the containers of one runtime's root directory."""
    status: str
    pid: Annotated[int, Meta(ge=0, le=2**22)] = 0
    """The container's first process, in the PID namespace of the runtime."""
    bundle: Annotated[str, Meta(max_length=4096)] = ""
    annotations: dict[str, str] | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether the hook is called after the container's end."""
        return self.status == STOPPED


def decode_state(state: bytes) -> ContainerState:
    """Decode the state of a container.

    Raises:
        Error: ``INVALID``, it is too large, or is no such state.
    """
    hint = "the command is a hook: runc or crun call it, with the state of a container on its standard input"
    if len(state) > MAX_STATE:
        raise invalid(f"the state of the container has more than {MAX_STATE} bytes", hint, "invalid_state")
    try:
        return msgspec.json.decode(state, type=ContainerState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"cannot read the state of the container: {error}", hint, "invalid_state") from error
