"""Kernel parameters, and files made to look like them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.sysctl import ProcSysctl
from tests.support.network_host import Host


def test_given_two_hosts_when_one_is_set_then_the_other_keeps_its_own(host: Host) -> None:
    sysctl = ProcSysctl()
    with Host() as other:
        host.run(sysctl.set, "net/ipv4/ip_forward", "1")
        other.run(sysctl.set, "net/ipv4/ip_forward", "0")
        assert host.run(sysctl.get, "net/ipv4/ip_forward") == "1"
        assert host.sh("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
        assert other.run(sysctl.get, "net/ipv4/ip_forward") == "0"


def test_given_a_link_with_dots_when_its_parameter_is_set_then_it_is_that_links(host: Host) -> None:
    host.sh("ip", "link", "add", "br.0", "type", "bridge")
    host.run(ProcSysctl().set, "net/ipv4/conf/br.0/route_localnet", "1")
    assert host.run(ProcSysctl().get, "net/ipv4/conf/br.0/route_localnet") == "1"


def test_given_a_value_the_kernel_refuses_when_set_then_invalid(host: Host) -> None:
    with pytest.raises(Error) as refusal:
        host.run(ProcSysctl().set, "net/ipv4/ip_forward", "rubbish")
    assert refusal.value.kind is Kind.INVALID


def test_given_a_read_only_parameter_when_set_then_unavailable(host: Host) -> None:
    with pytest.raises(Error) as refusal:
        host.run(ProcSysctl().set, "kernel/ostype", "Other")
    assert refusal.value.kind is Kind.UNAVAILABLE
    assert "kernel/ostype" in refusal.value.message


def test_given_a_symlink_when_used_then_it_is_not_followed(tmp_path: Path) -> None:
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
