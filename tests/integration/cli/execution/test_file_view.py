"""The files by which a program in a sandbox finds names, on a host with an /etc and a /run of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from sandnet.cli.execution.file_view import NAME_SERVICES, nsswitch
from tests.support.stub_daemon import SANDBOX, Start, Stub, finished

NEEDED = ("passwd", "group", "ld.so.cache")
"""Files of the machine that programs look for, by the test's own copies."""


@pytest.fixture
def on_host(namespace: int) -> Callable[..., str]:
    """Runs a command in the mount namespace of the host; what it printed."""

    def call(*words: str) -> str:
        inside = ["nsenter", "--target", str(namespace), "--user", "--mount", "--preserve-credentials", "--"]
        return subprocess.run([*inside, *words], check=True, capture_output=True, text=True, timeout=30).stdout

    return call


@pytest.fixture
def etc(on_host: Callable[..., str], tmp_path: Path) -> Path:
    """The host's /etc, a directory of the test's."""
    etc = tmp_path / "etc"
    (etc / "conf.d").mkdir(parents=True)
    for name in NEEDED:
        with suppress(FileNotFoundError):
            shutil.copy(f"/etc/{name}", etc)
    if os.path.exists("/etc/alternatives"):
        shutil.copytree("/etc/alternatives", etc / "alternatives", symlinks=True)
    (etc / "hosts").write_text("192.0.2.1\tof-the-host\n")
    (etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    (etc / "nsswitch.conf").write_text("passwd: files\nhosts: resolve [!UNAVAIL=return] dns\n")
    (etc / "motd").write_text("old\n")
    (etc / "conf.d" / "a").write_text("old\n")
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    on_host("mount", "--bind", str(etc), "/etc")
    return etc


@pytest.fixture
def run(on_host: Callable[..., str], tmp_path: Path) -> Path:
    """The host's /run, a directory of the test's with the sockets' directories of all name services."""
    run = tmp_path / "run"
    for name in NAME_SERVICES:
        (run / name).mkdir(parents=True)
        (run / name / "socket").touch()
    (run / "other.pid").write_text("1\n")
    on_host("mount", "--bind", str(run), "/run")
    return run


class Shell:
    """A shell in the sandbox that answers line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin
        assert process.stdout
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout

    def sh(self, script: str) -> str:
        """What the script printed."""
        self._in.write(f"{{ {script}\n}} 2>&1; echo; echo END\n")
        self._in.flush()
        return "".join(iter(self._out.readline, "END\n")).removesuffix("\n")


@pytest.fixture
def shell(start: Start, sandbox: Path) -> Iterator[Callable[[], Shell]]:
    """Starts a shell in the sandbox."""
    started = []

    def call() -> Shell:
        started.append(start("sandbox", "exec", SANDBOX, "--", "sh"))
        return Shell(started[-1])

    yield call
    for process in started:
        process.communicate(timeout=30)


def replace(path: Path, text: str) -> None:
    """As editors and network managers do it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def replace_all(etc: Path) -> None:
    for name in ("hosts", "resolv.conf", "nsswitch.conf"):
        replace(etc / name, "# the host's\n")


def unlink_all(etc: Path) -> None:
    for name in ("hosts", "resolv.conf", "nsswitch.conf"):
        (etc / name).unlink()
        (etc / name).write_text("# the host's\n")


def link_all(etc: Path) -> None:
    for name in ("hosts", "resolv.conf", "nsswitch.conf"):
        (etc / "link").symlink_to("conf.d/a")
        (etc / "link").replace(etc / name)


OWN = "10.9.0.2\tbar\nnameserver 127.0.0.11\npasswd: files\nhosts: files dns\n"
CAT = "cat /etc/hosts /etc/resolv.conf /etc/nsswitch.conf"


@pytest.mark.parametrize("change", [replace_all, unlink_all, link_all])
def test_program_keeps_sandbox_files_over_host_file_replacement(
    etc: Path, shell: Callable[[], Shell], change: Callable[[Path], None]
) -> None:
    inside = shell()
    assert inside.sh(CAT) == OWN
    change(etc)
    assert inside.sh(CAT) == OWN


def test_program_keeps_sandbox_files_behind_a_symlinked_target(
    etc: Path, run: Path, shell: Callable[[], Shell]
) -> None:
    target = run / "systemd" / "resolve" / "stub-resolv.conf"
    target.write_text("nameserver 127.0.0.53\n")
    (etc / "resolv.conf").unlink()
    (etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    inside = shell()
    assert inside.sh(CAT) == OWN
    replace(target, "nameserver 192.0.2.53\n")
    assert inside.sh(CAT) == OWN
    shutil.rmtree(run / "systemd")
    assert inside.sh(CAT) == OWN


@pytest.mark.parametrize("absent", [("hosts",), ("nsswitch.conf",), ("hosts", "resolv.conf", "nsswitch.conf")])
def test_program_has_name_files_that_the_host_lacks(
    etc: Path, shell: Callable[[], Shell], absent: tuple[str, ...]
) -> None:
    for name in absent:
        (etc / name).unlink()
    assert shell().sh(CAT).splitlines()[-1] == "hosts: files dns"
    assert shell().sh("cat /etc/hosts") == "10.9.0.2\tbar\n"
    for name in absent:
        assert not (etc / name).exists()


def test_program_sees_the_daemon_update_sandbox_files(etc: Path, sandbox: Path, shell: Callable[[], Shell]) -> None:
    inside = shell()
    assert inside.sh("cat /etc/hosts") == "10.9.0.2\tbar\n"
    replace(sandbox / "hosts", "10.9.0.3\tbar\n")
    replace(sandbox / "resolv.conf", "nameserver 127.0.0.11\nsearch example.org\n")
    assert inside.sh("cat /etc/hosts /etc/resolv.conf").splitlines()[::2] == ["10.9.0.3\tbar", "search example.org"]


def test_program_sees_changes_of_other_host_files(etc: Path, shell: Callable[[], Shell]) -> None:
    inside = shell()
    assert inside.sh("cat /etc/motd /etc/conf.d/a") == "old\nold\n"
    replace(etc / "motd", "new\n")
    replace(etc / "conf.d" / "a", "new\n")
    (etc / "conf.d" / "b").write_text("added\n")
    assert inside.sh("cat /etc/motd /etc/conf.d/a /etc/conf.d/b") == "new\nnew\nadded\n"


def test_write_to_etc_reaches_the_host_or_fails_visibly(etc: Path, shell: Callable[[], Shell]) -> None:
    inside = shell()
    assert inside.sh("echo mine > /etc/motd; echo mine > /etc/conf.d/mine") == ""
    assert (etc / "motd").read_text() == (etc / "conf.d" / "mine").read_text() == "mine\n"
    assert "Read-only file system" in inside.sh("echo mine > /etc/mine")
    assert "Read-only file system" in inside.sh("mv /etc/conf.d/a /etc/hosts")
    assert inside.sh("cat /etc/hosts") == "10.9.0.2\tbar\n"


def test_symlinks_in_etc_have_the_same_targets_as_on_the_host(etc: Path, shell: Callable[[], Shell]) -> None:
    (etc / "absolute").symlink_to("/usr/lib/os-release")
    (etc / "sideways").symlink_to("conf.d/a")
    (etc / "conf.d" / "up").symlink_to("../../usr/lib/os-release")
    (etc / "conf.d" / "hosts").symlink_to("../hosts")
    (etc / "dangling").symlink_to("nowhere")
    paths = "/etc/os-release /etc/absolute /etc/sideways /etc/conf.d/up"
    on_host = [os.path.realpath("/usr/lib/os-release")] * 2 + ["/etc/conf.d/a", os.path.realpath("/usr/lib/os-release")]
    inside = shell()
    assert inside.sh(f"realpath {paths}").split() == on_host
    assert inside.sh("cat /etc/conf.d/hosts") == "10.9.0.2\tbar\n"


def test_nested_exec_has_the_names_of_the_inner_sandbox(etc: Path, start: Start, sandbox: Path, stub: Stub) -> None:
    inner = ["unshare", "--mount", "mount", "--bind", "/etc/motd", "/etc/conf.d/a"]
    assert finished(start("sandbox", "exec", SANDBOX, "--", *inner))[0] == 0  # mounting in it goes on working
    command = ["sandbox", "exec", SANDBOX, "--"]
    again = ["sandnet", "-H", stub.url, *command, "cat", "/etc/hosts", "/etc/motd"]
    script = f"import sys; sys.argv = {again!r}; from sandnet.cli import main; main()"
    status, out, err = finished(start(*command, sys.executable, "-c", script))
    assert (status, out) == (0, "10.9.0.2\tbar\nold\n"), err


def test_files_keep_their_own_paths_for_apparmor(
    etc: Path, shell: Callable[[], Shell], on_host: Callable[..., str], tmp_path: Path
) -> None:
    enabled = tmp_path / "module" / "apparmor" / "parameters" / "enabled"
    enabled.parent.mkdir(parents=True)
    enabled.write_text("Y\n")
    on_host("mount", "--bind", str(tmp_path / "module"), "/sys/module")
    inside = shell()
    assert inside.sh("realpath /etc/hosts /etc/resolv.conf /etc/nsswitch.conf /etc/passwd /etc/conf.d/a").split() == [
        f"/etc/{name}" for name in ("hosts", "resolv.conf", "nsswitch.conf", "passwd", "conf.d/a")
    ]
    replace_all(etc)
    assert inside.sh(CAT) == OWN


def test_unusual_umask_is_kept_and_files_stay_readable(etc: Path, shell: Callable[[], Shell]) -> None:
    before = os.umask(0o077)
    try:
        inside = shell()
    finally:
        os.umask(before)
    assert inside.sh("umask; stat -c %a /etc /etc/.sandnet /etc/.sandnet/hosts/hosts /etc/nsswitch.conf").split() == [
        "0077", "755", "755", "644", "644",
    ]  # fmt: skip


def test_lookup_uses_the_sandbox_despite_host_nsswitch_order(etc: Path, shell: Callable[[], Shell]) -> None:
    assert shell().sh("getent hosts bar; getent hosts of-the-host") == "10.9.0.2        bar\n"


@pytest.mark.parametrize("name", NAME_SERVICES)
def test_host_name_service_sockets_are_hidden(etc: Path, run: Path, shell: Callable[[], Shell], name: str) -> None:
    inside = shell()
    assert inside.sh(f"ls /run/{name} /var/run/{name} | grep socket; cat /run/other.pid") == "1\n"
    assert (run / name / "socket").exists()


def test_host_network_sandbox_resolves_names_like_the_host(
    etc: Path, run: Path, shell: Callable[[], Shell], stub: Stub
) -> None:
    assert isinstance(stub.every_sandbox, dict)
    stub.every_sandbox["origin"] = "host"
    inside = shell()
    assert inside.sh("cat /etc/nsswitch.conf; ls /run/nscd") == f"{(etc / 'nsswitch.conf').read_text()}socket\n"
    assert inside.sh("cat /etc/hosts") == "10.9.0.2\tbar\n"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("", "hosts: files dns\n"),
        ("passwd: files sss\n", "passwd: files sss\nhosts: files dns\n"),
        ("hosts: files resolve [!UNAVAIL=return] dns\npasswd: files", "passwd: files\nhosts: files dns\n"),
        ("  hosts\t: mdns4_minimal\nhosts: sss\n", "hosts: files dns\n"),
        ("# hosts: nothing\nghosts: dns\n", "# hosts: nothing\nghosts: dns\nhosts: files dns\n"),
    ],
)
def test_sandbox_nsswitch_uses_files_and_dns_for_hosts(host: str, ours: str) -> None:
    assert nsswitch(host) == ours
