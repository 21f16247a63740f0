"""Host ports that another program took while no daemon held them."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, World, mapping
from tests.support.network_host import eventually
from tests.support.traffic import TCP, UDP


def _is_free(world: World, proto: int, port: int) -> bool:
    try:
        world.here.bound("0.0.0.0", proto, port).close()
    except OSError:
        return False
    return True


def _status(world: World) -> str:
    return str(world.api.get("/healthz")["status"])


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_given_a_port_that_another_program_took_when_it_is_free_again_then_it_is_held(world: World, proto: int) -> None:
    world.api.network("foo")
    box = world.box("foo", "web", mapping(80, 8080, proto), mapping(81, 8081, proto))
    box.serve("web", 80, proto)
    world.kill()
    other = world.here.serve("other", 8080, proto)
    world.start()
    health = world.api.get("/healthz")
    assert health["status"] == "degraded"
    (problem,) = health["problems"]
    assert "web.foo" in problem
    assert "8080" in problem
    assert "8081" not in problem
    (drift,) = world.api.post("/reconcile", fix=False)["drift"]
    assert (drift["kind"], drift["object"]) == ("port", "web.foo")
    with pytest.raises(AssertionError, match="web"):
        world.cli("doctor")
    assert world.outside.ask(HOST_ADDRESS, 8080, proto).server == "web"
    other.close()
    eventually(lambda: _status(world) == "ok", 10)
    assert not _is_free(world, proto, 8080)
    assert not _is_free(world, proto, 8081)
    assert world.api.post("/reconcile", fix=False)["drift"] == []


def test_given_a_port_that_another_program_has_when_the_endpoint_is_deleted_then_nothing_is_held_later(
    world: World,
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "web", mapping(80, 8080))
    world.kill()
    other = world.here.serve("other", 8080)
    world.start()
    world.api.delete("/networks/foo/endpoints/web")
    assert _status(world) == "ok"
    other.close()
    assert _is_free(world, TCP, 8080)
