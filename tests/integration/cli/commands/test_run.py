"""``run`` and ``sandbox exec`` with a real namespace, inside a user namespace of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.network_host import eventually
from tests.support.stub_daemon import SANDBOX, SANDNET, finished

if TYPE_CHECKING:
    from tests.support.stub_daemon import Start, Stub

SERVICE = "0aee0899e6c5e903cf3ef2bdc28a1c9aaf639c8c8c331fa4ae26344d9e32c1ff"


def canned_life(stub: Stub) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", "/key")
    stub.answer("DELETE", f"/services/{SERVICE}")


def cleaned_up(stub: Stub) -> bool:
    """Whether the last two requests detached the container and unpublished the service."""
    detach, unpublish = stub.asked()[-2:]
    return detach[0] == "DELETE" and "/backend/" in detach[1] and unpublish == ("DELETE", f"/services/{SERVICE}")


def test_exec_uses_network_and_names_of_the_sandbox(start: Start, sandbox: Path, namespace: int) -> None:
    script = "readlink /proc/self/ns/net; cat /etc/hosts /etc/resolv.conf"
    status, out, _ = finished(start("sandbox", "exec", SANDBOX, "--", "sh", "-c", script))
    assert status == 0
    assert out == f"{os.readlink(f'/proc/{namespace}/ns/net')}\n10.9.0.2\tbar\nnameserver 127.0.0.11\n"


def test_exec_mounts_are_invisible_to_others(start: Start, sandbox: Path, namespace: int) -> None:
    mounts = Path(f"/proc/{namespace}/mountinfo")
    before = mounts.read_text()
    process = start(
        "sandbox", "exec", SANDBOX, "--", "sh", "-c", "grep -c ' /etc/.sandnet/hosts ' /proc/self/mountinfo; cat"
    )
    with process:
        assert process.stdout
        assert int(process.stdout.readline()) > 0
        assert mounts.read_text() == before
        process.terminate()


def test_exec_passes_options_to_the_command(start: Start, sandbox: Path) -> None:
    assert finished(start("sandbox", "exec", SANDBOX, "echo", "-n", "--help"))[:2] == (0, "--help")


def test_exec_of_an_unknown_command_exits_127(start: Start, sandbox: Path) -> None:
    status, _, err = finished(start("sandbox", "exec", SANDBOX, "--", "/no/such"))
    assert (status, err) == (127, "sandnet: cannot run /no/such: No such file or directory\n")


def test_exec_of_a_non_program_file_exits_126(start: Start, sandbox: Path) -> None:
    assert finished(start("sandbox", "exec", SANDBOX, "--", str(sandbox / "hosts")))[0] == 126


def test_exec_in_a_deleted_sandbox_is_an_error(start: Start, stub: Stub) -> None:
    stub.answer(
        "GET", f"/sandboxes/{SANDBOX}?verbose=true", {"id": SANDBOX, "sandbox_key": "/no/such", "endpoints": []}
    )
    status, _, err = finished(start("sandbox", "exec", SANDBOX, "--", "true"))
    assert status == 1
    assert "cannot open the sandbox at /no/such" in err


def test_run_service_exists_as_long_as_its_command(start: Start, stub: Stub, sandbox: Path) -> None:
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


def test_run_without_a_name_generates_one(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    assert finished(start("run", "true"))[0] == 0
    body = stub.requests[0].body
    assert isinstance(body, dict)
    assert body.keys() == {"name", "watch_pid"}
    assert len(body["name"].removeprefix("run-")) == 8


def test_run_of_an_unknown_command_exits_127_leaving_nothing(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    assert finished(start("run", "--", "/no/such"))[0] == 127
    assert cleaned_up(stub)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_forwards_a_signal_and_leaves_nothing(
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


def test_killed_run_ends_its_command(start: Start, stub: Stub, sandbox: Path) -> None:
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


def test_run_returns_the_status_of_a_command_handling_the_signal(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print('up', flush=True); signal.pause()"
    process = start("run", "--", sys.executable, "-c", script)
    with process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(30) == 9


def test_terminal_interrupt_reaches_the_run_command_once(start: Start, stub: Stub, sandbox: Path) -> None:
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


@pytest.mark.parametrize("words", [("sandbox", "exec", SANDBOX, "--"), ("run", "--")], ids=["exec", "run"])
def test_run_command_starts_with_no_ignored_or_blocked_signals(
    start: Start, stub: Stub, sandbox: Path, words: tuple[str, ...]
) -> None:
    canned_life(stub)
    _, out, _ = finished(start(*words, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status"))
    masks = dict(line.split(":\t") for line in out.splitlines())
    assert int(masks["SigBlk"], 16) == 0
    assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_run_with_a_failed_join_unpublishes_the_service(start: Start, stub: Stub) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", {"message": "no room", "code": "exhausted"}, 409)
    stub.answer("DELETE", f"/services/{SERVICE}")
    status, _, err = finished(start("run", "--", "true"))
    assert (status, err) == (1, "sandnet: no room\n")
    assert stub.asked()[-1] == ("DELETE", f"/services/{SERVICE}")


def test_run_cleanup_waits_for_a_restarting_daemon(start: Start, stub: Stub, sandbox: Path) -> None:
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", f"/services/{SERVICE}/backend", "/key")
    stub.answer("DELETE", f"/services/{SERVICE}", {"message": "starting", "code": "unavailable"}, 503)
    stub.answer("DELETE", f"/services/{SERVICE}")
    assert finished(start("run", "--", "true")) == (0, "", "")
    assert stub.asked().count(("DELETE", f"/services/{SERVICE}")) == 2


def test_run_reports_failed_cleanup_and_keeps_the_exit_status(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    stub.answer("DELETE", f"/services/{SERVICE}", {"message": "web is in use", "code": "in_use"}, 403)
    stub.reply("DELETE", f"/services/{SERVICE}")  # uses up the success
    status, out, err = finished(start("run", "--", "false"))
    assert (status, out) == (1, "")
    assert err.startswith("sandnet: left behind: web is in use\n  the daemon tries again; see: sandnet service ls")


def test_run_without_a_daemon_prints_advice(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SANDNET, "-H", f"unix://{tmp_path}/absent", "run", "--", "true"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "start it as root with: sandnet daemon --detach" in done.stderr


class Background:
    """What ``run -d`` left running; ended at the end of the block."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    @property
    def pid(self) -> int:
        """The process that the daemon watches."""
        bodies = [request.body for request in self._stub.requests if isinstance(request.body, dict)]
        return int(next(body["watch_pid"] for body in bodies if "watch_pid" in body))

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        eventually(lambda: not is_running(self.pid))


