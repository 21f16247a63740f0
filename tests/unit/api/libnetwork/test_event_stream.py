"""The stream of events: what a line reports, where it begins, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sandnet.api.libnetwork.event_stream import Streams
from sandnet.api.middleware.normalization import Message, RequestNormalizer
from sandnet.client import Client
from tests.support.conditions import until
from tests.support.in_process import Served, assert_refused, make, served

SOON = 20.0
"""Seconds in which what has to happen happens."""


class Reader:
    """A client that reads a stream as it comes, below what an HTTP client would hold back."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.gone = asyncio.Event()
        self.headers: dict[str, str] = {}

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Message:
        return await asyncio.wait_for(self.sent.get(), SOON)

    async def line(self) -> bytes:
        """The next line; empty at the end of the stream."""
        body: bytes = (await self.next())["body"]
        return body

    async def event(self) -> dict[str, Any]:
        """The next line that is not blank."""
        while (line := await self.line()) == b"\n":
            pass
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        reported: dict[str, Any] = json.loads(line)
        return reported


@asynccontextmanager
async def reading(app: RequestNormalizer, query: str = "", method: str = "GET") -> AsyncIterator[Reader]:
    """A stream that has been answered with 200, and a reader who hangs up in the end."""
    reader = Reader()
    scope: Message = {"type": "http", "method": method, "path": "/events", "raw_path": b"/events", "headers": []}
    scope.update(query_string=query.encode(), server=None)
    serving = asyncio.ensure_future(app(scope, reader.receive, reader.sent.put))
    start = await reader.next()
    assert start["status"] == 200
    reader.headers = {name.decode(): value.decode() for name, value in start["headers"]}
    try:
        yield reader
    finally:
        reader.gone.set()
        await asyncio.wait_for(serving, SOON)


@pytest.fixture
def streams() -> Streams:
    return Streams(most=2)


@pytest.fixture
async def daemon(tmp_path: Path, streams: Streams) -> AsyncIterator[Served]:
    async with served(tmp_path, streams=streams) as running:
        yield running


async def verbose(daemon: Served, path: str) -> object:
    """What GET reports with ``verbose``."""
    return (await daemon.client.get(f"{path}?verbose=true")).json()


async def test_event_lines_name_and_show_their_object(daemon: Served) -> None:
    client, before = daemon.client, datetime.now(UTC)
    async with reading(daemon.app) as reader:
        assert reader.headers["content-type"] == "application/x-ndjson"
        network = await make(client, "/networks", name="foo")
        reported = await reader.event()
        assert list(reported) == ["sequence", "time", "type", "action", "id", "name", "object"]
        assert (reported["type"], reported["action"], reported["id"], reported["name"]) == (
            "network",
            "created",
            network,
            "foo",
        )
        assert reported["object"] == await verbose(daemon, "/networks/foo")
        assert before <= datetime.fromisoformat(reported["time"]) <= datetime.now(UTC)

        service = await make(client, "/services", name="web", network_name="foo")
        reported = await reader.event()
        assert (reported["type"], reported["action"], reported["id"], reported["name"]) == (
            "endpoint",
            "created",
            service,
            "web",
        )
        assert (reported["network"], reported["object"]) == (
            "foo",
            await verbose(daemon, "/networks/foo/endpoints/web"),
        )

        await make(client, f"/services/{service}/backend", container_id="c1", host_name="box")
        reported = await reader.event()
        assert (reported["type"], reported["action"], reported["id"], reported["name"]) == (
            "sandbox",
            "created",
            "c1",
            "box",
        )
        assert reported["object"] == await verbose(daemon, "/sandboxes/c1")
        reported = await reader.event()
        assert list(reported)[4:] == ["id", "name", "network", "service", "container", "object"]
        assert (reported["type"], reported["action"], reported["id"], reported["name"]) == (
            "backend",
            "attached",
            "c1",
            "web",
        )
        assert (reported["network"], reported["service"], reported["container"]) == ("foo", service, "c1")
        assert [reported["object"]] == await verbose(daemon, f"/services/{service}/backend")

        await client.patch(f"/services/{service}/backend/c1", json={"state": "drained"})
        reported = await reader.event()
        assert (reported["type"], reported["action"], reported["object"]["state"]) == ("backend", "changed", "drained")


async def test_removal_events_name_the_object_without_showing_it(daemon: Served) -> None:
    client = daemon.client
    await make(client, "/networks", name="foo")
    service = await make(client, "/services", name="web", network_name="foo")
    await make(client, f"/services/{service}/backend", container_id="c1")
    async with reading(daemon.app) as reader:
        for path in (f"/services/{service}/backend/c1", f"/services/{service}", "/networks/foo"):
            await client.delete(path)
        lines = [await reader.event() for _ in range(4)]
    assert [(reported["type"], reported["action"], reported["id"]) for reported in lines[:3]] == [
        ("backend", "detached", "c1"),
        ("sandbox", "removed", "c1"),
        ("endpoint", "removed", service),
    ]
    assert (lines[3]["type"], lines[3]["name"]) == ("network", "foo")
    assert not any("object" in reported for reported in lines)


