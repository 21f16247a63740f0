"""What others break is back within two seconds, is reported as an event, and carries traffic again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.test_events import Stream, stream
from tests.support.daemon import JSON, SANDNET, RunningDaemon, Sandbox, mapping
from tests.support.network_host import eventually
from tests.support.time_limits import in_time

PROMISED = 2.0
"""Seconds from a harm to the event that reports of its repair, and to traffic."""
WITHIN = 20.0
"""Seconds within which even a machine that stood still has done it; the next comparison of everything takes longer to
come."""
PORT = 8080


class Scene(NamedTuple):
    """A network with two containers, one of which is published."""

    daemon: RunningDaemon
    web: Sandbox
    db: Sandbox
    bridge: str
    link: str
    """The host's end of the pair of ``web``."""


def sh(scene: Scene, *command: str) -> str:
    return scene.daemon.host.sh(*command)


def drift(daemon: RunningDaemon, *, fix: bool = False) -> list[JSON]:
    """What the daemon reports differs."""
    return list(daemon.api.post("/reconcile", fix=fix)["drift"])


@pytest.fixture
def scene(daemon: RunningDaemon) -> Scene:
    daemon.api.network("foo", ipv6=True)
    web, db = daemon.sandbox("foo", "web", mapping(80, PORT)), daemon.sandbox("foo", "db")
    web.serve("web", 80)
    bridge = f"snb{daemon.api.reported('foo')['id'][:10]}"
    (inner,) = json.loads(web.sh("ip", "-j", "link", "show", "eth0"))
    (link,) = (
        each["ifname"]
        for each in json.loads(daemon.host.sh("ip", "-j", "link"))
        if each["ifindex"] == inner["link_index"]
    )
    found = Scene(daemon, web, db, bridge, link)
    eventually(lambda: flows(found))
    return found


def flows(scene: Scene) -> bool:
    """Whether neighbours, the host, and the world outside by way of the published port reach the container."""
    web, db, daemon = scene.web, scene.db, scene.daemon
    pings = all(each.reaches(web.address, 0.3) for each in (db, daemon.here)) and db.reaches(web.address6, 0.3)
    try:
        return pings and daemon.outside.ask("198.51.100.1", PORT).server == "web"
    except OSError:
        return False


def repaired(reader: Stream, problem: str) -> JSON:
    """The event that reports of the repair of what is called ``problem``."""
    began = time.monotonic()
    *_, event = reader.until(lambda event: event["action"] == "repaired" and problem in event["problem"])
    assert time.monotonic() - began < WITHIN
    return event


class Repair(NamedTuple):
    """The repair of a harm, in seconds since the harm was done."""

    event: JSON
    reported: float
    flowed: float
    """Traffic did again; not before it was reported."""


def restored(daemon: RunningDaemon, act: Callable[[], object], problem: str, flows: Callable[[], bool]) -> Repair:
    """Do a harm, and wait for the event and for traffic."""
    with stream(daemon) as reader:
        began = time.monotonic()
        act()
        event = repaired(reader, problem)
        reported = time.monotonic() - began
    eventually(flows, WITHIN)
    return Repair(event, reported, time.monotonic() - began)


def repaired_in_time(attempt: Callable[[], Repair]) -> Repair:
    return in_time(attempt, lambda repair: repair.flowed, PROMISED)


class Harm(NamedTuple):
    """Something that another program does, and what the daemon reports of it."""

    name: str
    act: Callable[[Scene], object]
    type: str
    problem: str


def inside(*command: str) -> Callable[[Scene], object]:
    return lambda scene: scene.web.sh(*command)