def listens(namespace: int, port: int) -> bool:
    rows = [line.split() for line in Path(f"/proc/{namespace}/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def test_detached_run_prints_the_id_and_keeps_running(start: Start, stub: Stub, sandbox: Path) -> None:
    canned_life(stub)
    status, out, err = finished(start("run", "-d", "--", "sh", "-c", "echo said; exec sleep 600"))
    assert (status, err, len(out)) == (0, "", 65)
    attach = stub.requests[1].body
    assert isinstance(attach, dict)
    assert out.strip() == attach["container_id"]
    background = Background(stub)
    assert os.getsid(background.pid) == background.pid
    assert [os.readlink(f"/proc/{background.pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3
    assert not cleaned_up(stub)
    background.end()
    assert cleaned_up(stub)


def test_detached_run_with_a_port_returns_once_it_listens(
    start: Start, stub: Stub, sandbox: Path, namespace: int
) -> None:
    canned_life(stub)
    script = "import socket, time; time.sleep(0.5); s = socket.create_server(('', 4711)); time.sleep(600)"
    assert finished(start("run", "-d", "-p=8080:4711", "--", sys.executable, "-c", script))[0] == 0
    assert listens(namespace, 4711)
    Background(stub).end()


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        (("/no/such",), 127, "cannot run /no/such"),
        (("sh", "-c", "exit 7"), 7, "the command ended with status 7 before it listened"),
    ],
)
def test_detached_run_reports_early_failure_and_leaves_nothing(
    start: Start, stub: Stub, sandbox: Path, command: tuple[str, ...], status: int, printed: str
) -> None:
    canned_life(stub)
    found, out, err = finished(start("run", "-d", "-p", "8080:80", "--", *command))
    assert (found, out) == (status, "")
    assert printed in err
    assert cleaned_up(stub)


def test_detached_run_reports_a_refusal(start: Start, stub: Stub) -> None:
    stub.answer("POST", "/services", {"message": "no room", "code": "exhausted"}, 409)
    assert finished(start("run", "-d", "--", "true")) == (1, "", "sandnet: no room\n")


def test_detached_run_writes_output_to_the_log_file(start: Start, stub: Stub, sandbox: Path, tmp_path: Path) -> None:
    canned_life(stub)
    log = tmp_path / "log"
    log.write_text("before\n")
    script = "echo said; echo wrong >&2; exec sleep 600"
    assert finished(start("run", "-d", "--log-file", str(log), "--", "sh", "-c", script))[0] == 0
    eventually(lambda: log.read_text() == "before\nsaid\nwrong\n")
    Background(stub).end()


def test_run_as_backend_adds_and_removes_only_the_container(start: Start, stub: Stub, sandbox: Path) -> None:
    stub.answer("GET", "/networks/blue/endpoints?name=api", [{"name": "api", "id": SERVICE, "network": "blue"}])
    stub.answer("POST", f"/services/{SERVICE}/backend", "/key")
    words = ("--service", "api.blue", "--add-host", "db:10.9.0.9")
    assert finished(start("run", *words, "--", "true")) == (0, "", "")
    attach = stub.requests[1].body
    assert isinstance(attach, dict)
    assert attach["extra_hosts"] == [{"name": "db", "address": "10.9.0.9"}]
    assert ("POST", "/services") not in stub.asked()
    method, target = stub.asked()[-1]
    assert (method, target) == ("DELETE", f"/services/{SERVICE}/backend/{attach['container_id']}")


def test_run_on_several_networks_has_a_service_on_each(start: Start, stub: Stub, sandbox: Path) -> None:
    other = "d" * 64
    stub.answer("POST", "/services", SERVICE)
    stub.answer("POST", "/services", other)
    for service in (SERVICE, other):
        stub.answer("POST", f"/services/{service}/backend", "/key")
        stub.answer("DELETE", f"/services/{service}")
    words = ["--net", "blue", "--net", "green", "--name", "web", "-p", "8080:80", "--ip", "10.9.0.7"]
    words += ["--alias", "www", "--label", "tier=front"]
    assert finished(start("run", *words, "--", "true"))[0] == 0
    published = [request.body for request in stub.requests if request.target == "/services"]
    assert all(isinstance(body, dict) and body.pop("watch_pid") for body in published)
    common = {"name": "web", "aliases": ["www"], "labels": {"tier": "front"}}
    mapped = [{"proto": 6, "port": 80, "host_port": 8080}]
    assert published == [
        {**common, "network_name": "blue", "port_mapping": mapped, "address": "10.9.0.7"},
        {**common, "network_name": "green"},
    ]
    assert [target for method, target in stub.asked() if method == "DELETE"][1::2] == [
        f"/services/{other}",
        f"/services/{SERVICE}",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("--service", "api", "--name", "x"),
        ("--service", "api", "--net", "blue"),
        ("--service", "api", "-p", "80:80"),
        ("--log-file", "/x"),
    ],
)
def test_run_with_exclusive_options_is_a_usage_error(start: Start, stub: Stub, words: tuple[str, ...]) -> None:
    assert finished(start("run", *words, "--", "true"))[0] == 2
    assert stub.requests == []
