"""Kernel parameters, and files made to look like them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.sysctl import ProcSysctl
from tests.support.network_host import Host


def test_parameter_is_set_in_one_network_namespace_only(host: Host) -> None:
    sysctl = ProcSysctl()
    with Host() as other:
        host.run(sysctl.set, "net/ipv4/ip_forward", "1")
        other.run(sysctl.set, "net/ipv4/ip_forward", "0")
        assert host.run(sysctl.get, "net/ipv4/ip_forward") == "1"
        assert host.sh("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
        assert other.run(sysctl.get, "net/ipv4/ip_forward") == "0"


def test_parameter_of_a_link_with_dots_in_its_name_is_set(host: Host) -> None:
    host.sh("ip", "link", "add", "br.0", "type", "bridge")
    host.run(ProcSysctl().set, "net/ipv4/conf/br.0/route_localnet", "1")
    assert host.run(ProcSysctl().get, "net/ipv4/conf/br.0/route_localnet") == "1"


def test_value_refused_by_the_kernel_is_invalid(host: Host) -> None:
    with pytest.raises(Error) as refusal:
        host.run(ProcSysctl().set, "net/ipv4/ip_forward", "rubbish")
    assert refusal.value.kind is Kind.INVALID


def test_read_only_parameter_is_unavailable(host: Host) -> None:
    with pytest.raises(Error) as refusal:
        host.run(ProcSysctl().set, "kernel/ostype", "Other")
    assert refusal.value.kind is Kind.UNAVAILABLE
    assert "kernel/ostype" in refusal.value.message


def test_symlink_is_not_followed_in_sysctl_paths(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    root = tmp_path / "sys"
    root.mkdir()
    (root / "link").symlink_to(outside)
    sysctl = ProcSysctl(os.fspath(root))
    with pytest.raises(Error):
        sysctl.set("link", "lost")
    with pytest.raises(Error):
        sysctl.get("link")
    assert outside.read_text() == "kept"
