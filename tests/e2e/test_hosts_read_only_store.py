"""Several hosts whose user of etcd may read only: as if the store were away, but for what it shows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.lab import BUSY, LEASE, LabFactory, RunningLab, lab_directory, new_lab, refusal

__all__ = ["lab_directory", "new_lab"]

pytestmark = pytest.mark.timeout(400)
RIGHTS = 70.0
"""Seconds until a host that writes nothing knows that it may not."""
MEMBERS = "10.200.0.1:2379,10.200.0.2:2379,10.200.0.3:2379"


def etcdctl(lab: RunningLab, *words: str) -> None:
    """Run etcdctl on host 1, as the administrator of etcd."""
    lab.sh(1, "etcdctl", f"--endpoints={MEMBERS}", *words)


def allow(lab: RunningLab, right: str) -> None:
    """Let the hosts have this right on their prefix."""
    etcdctl(lab, "--user=root:root", "role", "grant-permission", "hosts", right, "/sandnet/", "/sandnet0")


@pytest.fixture
def lab(new_lab: LabFactory, tmp_path: Path) -> RunningLab:
    """Three hosts that are a user of etcd, with ``web`` on host 1 and ``db`` on host 2."""
    password, config = tmp_path / "password", tmp_path / "hosts.toml"
    password.write_text("hosts\n")
    password.chmod(0o600)
    config.write_text(f'store_user = "hosts"\nstore_password_file = "{password}"\n')
    lab = new_lab(3, "--", "--config", str(config))
    for user in ("root", "hosts"):
        etcdctl(lab, "user", "add", f"{user}:{user}")
        etcdctl(lab, "role", "add", user)
        etcdctl(lab, "user", "grant-role", user, user)
    etcdctl(lab, "role", "grant-permission", "hosts", "readwrite", "/sandnet/", "/sandnet0")
    etcdctl(lab, "auth", "enable")
    lab.wait_until_possible(lab.start_neighbours, BUSY)
    return lab


def problems(lab: RunningLab, number: int) -> str:
    """The problems in a host's health."""
    return "\n".join(lab.client(number).get("/healthz")["problems"])


def test_hosts_that_may_only_read_go_on_and_refuse_changes(lab: RunningLab) -> None:
    lab.client(2).endpoint("blue", "spare")
    lab.wait_until(lambda: "spare" in lab.sandnet(3, "endpoint", "ls", "blue"), BUSY)
    allow(lab, "read")
    for change in (
        lambda: lab.client(3).network("green", "overlay"),
        lambda: lab.client(1).endpoint("blue", "late"),
        lambda: lab.client(3).delete("/networks/blue/endpoints/spare"),
    ):
        found = refusal(change)
        assert found.status == 503
        assert found.body["code"] == "store_denied"
        assert "readwrite" in found.body["hint"]
    for number in lab.hosts:
        lab.wait_until(lambda number=number: "permission denied" in problems(lab, number), RIGHTS)  # type: ignore[misc]
        assert {each["name"] for each in lab.client(number).get("/networks/blue/endpoints")} == {"web", "db", "spare"}
    assert lab.pings(1, "db")
    lab.client(2).leave("blue", "db", lab.containers[2])
    time.sleep(LEASE)  # a lease that is not renewed would have ended by now
    assert {each["state"] for each in lab.client(3).get("/nodes")} == {"alive"}
    assert lab.resolved(1, lab.containers[1], "web")

    allow(lab, "readwrite")
    lab.wait_until(lambda: not any(problems(lab, number) for number in lab.hosts), BUSY)
    lab.wait_until(lambda: lab.client(3).get("/nodes/h2")["attachments"] == 0, LEASE + BUSY)
    lab.client(1).endpoint("blue", "late")
    lab.wait_until(lambda: "late" in lab.sandnet(3, "endpoint", "ls", "blue"), BUSY)


def test_daemon_that_starts_without_the_right_to_write_goes_on(lab: RunningLab) -> None:
    allow(lab, "read")
    lab.kill(1)
    lab.start(1)
    assert lab.pings(1, "db")
    assert lab.pings(2, "web")
    lab.wait_until(lambda: refusal(lambda: lab.client(1).endpoint("blue", "late")).code == "store_denied", BUSY)
    time.sleep(LEASE)  # a lease that is not renewed would have ended by now
    assert {each["state"] for each in lab.client(3).get("/nodes")} == {"alive"}
    assert lab.resolved(2, lab.containers[2], "web")
    assert "permission denied" in problems(lab, 1)

    allow(lab, "readwrite")
    lab.wait_until_possible(lambda: lab.client(1).endpoint("blue", "late"), BUSY)
    lab.wait_until(lambda: "late" in lab.sandnet(3, "endpoint", "ls", "blue"), BUSY)
