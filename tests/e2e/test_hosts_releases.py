"""Hosts of two releases, of which the newer one has a further format of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import RefusedError
from tests.support.lab import BUSY, LabFactory, RunningLab, lab_directory, new_lab
from tests.support.lab_truth import Truth

__all__ = ["lab_directory", "new_lab"]

pytestmark = pytest.mark.timeout(400)
NEWER = """\
from sandnet.core.cluster import shared_values

shared_values.FORMATS = (1, 2, 3)
"""
"""Lets a Python program (module sitecustomize) be a release that reads a further format."""


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A directory for ``PYTHONPATH``."""
    folder = tmp_path / "newer"
    folder.mkdir()
    folder.joinpath("sitecustomize.py").write_text(NEWER)
    return folder


def upgrade(lab: RunningLab, number: int, release: Path) -> None:
    """Replace the daemon of a host by one of another release."""
    lab.kill(number)
    members = ",".join(f"10.200.0.{each}:2379" for each in lab.hosts)
    words = ("sandnet", "daemon", f"--store=etcd://{members}/sandnet", f"--underlay=10.200.0.{number}")
    lab.popen(
        number, "sh", "-c", 'exec "$@" >/var/lib/sandnet/newer.log 2>&1', "sh", "env", f"PYTHONPATH={release}", *words
    )
    lab.wait_until(lambda: lab.run(number, "sandnet", "status").returncode == 0, BUSY)


def formats(lab: RunningLab) -> list[str]:
    """The beginnings of the records of networks in the store, in the order of their last change."""
    found = [each for each in Truth(lab).entries if each.key.startswith("network/")]
    return [each.value[:12].decode() for each in sorted(found, key=lambda each: each.revision)]


def test_newer_format_is_written_once_the_last_host_is_upgraded(new_lab: LabFactory, newer: Path) -> None:
    lab = new_lab(3)
    lab.start_neighbours()
    for number in (1, 2):
        upgrade(lab, number, newer)
    lab.client(1).network("early", "overlay")
    lab.wait_until(lambda: lab.client(3).get("/networks", name="early"), BUSY)
    assert '{"format":3,' not in formats(lab)

    upgrade(lab, 3, newer)
    lab.wait_until(lambda: any(each.key == "format" and each.value == b"3" for each in Truth(lab).entries), BUSY)
    lab.client(3).network("late", "overlay")
    assert formats(lab)[-1] == '{"format":3,'
    lab.wait_until(lambda: all(lab.client(number).get("/networks", name="late") for number in lab.hosts), BUSY)

    lab.sh(3, "pkill", "-KILL", "-f", "sandnet daemon")
    lab.wait_until(lambda: lab.run(3, "pgrep", "-f", "sandnet daemon").returncode != 0)
    lab.start(3)
    lab.wait_until(lambda: "upgrade this host" in lab.client(3).http.get("/healthz").text, BUSY)
    with pytest.raises(RefusedError) as refused:
        lab.client(3).network("other", "overlay")
    assert (refused.value.status, refused.value.body["code"]) == (503, "store_format")
    assert {"blue", "early"} <= {net["name"] for net in lab.client(3).get("/networks")}
    assert lab.client(1).get("/nodes/h2")["state"] == "alive"
    lab.wait_until(lambda: lab.resolved(1, lab.containers[1], "db"), BUSY)
