"""What happens, as it happens: the stream of events over HTTP and in the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import httpx
import pytest

from tests.support.daemon import JSON, SANDNET, RunningDaemon

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
        except httpx.RemoteProtocolError:  # the daemon was killed during it
            return True


@contextmanager
def stream(daemon: RunningDaemon, since: int | None = None) -> Iterator[Stream]:
    query = {} if since is None else {"since": str(since)}
    with daemon.api.http.stream("GET", "/events", params=query, timeout=SILENCE) as response:
        assert response.status_code == 200
        yield Stream(response)


def happened(event: JSON) -> Happened:
    return Happened(event.get("type", ""), event["action"], event.get("name", ""))


def is_end_of(network: str) -> Callable[[JSON], bool]:
    return lambda event: happened(event) == Happened("network", "removed", network)


def live_a_life(daemon: RunningDaemon) -> None:
    """A network, an endpoint and a container come and go."""
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    daemon.api.join("foo", "one", "c1", host_name="web")
    daemon.api.leave("foo", "one", "c1")
    daemon.api.delete("/networks/foo/endpoints/one")
    daemon.api.delete("/networks/foo")


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


def test_event_stream_reports_each_change_with_growing_numbers(daemon: RunningDaemon) -> None:
    with stream(daemon) as events:
        assert events.content_type.startswith("application/x-ndjson")
        live_a_life(daemon)
        reported = events.until(is_end_of("foo"))
    assert sorted(happened(event) for event in reported if event["action"] != "changed") == sorted(LIFE)
    numbers = [events.begun_at, *(event["sequence"] for event in reported)]
    assert all(before < after for before, after in pairwise(numbers)), numbers
    (attached,) = (event for event in reported if event["action"] == "attached")
    assert (attached["container"], attached["network"], attached["object"]["state"]) == ("c1", "foo", "ready")
    assert all("object" not in event for event in reported if event["action"] in ("removed", "detached"))


def test_events_since_a_number_are_replayed(daemon: RunningDaemon) -> None:
    with stream(daemon) as events:
        live_a_life(daemon)
        reported = events.until(is_end_of("foo"))
    for start in (0, len(reported) // 2):
        since = reported[start]["sequence"]
        with stream(daemon, since) as again:
            rest = again.until(is_end_of("foo"))
        assert [event["sequence"] for event in rest] == [event["sequence"] for event in reported[start + 1 :]]


def test_both_event_readers_get_every_event(daemon: RunningDaemon) -> None:
    with stream(daemon) as one, stream(daemon) as two:
        live_a_life(daemon)
        assert one.until(is_end_of("foo")) == two.until(is_end_of("foo"))


@ENDINGS
def test_event_reader_resumes_after_a_daemon_restart(daemon: RunningDaemon, ending: str) -> None:
    with stream(daemon) as events:
        live_a_life(daemon)
        last = events.until(is_end_of("foo"))[-1]["sequence"]
        getattr(daemon, ending)()
        assert events.ends()
    daemon.start()
    with stream(daemon, last) as events:
        assert events.begun_at >= last
        daemon.api.network("bar")
        reported = events.until(lambda event: happened(event) == Happened("network", "created", "bar"))
    assert [event["action"] for event in reported if event["action"] != "missed"] == ["created"]
    numbers = [event["sequence"] for event in reported]
    assert last <= numbers[0] <= numbers[-1]
    assert numbers[-1] > last


def test_events_since_an_old_number_start_with_a_loss_notice(daemon: RunningDaemon) -> None:
    live_a_life(daemon)
    daemon.stop()
    daemon.start()
    with stream(daemon, 1) as events:
        daemon.api.network("bar")
        reported = events.until(lambda event: event.get("name") == "bar")
    assert happened(reported[0]) == Happened("", "missed", "")


def test_cli_prints_events_and_continues_after_a_restart(
    daemon: RunningDaemon,
) -> None:
    with stream(daemon) as events:
        since = str(events.begun_at)
    command = daemon.host.popen(
        str(SANDNET), "-H", f"unix://{daemon.run}/sandnet.sock", "events", "--json", "--since", since
    )
    assert command.stdout
    try:
        live_a_life(daemon)
        lines = iter(command.stdout.readline, "")
        assert any(is_end_of("foo")(json.loads(line)) for line in lines)
        daemon.kill()
        daemon.start()
        daemon.api.network("bar")
        assert any(json.loads(line).get("name") == "bar" for line in lines)
    finally:
        command.kill()
