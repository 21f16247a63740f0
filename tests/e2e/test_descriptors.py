"""A daemon with more than 1,024 open descriptors: libnftables waits with select(2), which knows no higher ones."""

from __future__ import annotations

import sys

from tests.support.daemon import World, mapping
from tests.support.network_host import eventually

PORTS = 1100
INHERITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
for _ in range({PORTS}):
    os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def rules(world: World) -> str:
    return world.host.sh("nft", "list", "tables")


def test_given_1100_published_ports_when_the_ruleset_is_flushed_and_the_daemon_restarted_then_all_is_back(
    fresh_world: World,
) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo")
    ports = [mapping(80, 20000 + number) for number in range(PORTS)]
    for first in range(0, PORTS, 100):
        world.api.endpoint("foo", f"web{first}", *ports[first : first + 100])
        world.attach("foo", f"web{first}", f"c{first}")
    assert_repairs(world)
    world.kill()
    world.start()
    assert_repairs(world)


def test_given_1100_inherited_descriptors_when_the_daemon_starts_then_it_writes_rules_and_repairs_them(
    fresh_world: World,
) -> None:
    world = fresh_world
    world.start(through=(sys.executable, "-c", INHERITED))
    world.api.network("foo")
    assert_repairs(world)


def assert_repairs(world: World) -> None:
    """The daemon holds so many descriptors, puts the rules back, and goes on."""
    assert world.process
    pid = world.process.pid
    assert int(world.host.sh("sh", "-c", f"ls /proc/{pid}/fd | wc -l")) > PORTS
    world.host.sh("nft", "flush", "ruleset")
    eventually(lambda: "inet sandnet" in rules(world) and "bridge sandnet" in rules(world))
    world.api.post("/reconcile", fix=True)
    assert world.api.get("/healthz")["status"] == "ok"
    assert world.is_running()
