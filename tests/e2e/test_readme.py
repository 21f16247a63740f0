"""The README's first commands, pasted as a whole, and what ``down`` does to the commands that ``run`` has started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import SANDNET, RunningDaemon
from tests.support.network_host import Host, eventually

README = Path(__file__).parents[2] / "README.md"


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.attaches("command")
def test_first_readme_commands_work_and_leave_nothing() -> None:
    block = re.search(r"paste it as a whole\):\n\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    environment = {**os.environ, "PATH": f"{SANDNET.parent}:{os.environ['PATH']}"}
    with Host() as host:
        before = host.sh("ip", "-o", "link"), host.sh("nft", "list", "ruleset")
        done = host.run(
            lambda: subprocess.run(
                ["bash", "-euo", "pipefail"],
                input=block[1],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("HTTP/1.0 200 OK") == 2
        assert "sandnet: ended 2 commands of sandnet run" in done.stdout
        assert (host.sh("ip", "-o", "link"), host.sh("nft", "list", "ruleset")) == before


def start_run(daemon: RunningDaemon, *words: str) -> subprocess.Popen[str]:
    command = [str(SANDNET), "-H", f"unix://{daemon.run}/sandnet.sock", "run", *words]
    return daemon.host.popen(*command)


def down(daemon: RunningDaemon) -> subprocess.CompletedProcess[str]:
    return daemon.host.run(
        lambda: subprocess.run(
            [SANDNET, "down", *daemon.directories], capture_output=True, text=True, timeout=60, check=False
        )
    )


@pytest.mark.timeout(300)
def test_down_ends_commands_of_run_and_no_others(
    fresh_daemon: RunningDaemon,
) -> None:
    outcome = ended_by_down(fresh_daemon)
    if outcome[0] == -signal.SIGKILL:  # the machine stood still for as long as a command has to end
        outcome = ended_by_down(fresh_daemon)
    assert outcome == (3, "bye\n", "")


def ended_by_down(daemon: RunningDaemon) -> tuple[int, str, str]:
    """How a command ends that does so when it is asked to, and what it prints; beside it are others."""
    daemon.start()
    if not daemon.api.get("/networks", name="foo"):
        daemon.api.network("foo")
    polite = start_run(
        daemon, "--net", "foo", "--", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    )
    stubborn = start_run(daemon, "--net", "foo", "--", "sh", "-c", "trap '' TERM; echo $$; exec sleep 600")
    other = daemon.host.popen("sleep", "600")
    daemon.api.endpoint("foo", "theirs")
    daemon.attach("foo", "theirs", "theirs", watch_pid=other.pid)
    assert polite.stdout
    assert stubborn.stdout
    command = int(stubborn.stdout.readline())
    assert polite.stdout.readline() == "up\n"
    done = down(daemon)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sandnet: ended 2 commands of sandnet run (processes ")
    assert str(polite.pid) in done.stdout
    assert str(other.pid) not in done.stdout
    out, err = polite.communicate(timeout=30)
    assert stubborn.wait(30) == -signal.SIGKILL
    eventually(lambda: not is_running(command))
    assert other.poll() is None
    assert daemon.facts() == daemon.before
    return polite.returncode, out, err