async def test_since_resumes_the_stream_after_that_sequence_number(daemon: Served) -> None:
    async with reading(daemon.app) as reader:
        begin = reader.headers["sandnet-sequence"]
        for name in ("a", "b", "c"):
            await make(daemon.client, "/networks", name=name)
        first, second, third = [await reader.event() for _ in range(3)]
        assert int(begin) < first["sequence"] < second["sequence"] < third["sequence"]
    async with reading(daemon.app, f"since={first['sequence']}") as reader:
        assert [await reader.event(), await reader.event()] == [second, third]
    async with reading(daemon.app, f"since={begin}") as reader:
        assert await reader.event() == first
        assert reader.headers["sandnet-sequence"] == str(third["sequence"])


async def test_catching_up_on_removed_objects_uses_their_former_names(
    daemon: Served,
) -> None:
    client, since = daemon.client, daemon.controller.events.last
    await make(client, "/networks", name="foo")
    service = await make(client, "/services", name="web", network_name="foo")
    await make(client, f"/services/{service}/backend", container_id="c1")
    for path in (f"/services/{service}/backend/c1", f"/services/{service}", "/networks/foo"):
        await client.delete(path)
    async with reading(daemon.app, f"since={since}") as reader:
        lines = [await reader.event() for _ in range(8)]
    created, attached = lines[1], lines[3]
    assert (created["name"], created["network"], "object" in created) == ("web", "foo", False)
    assert (attached["name"], attached["network"], attached["container"]) == ("web", "foo", "c1")


@pytest.mark.parametrize("since", [10**17], ids=["of another store"])
async def test_unknown_since_number_makes_the_reader_list_again(daemon: Served, since: int) -> None:
    async with reading(daemon.app, f"since={since}") as reader:
        missed = await reader.event()
        assert (list(missed), missed["action"]) == (["sequence", "time", "action"], "missed")
        await make(daemon.client, "/networks", name="foo")
        while (reported := await reader.event()).get("name") != "foo":
            pass
        assert missed["sequence"] < reported["sequence"]


async def test_idle_event_stream_sends_blank_keepalive_lines(tmp_path: Path) -> None:
    async with (
        served(tmp_path, streams=Streams(keep_alive=0.01)) as daemon,
        reading(daemon.app) as reader,
    ):
        assert [await reader.line() for _ in range(3)] == [b"\n"] * 3
        await make(daemon.client, "/networks", name="foo")
        assert (await reader.event())["name"] == "foo"


async def test_event_stream_ends_with_the_daemon(daemon: Served, streams: Streams) -> None:
    async with reading(daemon.app) as reader:
        daemon.controller.events.close()
        assert await reader.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    assert streams.open == 0


async def test_event_stream_over_the_limit_is_503_until_one_ends(daemon: Served, streams: Streams) -> None:
    async with reading(daemon.app):
        async with reading(daemon.app):
            refused = await daemon.client.get("/events")
            assert_refused(refused, 503, "too_many_streams", "2 streams")
            assert refused.headers["retry-after"] == "1"
        assert streams.open == 1
        async with reading(daemon.app) as reader:
            await make(daemon.client, "/networks", name="foo")
            assert (await reader.event())["name"] == "foo"
    assert streams.open == 0


async def test_disconnected_event_reader_leaves_nothing_behind(daemon: Served, streams: Streams) -> None:
    before = asyncio.all_tasks()
    for _ in range(3):
        async with reading(daemon.app):
            pass
        async with reading(daemon.app):
            for name in ("a", "b"):
                service = await make(daemon.client, "/services", name=name)
                await daemon.client.delete(f"/services/{service}")
    await asyncio.sleep(0)
    assert streams.open == 0
    assert asyncio.all_tasks() == before


async def test_head_of_the_event_stream_ends(daemon: Served, streams: Streams) -> None:
    async with reading(daemon.app, method="HEAD") as reader:
        assert await reader.next() == {"type": "http.response.body", "body": b"", "more_body": False}
        assert "sandnet-sequence" in reader.headers
    assert streams.open == 0


async def test_real_client_gets_events_at_once_and_disconnect_frees_it(
    daemon: Served, streams: Streams, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(daemon.app, lifespan="off", log_config=None))
        serving = asyncio.ensure_future(server.serve([listener]))
        follower = Client(f"unix://{tmp_path}/s").follow()
        stream = await asyncio.to_thread(follower.connect)
        for name in ("a", "b"):
            await make(daemon.client, "/networks", name=name)
            _, reported = await asyncio.to_thread(next, stream)
            assert (reported.type, reported.action, reported.name, reported.sequence) == (
                "network",
                "created",
                name,
                follower.since,
            )
        assert streams.open == 1
        del stream  # with it goes its connection
        await until(lambda: streams.open == 0)
        again = await asyncio.to_thread(follower.connect)
        daemon.controller.events.close()
        assert await asyncio.to_thread(next, again, None) is None
        server.should_exit = True
        await asyncio.wait_for(serving, SOON)
