"""``run`` and ``sandbox exec`` with a real namespace, inside a user namespace of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import eventually
from tests.unit.cli.conftest import BOX, SANDNET, finished

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Start, Stub

SERVICE = "0aee0899e6c5e903cf3ef2bdc28a1c9aaf639c8c8c331fa4ae26344d9e32c1ff"


def canned_life(stub: Stub) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", "/key")
    stub.answer("DELETE", f"/services/{SERVICE}")


def cleaned_up(stub: Stub) -> bool:
    """Whether the last two requests detached the container and unpublished the service."""
    detach, unpublish = stub.asked()[-2:]
    return detach[0] == "DELETE" and "/backend/" in detach[1] and unpublish == ("DELETE", f"/services/{SERVICE}")


def test_given_a_sandbox_when_executing_then_network_and_names_are_the_sandboxs(
    start: Start, sandbox: Path, namespace: int
) -> None:
    script = "readlink /proc/self/ns/net; cat /etc/hosts /etc/resolv.conf"
    status, out, _ = finished(start("sandbox", "exec", BOX, "--", "sh", "-c", script))
    assert status == 0
    assert out == f"{os.readlink(f'/proc/{namespace}/ns/net')}\n10.9.0.2\tbar\nnameserver 127.0.0.11\n"


def test_given_a_sandbox_when_executing_then_nobody_else_sees_its_mounts(
    start: Start, sandbox: Path, namespace: int
) -> None:
    mounts = Path(f"/proc/{namespace}/mountinfo")
    before = mounts.read_text()
    process = start(
        "sandbox", "exec", BOX, "--", "sh", "-c", "grep -c ' /etc/.sandnet/hosts ' /proc/self/mountinfo; cat"
    )
    with process:
        assert process.stdout
        assert int(process.stdout.readline()) > 0
        assert mounts.read_text() == before
        process.terminate()


def test_given_a_command_with_options_when_executing_then_they_are_its_own(start: Start, sandbox: Path) -> None:
    assert finished(start("sandbox", "exec", BOX, "echo", "-n", "--help"))[:2] == (0, "--help")


def test_given_an_unknown_command_when_executing_then_the_status_is_127(start: Start, sandbox: Path) -> None:
    status, _, err = finished(start("sandbox", "exec", BOX, "--", "/no/such"))
    assert (status, err) == (127, "sandnet: cannot run /no/such: No such file or directory\n")


def test_given_a_file_that_is_no_program_when_executing_then_the_status_is_126(start: Start, sandbox: Path) -> None:
    assert finished(start("sandbox", "exec", BOX, "--", str(sandbox / "hosts")))[0] == 126


def test_given_a_sandbox_that_is_gone_when_executing_then_it_is_an_error(start: Start, stub: Stub) -> None:
    stub.answer("GET", f"/sandboxes/{BOX}?verbose=true", {"id": BOX, "sandbox_key": "/no/such", "endpoints": []})
    status, _, err = finished(start("sandbox", "exec", BOX, "--", "true"))
    assert status == 1
    assert "cannot open the sandbox at /no/such" in err


def test_given_a_command_when_run_then_a_service_lives_as_long_as_it(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    words = ("run", "--net", "blue", "--name", "web", "-p", "8080:80", "--dns", "10.0.0.1", "--", "sh", "-c")
    status, out, err = finished(start(*words, "cat /etc/hosts; exit 7"))
    assert (status, out, err) == (7, "10.9.0.2\tbar\n", "")
    publish, attach = stub.requests[0].body, stub.requests[1].body
    assert isinstance(publish, dict)
    tied = publish.pop("watch_pid")
    assert publish == {
        "name": "web",
        "network_name": "blue",
        "port_mapping": [{"proto": 6, "port": 80, "host_port": 8080}],
    }
    assert isinstance(attach, dict)
    assert (attach["host_name"], attach["dns"], len(attach["container_id"])) == ("web", ["10.0.0.1"], 64)
    assert attach["watch_pid"] == tied
    assert cleaned_up(stub)


def test_given_no_name_when_run_then_one_is_made(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    assert finished(start("run", "true"))[0] == 0
    body = stub.requests[0].body
    assert isinstance(body, dict)
    assert body.keys() == {"name", "watch_pid"}
    assert len(body["name"].removeprefix("run-")) == 8


def test_given_an_unknown_command_when_run_then_the_status_is_127_and_nothing_stays(
    start: Start, stub: Stub, sandbox: Path
) -> None:
    canned_life(stub)
    assert finished(start("run", "--", "/no/such"))[0] == 127
    assert cleaned_up(stub)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_given_a_signal_when_run_then_the_command_gets_it_and_nothing_stays(
    start: Start, stub: Stub, sandbox: Path, number: signal.Signals
) -> None:
    canned_life(stub)
    process = start("run", "--", "sh", "-c", "echo up; exec sleep 60")
    with process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert cleaned_up(stub)


def test_given_a_kill_when_run_then_the_command_dies_with_it(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    process = start("run", "--", "sh", "-c", "echo $$; exec sleep 60")
    with process:
        assert process.stdout
        command = int(process.stdout.readline())
        process.kill()
        process.wait(30)
    eventually(lambda: not is_running(command))


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_given_a_command_that_handles_the_signal_when_run_then_its_own_status_counts(
    start: Start, stub: Stub, sandbox: Path
) -> None:
    canned_life(stub)
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print('up', flush=True); signal.pause()"
    process = start("run", "--", sys.executable, "-c", script)
    with process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(30) == 9


def test_given_an_interrupt_typed_at_the_terminal_when_run_then_the_command_gets_it_once(
    start: Start, stub: Stub, sandbox: Path
) -> None:
    canned_life(stub)
    script = """
