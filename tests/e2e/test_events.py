"""What happens, as it happens: the stream of events over HTTP and in the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import httpx
import pytest

from tests.support.daemon import JSON, SANDNET, World

ENDINGS = pytest.mark.parametrize("ending", ["stop", "kill"])
SILENCE = 40.0
"""Seconds a reader waits for an event that should come."""


class Happened(NamedTuple):
    """An event, as far as tests compare it."""

    type: str
    action: str
    name: str


class Stream:
    """A reader of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.begun_at = int(response.headers["sandnet-sequence"])
        self.content_type = response.headers["content-type"]
        self.read: list[JSON] = []
        self._lines = response.iter_lines()

    def until(self, condition: Callable[[JSON], bool]) -> list[JSON]:
        """Read to the event for which the condition holds; all that were read now."""
        fresh: list[JSON] = []
        for line in self._lines:
            if line:
                fresh.append(json.loads(line))
                self.read.append(fresh[-1])
                if condition(fresh[-1]):
                    return fresh
        raise AssertionError(f"the stream ended after {fresh}")

    def ends(self) -> bool:
        """Whether there is an end and no event before it."""
        try:
            return not any(self._lines)
        except httpx.RemoteProtocolError:  # the daemon was killed amid it
            return True


@contextmanager
def stream(world: World, since: int | None = None) -> Iterator[Stream]:
    query = {} if since is None else {"since": str(since)}
    with world.api.http.stream("GET", "/events", params=query, timeout=SILENCE) as response:
        assert response.status_code == 200
        yield Stream(response)


def happened(event: JSON) -> Happened:
    return Happened(event.get("type", ""), event["action"], event.get("name", ""))


def is_end_of(network: str) -> Callable[[JSON], bool]:
    return lambda event: happened(event) == Happened("network", "removed", network)


def live_a_life(world: World) -> None:
    """A network, an endpoint and a container come and go."""
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    world.api.join("foo", "one", "c1", host_name="web")
    world.api.leave("foo", "one", "c1")
    world.api.delete("/networks/foo/endpoints/one")
    world.api.delete("/networks/foo")


LIFE = [
    Happened("network", "created", "foo"),
    Happened("endpoint", "created", "one"),
    Happened("sandbox", "created", "web"),
    Happened("backend", "attached", "one"),
    Happened("backend", "detached", "one"),
    Happened("sandbox", "removed", "web"),
    Happened("endpoint", "removed", "one"),
    Happened("network", "removed", "foo"),
]


def test_given_a_reader_when_things_come_and_go_then_it_is_told_of_each_with_growing_numbers(world: World) -> None:
    with stream(world) as events:
        assert events.content_type.startswith("application/x-ndjson")
        live_a_life(world)
        told = events.until(is_end_of("foo"))
    assert sorted(happened(event) for event in told if event["action"] != "changed") == sorted(LIFE)
    numbers = [events.begun_at, *(event["sequence"] for event in told)]
    assert all(before < after for before, after in pairwise(numbers)), numbers
    (attached,) = (event for event in told if event["action"] == "attached")
    assert (attached["container"], attached["network"], attached["object"]["state"]) == ("c1", "foo", "ready")
    assert all("object" not in event for event in told if event["action"] in ("removed", "detached"))


def test_given_a_number_when_asked_for_what_came_since_then_the_same_events_are_told_again(world: World) -> None:
    with stream(world) as events:
        live_a_life(world)
        told = events.until(is_end_of("foo"))
    for start in (0, len(told) // 2):
        since = told[start]["sequence"]
        with stream(world, since) as again:
            rest = again.until(is_end_of("foo"))
        assert [event["sequence"] for event in rest] == [event["sequence"] for event in told[start + 1 :]]


def test_given_two_readers_when_something_happens_then_both_are_told_of_it(world: World) -> None:
    with stream(world) as one, stream(world) as two:
        live_a_life(world)
        assert one.until(is_end_of("foo")) == two.until(is_end_of("foo"))


@ENDINGS
def test_given_a_reader_when_the_daemon_ends_and_starts_then_it_goes_on_where_it_was(world: World, ending: str) -> None:
    with stream(world) as events:
        live_a_life(world)
        last = events.until(is_end_of("foo"))[-1]["sequence"]
        getattr(world, ending)()
        assert events.ends()
    world.start()
    with stream(world, last) as events:
        assert events.begun_at >= last
        world.api.network("bar")
        told = events.until(lambda event: happened(event) == Happened("network", "created", "bar"))
    assert [event["action"] for event in told if event["action"] != "missed"] == ["created"]
    numbers = [event["sequence"] for event in told]
    assert last <= numbers[0] <= numbers[-1]
    assert numbers[-1] > last


def test_given_a_number_of_long_ago_when_asked_for_what_came_since_then_the_loss_is_told_first(world: World) -> None:
    live_a_life(world)
    world.stop()
    world.start()
    with stream(world, 1) as events:
        world.api.network("bar")
        told = events.until(lambda event: event.get("name") == "bar")
    assert happened(told[0]) == Happened("", "missed", "")


def test_given_the_command_line_when_something_happens_then_it_prints_it_and_goes_on_after_a_restart(
    world: World,
) -> None:
    with stream(world) as events:
        since = str(events.begun_at)
    command = world.host.popen(
        str(SANDNET), "-H", f"unix://{world.run}/sandnet.sock", "events", "--json", "--since", since
    )
    assert command.stdout
    try:
        live_a_life(world)
        lines = iter(command.stdout.readline, "")
        assert any(is_end_of("foo")(json.loads(line)) for line in lines)
        world.kill()
        world.start()
        world.api.network("bar")
        assert any(json.loads(line).get("name") == "bar" for line in lines)
    finally:
        command.kill()
