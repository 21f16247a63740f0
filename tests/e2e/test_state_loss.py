"""The state is damaged or gone: traffic flows on, the API has the same objects, and health reports what happened."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sandnet.stores.sqlite.backups import INTERVAL
from tests.e2e.test_events import stream
from tests.e2e.test_repair import repaired
from tests.e2e.test_restart import talk_until
from tests.support.daemon import HOST_ADDRESS, JSON, SANDNET, RunningDaemon, files_of, mapping
from tests.support.traffic import DOUBT, UDP, ask_again, until

pytestmark = pytest.mark.timeout(120)

UNREPORTED = ("labels", "aliases", "exposed_ports", "host_name", "domain_name", "dns", "created", "probe", "options")


def reported(daemon: RunningDaemon) -> list[Any]:
    """What the API reports of networks, endpoints and sandboxes, but for what nothing in the kernel knows.

    The networks ``none`` and ``host`` are nothing but records: others take their place.
    """
    networks = [net for net in daemon.api.get("/networks", verbose="true") if net["name"] not in ("none", "host")]
    services, sandboxes = (daemon.api.get(f"/{what}", verbose="true") for what in ("services", "sandboxes"))
    return [sorted(map(_plain, some), key=lambda each: str(each["id"])) for some in (networks, services, sandboxes)]


def _plain(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in UNREPORTED}
    return sorted(map(_plain, value), key=str) if isinstance(value, list) else value


def zeroed(daemon: RunningDaemon) -> None:
    path = daemon.state / "sandnet.db"
    path.write_bytes(bytes(path.stat().st_size))
    Path(f"{path}-wal").unlink(missing_ok=True)


def without_copies(daemon: RunningDaemon) -> None:
    zeroed(daemon)
    for copy in daemon.state.glob("sandnet.db.backup*"):
        copy.unlink()


def without_state(daemon: RunningDaemon) -> None:
    shutil.rmtree(daemon.state)


def copy_has(daemon: RunningDaemon, text: bytes) -> bool:
    copy = daemon.state / "sandnet.db.backup"
    return copy.exists() and text in copy.read_bytes()


@pytest.mark.parametrize("lose", [zeroed, without_copies, without_state])
def test_state_loss_keeps_traffic_and_objects(
    fresh_daemon: RunningDaemon, lose: Callable[[RunningDaemon], None]
) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo", ipv6=True)
    web = daemon.sandbox("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP), labels={"tier": "front"})
    until(lambda: copy_has(daemon, b'"tier"'), 2 * INTERVAL)
    daemon.api.network("apart", internal=True)  # neither it nor what follows is in the copy
    peer, alone = daemon.sandbox("foo", "peer"), daemon.sandbox("apart", "alone")
    web.serve("web", 80)
    web.serve("web", 80, UDP)
    clients = [daemon.outside.client(HOST_ADDRESS, 8080), daemon.outside.client(HOST_ADDRESS, 8080, UDP)]
    clients.append(peer.client(web.address, 80))
    before, links = reported(daemon), daemon.links()

    with ThreadPoolExecutor(len(clients)) as pool:
        done: list[bool] = []
        talks = [pool.submit(talk_until, lambda: bool(done), client, ask_again) for client in clients]
        try:
            daemon.kill()
            lose(daemon)
            daemon.start()
        finally:
            done.append(True)
        assert all(talk.result() > 5 for talk in talks)

    assert reported(daemon) == before
    assert daemon.links() == links
    health = daemon.api.get("/healthz")
    assert health["status"] == "degraded"
    assert "network apart" in str(health["problems"])
    assert bool(list(daemon.state.glob("sandnet.db.damaged-*"))) == (lose is not without_state)
    assert daemon.api.reported("foo", "web")["labels"] == ({"tier": "front"} if lose is zeroed else {})
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert not alone.reaches(web.address, DOUBT)
    _end_well(daemon)


def _end_well(daemon: RunningDaemon) -> None:
    """What was found again can be left and deleted; the next start finds nothing wrong."""
    daemon.stop()
    daemon.start()
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")
    daemon.stack.pop_all().close()
    daemon.api.clear()
    until(lambda: len(daemon.our_links()) == 1)
    daemon.down()
    # what the host's parameters were before, nothing in the kernel reports
    assert daemon.facts()._replace(sysctls=()) == daemon.before._replace(sysctls=())
    assert daemon.resolvers() == []


def only_the_file(daemon: RunningDaemon) -> None:
    (daemon.state / "sandnet.db").unlink()


@pytest.mark.parametrize("lose", [only_the_file, without_state])
def test_state_lost_while_running_is_rewritten_and_reported(
    fresh_daemon: RunningDaemon, lose: Callable[[RunningDaemon], None]
) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo")
    web, peer = daemon.sandbox("foo", "web", mapping(80, 8080), labels={"tier": "front"}), daemon.sandbox("foo", "peer")
    with stream(daemon) as notifications:
        lose(daemon)
        assert repaired(notifications, "the file is gone")["type"] == "state"
    daemon.api.network("later")
    before = [daemon.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")]

    daemon.kill()
    daemon.start()

    assert [daemon.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")] == before
    until(lambda: daemon.api.get("/healthz")["problems"] == [])
    assert daemon.api.get("/healthz")["status"] == "ok"
    assert peer.reaches(web.address)
    assert files_of(daemon, web.container)[0]


def test_daemon_stays_the_only_one_without_its_state_directory(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo")
    document = daemon.folder / "document"
    state, here = [f"--state-dir={daemon.state}"], f"--run-dir={daemon.run}"
    daemon.host.sh(str(SANDNET), "state", "export", *state, str(document))
    shutil.rmtree(daemon.state)  # and the lock with it
    commands = [["daemon", *daemon.directories], ["state", "import", "--replace", *state, here, str(document)]]
    for command in commands:
        for elsewhere in ([], ["unshare", "--net"]):  # there the claim on the network does not help
            refused = daemon.host.run(_ended, [*elsewhere, str(SANDNET), *command])
            assert refused.returncode == 1
            assert "another" in refused.stderr
    assert daemon.is_running()
    daemon.down()
    assert daemon.process
    assert daemon.process.wait(40) == 0
    assert daemon.facts() == daemon.before


def _ended(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_flushed_ruleset_with_lost_state_loses_only_ports(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo")
    web = daemon.sandbox("foo", "web", mapping(80, 8080))
    peer = daemon.sandbox("foo", "peer")
    daemon.kill()
    without_state(daemon)
    daemon.host.sh("nft", "flush", "ruleset")
    daemon.start()
    assert daemon.api.reported("foo", "web")["port_mapping"] == []
    assert peer.reaches(web.address)
    _end_well(daemon)
