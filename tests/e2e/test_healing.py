"""What others break is back within two seconds, is told as an event, and carries traffic again."""

from __future__ import annotations

from tests.e2e.world import JSON, World, mapping


def drift(world: World, *, fix: bool = False) -> list[JSON]:
    """What the daemon says differs."""
    return list(world.api.post("/reconcile", fix=fix)["drift"])


def test_given_networks_and_sandboxes_when_asked_then_nothing_differs(world: World) -> None:
    world.api.network("foo", ipv6=True)
    world.box("foo", "web", mapping(80, 8080))
    world.box("foo", "db")
    world.api.network("quiet", icc=False, internal=True)
    world.box("quiet", "one")
    world.api.join("none", world.api.endpoint("none", "nobody"), "c-none")
    assert drift(world) == []
