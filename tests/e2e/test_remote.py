"""The daemon over TCP, with TLS on both sides."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Identity
from tests.support.daemon import HOST_ADDRESS, SANDNET, RunningDaemon
from tests.support.network_host import eventually

URL = f"tcp://{HOST_ADDRESS}:2376"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def called(
    daemon: RunningDaemon, authority: Authority, shown: Identity | None, *words: str
) -> subprocess.CompletedProcess[str]:
    """The command line on another machine."""
    files = [f"--tls-ca={authority.cert}", f"--tls-cert={shown.cert}", f"--tls-key={shown.key}"] if shown else []
    command = [str(SANDNET), "-H", URL, *files, *words]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    return daemon.host.inside(daemon.outside.namespace, call)


def test_tls_listener_accepts_only_its_client_certificate(
    fresh_daemon: RunningDaemon, authority: Authority, tmp_path: Path
) -> None:
    daemon = fresh_daemon
    own = authority.issue("server", use="serverAuth", addresses=(HOST_ADDRESS,))
    client = authority.issue("client", use="clientAuth")
    stranger = Authority(tmp_path / "other").issue("client", use="clientAuth")
    files = [f"--tls-cert={own.cert}", f"--tls-key={own.key}", f"--tls-ca={authority.cert}"]
    daemon.start("-H", f"unix://{daemon.run}/sandnet.sock", "-H", URL, *files)
    assert f"ready on unix://{daemon.run}/sandnet.sock {URL}" in daemon.log
    assert len(called(daemon, authority, client, "network", "create", "blue").stdout.strip()) == 64
    assert "blue" in daemon.cli("network", "ls")
    refused = called(daemon, authority, stranger, "network", "ls")
    assert (refused.returncode, refused.stdout) == (1, "")
    plain = called(daemon, authority, None, "network", "ls")
    assert plain.returncode == 1
    assert "--tls-ca" in plain.stderr
    daemon.stop()
    daemon.down()


def test_renewed_tls_certificates_need_no_restart(
    fresh_daemon: RunningDaemon, authority: Authority, tmp_path: Path
) -> None:
    daemon = fresh_daemon
    newer = Authority(tmp_path / "newer")
    own = authority.issue("renewed", use="serverAuth", addresses=(HOST_ADDRESS,))
    former = authority.issue("former", use="clientAuth")
    place = tmp_path / "tls"
    place.mkdir()
    files = [place / name for name in ("server.pem", "server.key", "ca.pem")]
    options = [f"--tls-{name}={file}" for name, file in zip(("cert", "key", "ca"), files, strict=True)]
    put(files, own, authority)
    daemon.start("-H", f"unix://{daemon.run}/sandnet.sock", "-H", URL, *options)
    assert called(daemon, authority, former, "network", "ls").returncode == 0

    files[0].write_text("no certificate")
    eventually(lambda: "those read before stay in force" in str(daemon.api.get("/healthz")["problems"]))
    assert called(daemon, authority, former, "network", "ls").returncode == 0

    put(files, newer.issue("server", use="serverAuth", addresses=(HOST_ADDRESS,)), newer)
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    assert called(daemon, newer, newer.issue("client", use="clientAuth"), "network", "ls").returncode == 0
    assert called(daemon, authority, former, "network", "ls").returncode == 1
    daemon.stop()


def put(files: list[Path], own: Identity, authority: Authority) -> None:
    """Copy certificate, key and CA to where the daemon reads them."""
    for source, target in zip((own.cert, own.key, authority.cert), files, strict=True):
        new = target.with_suffix(".new")
        new.write_bytes(source.read_bytes())
        new.chmod(0o600)
        new.rename(target)


def test_listening_beyond_loopback_without_tls_is_refused(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    command = [str(SANDNET), "daemon", *daemon.directories, "-H", "tcp://0.0.0.0:2375"]
    ended = daemon.host.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False, timeout=30))
    assert ended.returncode == 1
    assert "refusing to listen on tcp://0.0.0.0:2375 without TLS" in ended.stderr
    assert "--tls-cert, --tls-key and --tls-ca" in ended.stderr
    assert daemon.facts() == daemon.before
