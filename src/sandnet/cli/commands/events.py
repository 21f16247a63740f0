"""``sandnet events``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from sandnet.cli import output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.client import Follower
    from sandnet.wire.libnetwork import Event

PAUSE = 0.2
"""Seconds between two attempts to connect to a daemon that is unavailable."""


@click.command(cls=Command, short_help="Print changes as they happen.")
@click.option("--since", type=click.IntRange(min=0), metavar="N", help="Begin after the event of this number.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's lines as they are.")
@click.pass_obj
def events(session: Session, since: int | None, as_json: bool) -> None:
    """Print changes of networks, endpoints, sandboxes and backends as they happen, until interrupted.

    Waits for a daemon that is being restarted, and goes on where it was. A line "missed" means that events
    are lost to this reader, who has to look at the lists again.

    \b
    Example:
      sandnet events
      sandnet events --json --since 2048
    """
    try:
        follower = session.client.follow(since)
        show = _raw if as_json else _line
        _show(follower.connect(), show)
        while True:
            _show(_reconnected(follower), show)
    except KeyboardInterrupt:
        return


def _show(stream: Iterator[tuple[bytes, Event]], show: Callable[[bytes, Event], None]) -> None:
    """Print a stream until the daemon ends it or the connection is lost."""
    try:
        for line, event in stream:
            show(line, event)
    except Error as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise


def _reconnected(follower: Follower) -> Iterator[tuple[bytes, Event]]:
    """Return a new stream, once the daemon is available again."""
    output.line("sandnet: the daemon is away; waiting for it", err=True)
    while True:
        try:
            stream = follower.connect()
        except Error as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise
            time.sleep(PAUSE)
        else:
            output.line(f"sandnet: following again, after event {follower.since}", err=True)
            return stream


def _raw(line: bytes, event: Event) -> None:
    output.raw(line)


def _line(line: bytes, event: Event) -> None:
    from sandnet.cli.describe import moment

    output.line(f"{moment(event.time)}  {event_text(event)}")


def event_text(event: Event) -> str:
    """Return the text of an event, in a few words."""
    if event.action == "missed":
        return "missed: events are lost here, read the lists again"
    name = event.name or ""
    subject = {
        "network": name,
        "endpoint": f"{name}.{event.network}",
        "sandbox": output.short(event.id or ""),
        "backend": f"{output.short(event.container or '')} of {name}.{event.network}",
    }.get(event.type or "", name)
    return " ".join(filter(None, (event.type or "", subject, event.action, _details(event))))


def _details(event: Event) -> str:
    """Return the details of an existing object: its address, and a backend's state and weight."""
    if event.problem:
        return f"({event.problem})"
    properties = event.object or {}
    words = [str(properties["address"])] if properties.get("address") else []
    if event.type == "backend" and properties:
        words += [str(properties.get("state")), f"weight {properties.get('weight')}"]
    return f"({', '.join(words)})" if words else ""
