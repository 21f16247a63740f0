"""``sandnet down`` without the options of the daemon: it finds them where the daemon recorded them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.daemon import SANDNET, RunningDaemon


@pytest.mark.parametrize("ended", ["running", "stopped", "killed"])
@pytest.mark.parametrize("option", ["--state-dir", "--run-dir"])
def test_down_finds_all_directories_by_one(fresh_daemon: RunningDaemon, option: str, ended: str) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front", ipv6=True)
    hosts = str(daemon.files / "hosts")
    daemon.sandbox("front", "web", join={"hosts_path": hosts})
    assert daemon.pinned()
    if ended != "running":
        (daemon.stop if ended == "stopped" else daemon.kill)()
    directory = daemon.state if option == "--state-dir" else daemon.run
    daemon.host.sh(str(SANDNET), "down", f"{option}={directory}")
    assert (daemon.pinned(), daemon.our_links(), Path(hosts).exists()) == ([], [], False)
    assert not any(each.exists() for each in (daemon.state, daemon.run, daemon.netns))
    assert daemon.facts() == daemon.before


def test_down_takes_no_record_of_another_directory(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front")
    copied = daemon.folder / "copied"
    copied.mkdir(mode=0o700)
    shutil.copy(daemon.state / "config.json", copied)
    with pytest.raises(AssertionError, match="another sandnet daemon manages this host's network"):
        daemon.host.sh(str(SANDNET), "down", f"--state-dir={copied}", f"--run-dir={daemon.folder}/other")
    assert daemon.is_running()
    daemon.down()


def test_options_of_down_win_over_the_record(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front")
    daemon.sandbox("front", "web")
    daemon.kill()
    record = daemon.state / "config.json"
    assert record.stat().st_mode & 0o777 == 0o600
    record.write_text(json.dumps({**json.loads(record.read_text()), "sandbox_dir": "/nowhere"}))
    daemon.down()
    assert daemon.facts() == daemon.before
