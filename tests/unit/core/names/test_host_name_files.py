"""The host's own files, however they are changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandnet.core.names import host_name_files
from sandnet.core.names.host_name_files import HostView
from tests.support.core_in_process import CoreInProcess


def rewrite(file: Path, text: str) -> None:
    file.write_text(text)


def rename(file: Path, text: str) -> None:
    other = file.with_name("new")
    other.write_text(text)
    other.replace(file)


def point_elsewhere(file: Path, text: str) -> None:
    target = file.with_name(f"target-{len(list(file.parent.iterdir()))}")
    target.write_text(text)
    link = file.with_name("link")
    link.symlink_to(target)
    link.replace(file)


def change_target(file: Path, text: str) -> None:
    """As systemd-resolved does with the file that /etc/resolv.conf leads to."""
    if not file.is_symlink():
        point_elsewhere(file, "")
    rename(Path(os.readlink(file)), text)


@pytest.mark.parametrize("change", [rewrite, rename, point_elsewhere, change_target])
def test_changed_host_file_has_a_new_fingerprint_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, str], None]
) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(host_name_files, "RESOLV_CONF", str(file))
    view = HostView()
    assert view.resolv_conf().search == ()
    marks = {view.fingerprint()}
    for number in range(5):
        change(file, f"search d{number}.example\n")
        assert view.fingerprint() == view.fingerprint()
        assert view.fingerprint() not in marks
        marks.add(view.fingerprint())
        assert view.resolv_conf().search == (f"d{number}.example",)
    file.unlink()
    assert view.resolv_conf().search == ()


async def test_briefly_missing_host_file_causes_no_drift(
    core: CoreInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "host.conf"
    monkeypatch.setattr(host_name_files, "RESOLV_CONF", str(file))
    file.write_text("nameserver 192.0.2.53\nsearch a.example\n")
    await core.network()
    await core.endpoint("web")
    sandbox = await core.join("c1", "web")
    files = core.controller._context.host_files
    sandbox = core.controller.sandboxes.find("c1")
    assert files.check_job(sandbox)() == []
    file.unlink()
    assert files.check_job(sandbox)() == []
    file.write_text("nameserver 192.0.2.53\nsearch b.example\n")
    assert [fault.problem for fault in files.check_job(sandbox)()] == ["resolv.conf is behind the host's"]
    Path(sandbox.resolv_conf_path).write_text("# mine\n")
    assert files.check_job(sandbox)() == []


def test_servers_behind_the_resolved_stub_are_used_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real = tmp_path / "resolv.conf", tmp_path / "real"
    monkeypatch.setattr(host_name_files, "RESOLV_CONF", str(file))
    monkeypatch.setattr(host_name_files, "RESOLVED_REAL", str(real))
    view = HostView()
    file.write_text("nameserver 127.0.0.53\noptions edns0\nsearch a.example\n")
    assert view.reachable() == view.resolv_conf()
    real.write_text("nameserver 192.0.2.1\nsearch a.example\n")
    assert [str(server) for server in view.reachable().servers] == ["192.0.2.1"]
    assert [str(server) for server in view.resolv_conf().servers] == ["127.0.0.53"]
    file.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.9\n")
    assert view.reachable() == view.resolv_conf()