HARMS = [
    Harm("veth", lambda s: sh(s, "ip", "link", "del", s.link), "backend", "is gone"),
    Harm("veth down", lambda s: sh(s, "ip", "link", "set", s.link, "down"), "backend", "is down"),
    Harm("veth off its bridge", lambda s: sh(s, "ip", "link", "set", s.link, "nomaster"), "backend", "no port of"),
    Harm("bridge", lambda s: sh(s, "ip", "link", "del", s.bridge), "network", "is gone"),
    Harm("bridge down", lambda s: sh(s, "ip", "link", "set", s.bridge, "down"), "network", "is down"),
    Harm("address", lambda s: sh(s, "ip", "-4", "address", "flush", "dev", s.bridge), "network", "is not on bridge"),
    Harm(
        "link-local address",
        lambda s: sh(s, "ip", "address", "delete", "fe80::1/64", "dev", s.bridge),
        "network",
        "address fe80::1/64 is not on bridge",
    ),
    Harm("route", lambda s: sh(s, "ip", "route", "flush", "dev", s.bridge), "network", "there is no route"),
    Harm(
        "element",
        lambda s: sh(s, "nft", "delete", "element", "inet", "sandnet", "any4", f"{{ tcp . {PORT} }}"),
        "rules",
        f"element 6 . {PORT}",
    ),
    Harm(
        "chain", lambda s: sh(s, "nft", "flush", "chain", "inet", "sandnet", "published"), "rules", "have been changed"
    ),
    Harm("table", lambda s: sh(s, "nft", "delete", "table", "inet", "sandnet"), "rules", "inet sandnet is gone"),
    Harm("ruleset", lambda s: sh(s, "nft", "flush", "ruleset"), "rules", "bridge sandnet is gone"),
    Harm("forwarding", lambda s: sh(s, "sysctl", "-qw", "net.ipv4.ip_forward=0"), "parameter", "ip_forward"),
    Harm("hosts file", lambda s: hosts_file(s).unlink(), "sandbox", "hosts file is gone"),
    Harm(
        "hosts line", lambda s: hosts_file(s).write_text("127.0.0.1 evil\n"), "sandbox", "hosts file has been changed"
    ),
    Harm("inner link down", inside("ip", "link", "set", "eth0", "down"), "backend", "eth0 is down"),
    Harm("inner address", inside("ip", "-4", "address", "flush", "dev", "eth0"), "backend", "is not on eth0"),
    Harm("inner route", inside("ip", "route", "del", "default"), "backend", "no default route"),
    Harm("inner subnet", inside("ip", "route", "flush", "dev", "eth0"), "backend", "there is no route"),
    Harm("inner MAC", inside("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"), "backend", "the MAC of"),
    Harm("loopback", inside("ip", "link", "set", "lo", "down"), "sandbox", "lo is down"),
]


def hosts_file(scene: Scene) -> Path:
    return Path(scene.daemon.api.get(f"/sandboxes/{scene.web.container}", verbose="true")["hosts_path"])


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_broken_traffic_is_repaired_and_reported(scene: Scene, harm: Harm, request: pytest.FixtureRequest) -> None:
    repair = repaired_in_time(
        lambda: restored(scene.daemon, lambda: harm.act(scene), harm.problem, lambda: flows(scene))
    )
    request.node.user_properties += [("told", repair.reported), ("flowed", repair.flowed)]
    assert repair.event["type"] == harm.type
    eventually(lambda: drift(scene.daemon) == [])  # further objects may be repaired after the first
    eventually(lambda: scene.daemon.api.get("/healthz")["problems"] == [])


@pytest.mark.parametrize("inhabited", [False, True])
def test_unmounted_sandbox_is_pinned_again(
    daemon: RunningDaemon, inhabited: bool, request: pytest.FixtureRequest
) -> None:
    """With a process inside it is the same namespace; without one there is nothing to keep, and a new one is made."""
    daemon.api.network("foo")
    web, db = daemon.sandbox("foo", "web"), daemon.sandbox("foo", "db")
    before = daemon.host.run(lambda: Path(web.key).stat().st_ino)
    if inhabited:
        daemon.host.inside(web.key, daemon.host.start_here, "sleep", "300")
    repair = repaired_in_time(
        lambda: restored(
            daemon,
            lambda: daemon.host.sh("umount", web.key),
            "no namespace is pinned",
            lambda: db.reaches(web.address, 0.3),
        )
    )
    request.node.user_properties += [("told", repair.reported), ("flowed", repair.flowed)]
    assert (daemon.host.run(lambda: Path(web.key).stat().st_ino) == before) is inhabited
    assert drift(daemon) == []
    assert web.address in web.sh("dig", "+short", "web", "@127.0.0.11")


def test_container_of_a_vanished_joined_namespace_is_released(daemon: RunningDaemon) -> None:
    """As a start would do; while it is mounted anywhere it is found again."""
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web")
    daemon.host.sh("ip", "netns", "add", "theirs")
    sandbox = daemon.attach("foo", "web", "c1", netns="/run/netns/theirs")
    with stream(daemon) as reader:
        daemon.host.sh("umount", sandbox.key)
        repaired(reader, "no namespace is pinned")
    assert daemon.here.reaches(sandbox.address)
    daemon.host.sh("ip", "netns", "delete", "theirs")
    with stream(daemon) as reader:
        daemon.host.sh("umount", sandbox.key)
        event = repaired(reader, "is gone for good")
    assert (event["type"], event["id"]) == ("sandbox", "c1")
    assert daemon.api.get("/sandboxes") == []
    assert daemon.api.reported("foo", "web")["backends"] == []
    eventually(lambda: [link for link in daemon.links() if link.startswith("snv")] == [])
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")


