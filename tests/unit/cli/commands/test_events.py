"""``sandnet events`` and ``sandnet dns``: what a person reads, and what a restart of the daemon does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from sandnet.cli.commands.events import event_text
from sandnet.cli.root import root
from sandnet.client import Client
from sandnet.errors import Error
from sandnet.wire.libnetwork import Event

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]

NETWORK, WEB = "3" * 64, "a" * 64
BEGIN = {"Sandnet-Sequence": "40"}


def line(sequence: int, **reported: object) -> bytes:
    """A line as the daemon reports it."""
    event = {"sequence": sequence, "time": "2026-01-02T03:04:05.678Z", "action": "missed", **reported}
    return json.dumps(event).encode() + b"\n"


CREATED = line(41, type="network", action="created", id=NETWORK, name="blue")
REMOVED = line(42, type="network", action="removed", id=NETWORK, name="blue")
MISSED = line(50)


def refuse(stub: Stub, since: int) -> None:
    """End a follower's life: nothing else does."""
    stub.answer("GET", f"/events?since={since}", {"message": "enough", "code": "invalid"}, 400)


# Events.


def test_each_event_is_one_line_and_blank_lines_are_skipped(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/events", b"\n" + CREATED + b"\n\n" + REMOVED, headers=BEGIN)
    refuse(stub, 42)
    assert sandnet("events").stdout == (
        "2026-01-02 03:04:05+00:00  network blue created\n2026-01-02 03:04:05+00:00  network blue removed\n"
    )


def test_events_as_json_print_the_raw_lines(stub: Stub, sandnet: Sandnet) -> None:
    later = CREATED.replace(b'"name"', b'"a_later_key": 1, "name"')
    stub.answer("GET", "/events?since=7", later, headers=BEGIN)
    refuse(stub, 41)
    assert sandnet("events", "--json", "--since", "7").stdout == later.decode()


def test_events_resume_after_the_last_one_and_report_the_restart(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/events", CREATED, headers=BEGIN)
    stub.answer("GET", "/events?since=41", {"message": "the store is away", "code": "unavailable"}, 503)
    stub.answer("GET", "/events?since=41", MISSED, headers=BEGIN)
    refuse(stub, 50)
    result = sandnet("events")
    assert result.stdout.endswith("missed: events are lost here, read the lists again\n")
    assert result.stderr == (
        "sandnet: the daemon is away; waiting for it\n"
        "sandnet: following again, after event 41\n"
        "sandnet: the daemon is away; waiting for it\n"
        "sandnet: enough\n"
    )
    assert result.exit_code == 1


def test_restart_before_the_first_event_loses_none(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/events", b"\n", headers=BEGIN)
    refuse(stub, 40)
    assert "enough" in sandnet("events").stderr


def test_truncated_event_line_is_requested_again(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/events", CREATED + REMOVED[:20], headers=BEGIN)
    refuse(stub, 41)
    result = sandnet("events")
    assert result.stdout.count("\n") == 1
    assert "following" not in result.stderr
    assert result.stderr.endswith("sandnet: enough\n")


def test_first_connection_refused_or_over_limit_is_an_error(stub: Stub, sandnet: Sandnet, tmp_path: Path) -> None:
    absent = CliRunner().invoke(root, ["-H", f"unix://{tmp_path}/absent", "events"])
    assert (absent.exit_code, "no daemon listens" in absent.stderr) == (1, True)
    stub.answer("GET", "/events", {"message": "64 streams", "code": "too_many_streams"}, 503)
    crowded = sandnet("events")
    assert (crowded.exit_code, crowded.stderr) == (1, "sandnet: 64 streams\n")


def test_interrupted_event_stream_exits_0(stub: Stub) -> None:
    stub.answer("GET", "/events", CREATED, headers=BEGIN, endless=True)
    words = [sys.executable, "-c", "from sandnet.cli import main; main()", "-H", stub.url, "events"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert b"network blue created" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=40)
    assert (following.returncode, errors) == (0, b"")


def test_silent_daemon_counts_as_disconnected(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandnet.client.SILENCE", 0.5)
    stub.answer("GET", "/events", CREATED, headers=BEGIN, endless=True)
    follower = Client(stub.url).follow()
    stream = follower.connect()
    assert next(stream)[1].name == "blue"
    with pytest.raises(Error, match=r"did not answer within 0.5"):
        next(stream)
    assert follower.since == 41


@pytest.mark.parametrize(
    ("reported", "text"),
    [
        ({"type": "endpoint", "action": "created", "name": "web", "network": "blue"}, "endpoint web.blue created"),
        (
            {
                "type": "endpoint",
                "action": "changed",
                "name": "web",
                "network": "b",
                "object": {"address": "10.9.0.2/24"},
            },
            "endpoint web.b changed (10.9.0.2/24)",
        ),
        ({"type": "sandbox", "action": "removed", "id": WEB, "name": "h"}, "sandbox aaaaaaaaaaaa removed"),
        (
            {"type": "backend", "action": "detached", "name": "web", "network": "blue", "container": "c1"},
            "backend c1 of web.blue detached",
        ),
        (
            {
                "type": "backend",
                "action": "changed",
                "name": "web",
                "network": "blue",
                "container": "c1",
                "object": {"address": None, "state": "drained", "weight": 7},
            },
            "backend c1 of web.blue changed (drained, weight 7)",
        ),
        ({"type": "a later type", "action": "created", "name": "x"}, "a later type x created"),
    ],
)
def test_event_text_uses_names(reported: dict[str, object], text: str) -> None:
    import msgspec

    event = msgspec.convert({"sequence": 1, "time": "2026-01-02T03:04:05Z", **reported}, Event)
    assert event_text(event) == text


# Names.


EXPLAINED = {
    "name": "web",
    "asker": "c1",
    "answers": ["10.9.0.2", "10.9.0.3"],
    "source": "network",
    "network": NETWORK,
    "owners": [WEB, f"c2/{WEB}"],
    "upstreams": [],
    "reason": "a name on a network of the asker",
}
NOBODY = {**EXPLAINED, "answers": [], "network": "", "owners": []}


def test_explain_of_a_local_name_gives_network_and_endpoint(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/dns/explain?name=web&from=c1", EXPLAINED)
    endpoints = [{"id": WEB, "name": "web", "network": "blue"}]
    stub.answer(
        "GET", f"/networks/{NETWORK}", {"name": "blue", "id": NETWORK, "type": "bridge", "endpoints": endpoints}
    )
    assert sandnet("dns web --from c1").stdout == (
        "Name:      web\n"
        "Asked by:  c1\n"
        "Answer:    10.9.0.2, 10.9.0.3\n"
        "Network:   blue\n"
        "Record of: endpoint web, container c2 at endpoint web\n"
        "Why:       a name on a network of the asker\n"
    )


def test_explain_of_a_deleted_network_shows_ids(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/dns/explain?name=web&from=c1", EXPLAINED)
    text = sandnet("dns web --from c1").stdout
    assert f"Network:   {NETWORK}\n" in text
    assert "Record of: endpoint aaaaaaaaaaaa, container c2 at endpoint aaaaaaaaaaaa\n" in text


@pytest.mark.parametrize(
    ("upstreams", "reported"), [(["192.0.2.1", "::1"], "192.0.2.1, ::1"), ([], "the host's servers")]
)
def test_explain_of_an_external_name_lists_the_servers(
    stub: Stub, sandnet: Sandnet, upstreams: list[str], reported: str
) -> None:
    stub.answer("GET", "/dns/explain?name=a.b%26c&from=c1", {**NOBODY, "source": "upstream", "upstreams": upstreams})
    text = sandnet("dns a.b&c --from c1").stdout
    assert f"Upstream: {reported}\n" in text
    assert "Answer" not in text


def test_explain_of_an_unknown_name_prints_answer_none(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/dns/explain?name=x.blue&from=c1", {**NOBODY, "source": "none"})
    assert "Answer:   none\n" in sandnet("dns x.blue --from c1").stdout


def test_explain_as_json_prints_the_raw_response(stub: Stub, sandnet: Sandnet) -> None:
    stub.answer("GET", "/dns/explain?name=web&from=c1", {**EXPLAINED, "a_later_key": 1})
    assert json.loads(sandnet("dns web --from c1 --json").stdout) == {**EXPLAINED, "a_later_key": 1}
    assert len(stub.requests) == 1
