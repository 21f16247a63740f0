"""Host ports that another program took while no daemon held them."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, RunningDaemon, mapping
from tests.support.network_host import eventually
from tests.support.traffic import TCP, UDP


def _is_free(daemon: RunningDaemon, proto: int, port: int) -> bool:
    try:
        daemon.here.bound("0.0.0.0", proto, port).close()
    except OSError:
        return False
    return True


def _status(daemon: RunningDaemon) -> str:
    return str(daemon.api.get("/healthz")["status"])


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_port_taken_by_another_program_is_held_once_free(daemon: RunningDaemon, proto: int) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080, proto), mapping(81, 8081, proto))
    sandbox.serve("web", 80, proto)
    daemon.kill()
    other = daemon.here.serve("other", 8080, proto)
    daemon.start()
    eventually(lambda: len(daemon.api.get("/healthz")["problems"]) == 1)  # the resolver starts beside it
    health = daemon.api.get("/healthz")
    assert health["status"] == "degraded"
    (problem,) = health["problems"]
    assert "web.foo" in problem
    assert "8080" in problem
    assert "8081" not in problem
    (drift,) = daemon.api.post("/reconcile", fix=False)["drift"]
    assert (drift["kind"], drift["object"]) == ("port", "web.foo")
    with pytest.raises(AssertionError, match="web"):
        daemon.cli("doctor")
    assert daemon.outside.ask(HOST_ADDRESS, 8080, proto).server == "web"
    other.close()
    eventually(lambda: _status(daemon) == "ok")
    assert not _is_free(daemon, proto, 8080)
    assert not _is_free(daemon, proto, 8081)
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_port_of_a_deleted_endpoint_is_not_held_later(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web", mapping(80, 8080))
    daemon.kill()
    other = daemon.here.serve("other", 8080)
    daemon.start()
    daemon.api.delete("/networks/foo/endpoints/web")
    eventually(lambda: _status(daemon) == "ok")
    other.close()
    assert _is_free(daemon, TCP, 8080)
