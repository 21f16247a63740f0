"""``/events``: the stream of changes as they happen. Not in the reference."""

from __future__ import annotations

from litestar import Response
from litestar.datastructures import State

from sandnet.api.libnetwork.event_stream import NDJSON, EventStream
from sandnet.api.libnetwork.parameters import Core, Since
from sandnet.api.libnetwork.routing import read
from sandnet.wire import libnetwork as wire


@read("/events", optional=("since",), media_type=NDJSON, summary="Follow changes as they happen")
async def follow_events(core: Core, state: State, since: Since = None) -> Response[wire.Event]:
    """Return one JSON object per line, without an end.

    Without ``since`` the stream begins with the next event; the header ``Sandnet-Sequence`` has the number to go on
    from. After 15 seconds without an event a blank line shows that the daemon is running. Services are reported as
    endpoints.
    """
    return EventStream(core, state.streams, since)


HANDLERS = [follow_events]