import os, signal, sys
count = 0
def interrupted(*_):
    global count
    count += 1
    os.write(1, b"interrupted\\n")  # print refuses to be called amid another print
signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(count))
print("up", flush=True)
while True:
    signal.pause()
"""
    master, terminal = os.openpty()
    with start("run", "--", sys.executable, "-c", script, terminal=terminal) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        os.write(master, b"\x03")
        assert process.stdout.readline() == "interrupted\n"
        process.terminate()  # handed on after anything that was handed on before
        assert process.wait(30) == 1
    os.close(master)
    os.close(terminal)


@pytest.mark.parametrize("words", [("sandbox", "exec", BOX, "--"), ("run", "--")], ids=["exec", "run"])
def test_given_a_command_when_it_starts_then_it_ignores_and_holds_no_signals(
    start: Start, stub: Stub, sandbox: Path, words: tuple[str, ...]
) -> None:
    canned_life(stub)
    _, out, _ = finished(start(*words, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status"))
    masks = dict(line.split(":\t") for line in out.splitlines())
    assert int(masks["SigBlk"], 16) == 0
    assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_given_a_join_that_fails_when_run_then_the_service_is_taken_back(start: Start, stub: Stub) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", {"message": "no room", "code": "exhausted"}, 409)
    stub.answer("DELETE", f"/services/{SERVICE}")
    status, _, err = finished(start("run", "--", "true"))
    assert (status, err) == (1, "sandnet: no room\n")
    assert stub.asked()[-1] == ("DELETE", f"/services/{SERVICE}")


def test_given_a_daemon_that_is_restarting_when_the_command_ends_then_cleaning_up_waits_for_it(
    start: Start, stub: Stub, sandbox: Path
) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", "/key")
    stub.answer("DELETE", f"/services/{SERVICE}", {"message": "starting", "code": "unavailable"}, 503)
    stub.answer("DELETE", f"/services/{SERVICE}")
    assert finished(start("run", "--", "true")) == (0, "", "")
    assert stub.asked().count(("DELETE", f"/services/{SERVICE}")) == 2


def test_given_what_cannot_be_removed_when_the_command_ends_then_it_is_told_and_the_status_stays(
    start: Start, stub: Stub, sandbox: Path
) -> None:
    canned_life(stub)
    stub.answer("DELETE", f"/services/{SERVICE}", {"message": "web is in use", "code": "in_use"}, 403)
    stub.reply("DELETE", f"/services/{SERVICE}")  # uses up the success
    status, out, err = finished(start("run", "--", "false"))
    assert (status, out) == (1, "")
    assert err.startswith("sandnet: left behind: web is in use\n  the daemon tries again; see: sandnet service ls")


def test_given_no_daemon_when_run_then_the_way_out_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SANDNET, "-H", f"unix://{tmp_path}/absent", "run", "--", "true"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "start it with: sandnet daemon" in done.stderr
