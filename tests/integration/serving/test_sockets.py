"""Where the daemon listens, and where it refuses to."""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.serving.sockets import check, listen
from sandnet.serving.unix_socket import check_private
from tests.support.privileges import needs_other_users

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def opened(path: Path) -> os.stat_result:
    (listener,) = listen([f"unix://{path}"])
    listener.socket.close()
    return path.lstat()


def refused(url: str) -> Error:
    with pytest.raises(Error) as caught:
        listen([url])
    return caught.value


@needs_other_users
def test_socket_belongs_to_root_and_the_sandnet_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", 4242, [])))
    found = opened(folder / "s.sock")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 4242, 0o660)


@needs_root
def test_socket_without_the_group_is_root_only_and_logged_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(name: str) -> object:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", none)
    with caplog.at_level(logging.INFO):
        found = opened(folder / "s.sock")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o660)
    assert [line for line in caplog.messages if "root only" in line] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_socket_mode_does_not_depend_on_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert stat.S_IMODE(opened(folder / "s.sock").st_mode) == 0o660
    finally:
        os.umask(before)


def test_symlink_at_the_socket_path_is_refused_target_untouched(
    folder: Path,
) -> None:
    target = folder / "target"
    target.write_text("precious")
    target.chmod(0o600)
    (folder / "s.sock").symlink_to(target)
    assert refused(f"unix://{folder}/s.sock").code == "socket_taken"
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("precious", 0o600)


def test_symlink_to_a_stale_socket_is_refused(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as exited:
        exited.bind(str(folder / "dead.sock"))
    (folder / "s.sock").symlink_to(folder / "dead.sock")
    assert refused(f"unix://{folder}/s.sock").code == "socket_taken"
    assert (folder / "dead.sock").exists()


def test_socket_left_by_a_killed_daemon_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as exited:
        exited.bind(str(folder / "s.sock"))
    assert stat.S_ISSOCK(opened(folder / "s.sock").st_mode)


def test_socket_in_use_is_refused(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(folder / "s.sock"))
        running.listen()
        assert refused(f"unix://{folder}/s.sock").kind is Kind.CONFLICT


def test_socket_directory_writable_by_others_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    error = refused(f"unix://{folder}/s.sock")
    assert error.code == "directory_not_private"
    assert f"chmod 755 {folder}" in error.hint
    folder.chmod(0o1777)  # as /tmp is: others cannot touch what is not theirs
    opened(folder / "s.sock")
    with pytest.raises(Error):
        check_private(str(folder))  # which is not enough for what is kept


def test_socket_directory_that_is_a_symlink_is_refused(folder: Path) -> None:
    (folder / "real").mkdir(0o755)
    (folder / "link").symlink_to(folder / "real")
    assert refused(f"unix://{folder}/link/s.sock").code == "directory_not_private"
    assert list((folder / "real").iterdir()) == []


@needs_other_users
def test_private_directory_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 4242, 0)
    with pytest.raises(Error, match="belongs to user 4242"):
        check_private(str(folder))


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "[::]", "[2001:db8::1]", "[::ffff:127.0.0.1]"])
def test_non_loopback_without_tls_is_refused_with_a_hint(address: str) -> None:
    for reported in (refused(f"tcp://{address}:2376"), checked(f"tcp://{address}:2376")):
        assert reported.code == "not_loopback"
        assert "--tls-cert, --tls-key and --tls-ca" in reported.hint


def checked(url: str) -> Error:
    with pytest.raises(Error) as caught:
        check([url], None)
    return caught.value


@pytest.mark.parametrize(
    "url",
    ["tcp://127.0.0.1:99999", "tcp://[::1", "tcp://127.0.0.1", "tcp://localhost:1/x", "http://127.0.0.1:1", "unix://x"],
)
def test_unknown_url_form_is_refused(url: str) -> None:
    assert refused(url).code == "invalid_url"


PASS_ON = """
import os, socket, sys
from sandnet.errors import Error
from sandnet.serving.sockets import listen
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
try:
    print([each.url for each in listen(["unix:///nowhere/s.sock"])])
except Error as error:
    print(error.code)
"""


def passed(listener: socket.socket) -> str:
    """What comes of a socket that the service manager passes."""

    def third() -> None:
        os.dup2(listener.fileno(), 3)

    with listener:
        done = subprocess.run(
            [sys.executable, "-c", PASS_ON],
            preexec_fn=third,
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout.strip()


def test_passed_non_loopback_tcp_socket_without_tls_is_refused() -> None:
    assert passed(socket.create_server(("0.0.0.0", 0))) == "not_loopback"
    assert passed(socket.create_server(("127.0.0.1", 0))).startswith("['tcp://127.0.0.1:")


def test_passed_unix_socket_replaces_our_own(folder: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s.sock"))
    listener.listen()
    assert passed(listener) == f"['unix://{folder}/s.sock']"
