"""``/events``: what happens, as it happens. Not part of the reference."""

from __future__ import annotations

from litestar import Response
from litestar.datastructures import State

from sandnet.api.libnetwork.event_stream import NDJSON, EventStream
from sandnet.api.libnetwork.parameters import Core, Since
from sandnet.api.libnetwork.routing import read
from sandnet.wire import libnetwork as wire


@read("/events", optional=("since",), media_type=NDJSON, summary="Follow changes as they happen")
async def follow_events(core: Core, state: State, since: Since = None) -> Response[wire.Event]:
    """One JSON object a line, without an end.

    Without ``since`` the next event is the first; the header ``Sandnet-Sequence`` tells the number to go on from.
    A blank line after 15 seconds without an event says that the daemon is there. Services are told as endpoints.
    """
    return EventStream(core, state.streams, since)


HANDLERS = [follow_events]
