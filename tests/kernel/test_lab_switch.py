"""The switch of a lab in the real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandnet.errors import Error
from sandnet.kernel.linux.taps import device
from sandnet.lab.child_processes import ProcessTable
from sandnet.lab.lab_spec import host_name
from sandnet.lab.switch import BRIDGE, NO_IMPAIRMENT, Switch
from tests.support.network_host import Host
from tests.support.privileges import needs_taps

PORT = host_name(2)


@pytest.fixture
def switch(host: Host) -> Switch:
    """A switch with the port of host 2."""
    made = Switch(ProcessTable(), 1500)
    host.run(made.start)
    host.sh("ip", "link", "add", PORT, "master", BRIDGE, "type", "veth")
    return made


def test_delay_without_taps_is_refused_and_changes_nothing(
    host: Host, switch: Switch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "DEVICE", str(tmp_path / "tun"))
    before = host.sh("ip", "-o", "link", "show")
    with pytest.raises(Error, match="this host makes no taps") as refused:
        host.run(switch.impair, 2, 0.02, None)
    assert refused.value.code == "no_taps"
    assert host.sh("ip", "-o", "link", "show") == before
    host.run(switch.heal)


@needs_taps
def test_delay_line_that_cannot_be_made_leaves_nothing(host: Host, switch: Switch) -> None:
    host.sh("ip", "link", "add", "far2", "type", "veth")
    with pytest.raises(Error, match="cannot change the network of the lab"):
        host.run(switch.impair, 2, 0.02, None)
    assert switch.impairment(2) == NO_IMPAIRMENT
    links = host.sh("ip", "-o", "link", "show")
    assert "line2" not in links
    assert "near2" not in links
    assert f"{PORT}: " in links
    assert f"master {BRIDGE}" in host.sh("ip", "-o", "link", "show", PORT)