def test_repair_keeps_what_others_added(scene: Scene) -> None:
    daemon, web = scene.daemon, scene.web
    sh(scene, "ip", "address", "add", "192.0.2.77/32", "dev", scene.bridge)
    sh(scene, "nft", "add", "table", "inet", "theirs")
    sh(scene, "ip", "link", "add", "snb-theirs", "type", "bridge")
    web.sh("ip", "link", "add", "theirs", "type", "veth", "peer", "name", "theirs-too")
    web.sh("ip", "address", "add", "192.0.2.78/32", "dev", "eth0")
    web.sh("ip", "route", "add", "192.0.2.128/25", "via", scene.db.address)
    resolv_conf = hosts_file(scene).with_name("resolv.conf")
    resolv_conf.write_text("nameserver 192.0.2.53\n")
    try:
        assert drift(daemon) == []
        with stream(daemon) as reader:
            sh(scene, "nft", "delete", "table", "inet", "sandnet")
            web.sh("ip", "route", "del", "default")
            sh(scene, "ip", "-6", "address", "flush", "dev", scene.bridge, "scope", "global")
            repaired(reader, "")
        eventually(lambda: drift(daemon) == [], WITHIN)
        assert "192.0.2.77" in sh(scene, "ip", "address", "show", "dev", scene.bridge)
        assert "theirs" in sh(scene, "nft", "list", "tables")
        assert "snb-theirs" in daemon.links()
        reported = web.sh("ip", "address") + web.sh("ip", "route")
        assert all(word in reported for word in ("theirs", "192.0.2.78", "192.0.2.128/25"))
        assert resolv_conf.read_text() == "nameserver 192.0.2.53\n"
    finally:
        sh(scene, "nft", "delete", "table", "inet", "theirs")
        sh(scene, "ip", "link", "del", "snb-theirs")


@pytest.mark.parametrize("table", ["inet sandnet", "bridge sandnet"])
def test_repair_removes_what_another_program_added_to_our_tables(scene: Scene, table: str, tmp_path: Path) -> None:
    added = f"""
add set {table} theirs {{ type mark; }}
add map {table} their_map {{ type mark : verdict; }}
add chain {table} their_target
add chain {table} their_chain {{ type filter hook prerouting priority 300; policy accept; }}
add rule {table} their_chain meta mark 7 jump their_target
add rule {table} their_target meta mark @theirs drop
add element {table} their_map {{ 9 : jump their_target }}
"""
    script = tmp_path / "added.nft"
    script.write_text(added)
    sh(scene, "nft", "-f", str(script))
    eventually(lambda: "their" not in sh(scene, "nft", "list", "table", *table.split()), WITHIN)
    eventually(lambda: drift(scene.daemon) == [], WITHIN)


def test_repair_keeps_a_foreign_default_route(scene: Scene) -> None:
    scene.web.sh("ip", "route", "replace", "default", "via", scene.db.address)
    eventually(lambda: drift(scene.daemon) == [], WITHIN)
    assert scene.db.address in scene.web.sh("ip", "route", "show", "default")


def test_unclaimed_link_with_our_alias_is_deleted(daemon: RunningDaemon) -> None:
    stray = "snbdeadbeef00"

    def left_behind() -> None:
        daemon.host.sh("ip", "link", "add", stray, "type", "bridge")

    repair = repaired_in_time(
        lambda: restored(daemon, left_behind, "belongs to no record", lambda: stray not in daemon.links())
    )
    assert repair.event["name"] == stray


def test_doctor_reports_drift_repairs_it_and_sets_exit_status(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "web")

    def doctor(*words: str) -> tuple[int, str]:
        command = [str(SANDNET), "-H", f"unix://{daemon.run}/sandnet.sock", "doctor", *words]
        done = daemon.host.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        return done.returncode, done.stdout

    assert doctor() == (0, "nothing differs: everything is as recorded\n")
    link = next(link for link in daemon.links() if link.startswith("snv"))

    def reported_of(*words: str) -> tuple[int, str]:
        """What is reported of an object without notifications; again, if the comparison of each minute was quicker."""
        for _ in range(3):
            daemon.host.sh("bridge", "link", "set", "dev", link, "isolated", "on")
            if link in (printed := doctor(*words))[1]:
                break
        return printed

    status, reported = reported_of()
    assert (status, "other port options" in reported) == (1, True)
    status, reported = reported_of("--fix", "--json")
    assert (status, [each["done"] for each in json.loads(reported)["drift"]]) == (0, ["repaired"])
    assert drift(daemon) == []
    daemon.stop()
    try:
        assert doctor() == (2, "")
    finally:
        daemon.start()
    assert daemon.here.reaches(sandbox.address)


def test_health_reports_a_failed_repair_until_it_succeeds(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "web")
    path = Path(daemon.api.get(f"/sandboxes/{sandbox.container}", verbose="true")["hosts_path"])
    path.unlink()
    path.mkdir()
    eventually(lambda: daemon.api.get("/healthz")["status"] == "degraded", WITHIN)
    assert "hosts" in " ".join(daemon.api.get("/healthz")["problems"])
    path.rmdir()
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    assert path.is_file()


def test_undisturbed_networks_show_no_drift(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    daemon.sandbox("foo", "web", mapping(80, PORT))
    daemon.sandbox("foo", "db")
    daemon.api.network("quiet", icc=False, internal=True)
    daemon.sandbox("quiet", "one")
    daemon.api.join("none", daemon.api.endpoint("none", "nobody"), "c-none")
    assert drift(daemon) == []
