"""What others break is back within two seconds while a sandbox changes its own namespace without end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_repair import WITHIN, Scene, flows, inside, repaired_in_time, restored, scene, sh
from tests.support.daemon import RunningDaemon, Sandbox
from tests.support.network_host import eventually

__all__ = ["scene"]

pytestmark = pytest.mark.timeout(180)

MANY = 300_000
"""Routes."""
CHURN = """\
link set eth0 down
link set eth0 up
address flush dev eth0
route add 198.18.0.0/24 dev own0
route del 198.18.0.0/24 dev own0
address add 198.19.0.1/32 dev own0
address del 198.19.0.1/32 dev own0
"""


@contextmanager
def churning(daemon: RunningDaemon, evil: Sandbox, batch: Path) -> Iterator[None]:
    """Let a process of the sandbox change its links, addresses and routes as fast as it can."""
    batch.write_text(CHURN * 100)
    forever = f"while :; do ip -force -batch {batch} >/dev/null 2>&1; done"
    process: subprocess.Popen[str] = daemon.host.inside(evil.key, daemon.host.start_here, "sh", "-c", forever)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fill(evil: Sandbox, batch: Path, routes: int) -> None:
    batch.write_text("".join(f"route add 10.{n >> 16}.{n >> 8 & 255}.{n & 255} dev own0\n" for n in range(routes)))
    evil.sh("ip", "link", "add", "own0", "type", "veth", "peer", "name", "own1")
    evil.sh("ip", "link", "set", "own1", "up")
    evil.sh("ip", "link", "set", "own0", "up")
    evil.sh("ip", "-force", "-batch", str(batch))


def problems(daemon: RunningDaemon) -> str:
    return " ".join(daemon.api.get("/healthz")["problems"])


@pytest.mark.parametrize("routes", [10, MANY])
def test_constant_churn_in_a_sandbox_does_not_delay_repairs(
    scene: Scene, tmp_path: Path, routes: int, request: pytest.FixtureRequest
) -> None:
    daemon = scene.daemon
    evil = daemon.sandbox("foo", "evil")
    fill(evil, tmp_path / "fill", routes)
    with churning(daemon, evil, tmp_path / "churn"):
        harms: dict[str, Callable[[], object]] = {
            "no default route": partial(inside("ip", "route", "del", "default"), scene),
            "eth0 is down": partial(inside("ip", "link", "set", "eth0", "down"), scene),
            "is not on bridge": partial(sh, scene, "ip", "-4", "address", "flush", "dev", scene.bridge),
        }
        for problem, act in harms.items():
            repair = repaired_in_time(partial(restored, daemon, act, problem, partial(flows, scene)))
            request.node.user_properties += [(problem, repair.flowed)]


def test_too_many_routes_in_a_sandbox_are_reported_by_health(scene: Scene, tmp_path: Path) -> None:
    daemon = scene.daemon
    evil = daemon.sandbox("foo", "evil")
    fill(evil, tmp_path / "fill", MANY)
    evil.sh("ip", "route", "del", "default")
    eventually(lambda: "too many links, addresses, routes" in problems(daemon), WITHIN)
    assert "web" not in problems(daemon)
    evil.sh("ip", "link", "del", "own0")
    daemon.api.post("/reconcile", fix=True)
    eventually(lambda: not problems(daemon), WITHIN)
    assert "default" in evil.sh("ip", "route")
