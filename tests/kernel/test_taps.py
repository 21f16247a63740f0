"""Taps in the real kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from contextlib import ExitStack
from ipaddress import IPv4Interface

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.links import MAX_PORTS, LinuxLinks
from sandnet.kernel.linux.taps import device
from sandnet.kernel.types import PORTS, Bridge, Veth
from sandnet.model.link_names import link_mac
from sandnet.model.tap import TapOptions
from tests.support.network_host import Host
from tests.support.privileges import needs_other_users, needs_taps
from tests.support.taps import open_tap

BRIDGE = Bridge("snb0", 1400, (IPv4Interface("10.9.0.1/24"),))
TAP = Veth(
    host_link="snv0",
    master="snb0",
    interface="eth0",
    mac="02:42:0a:09:00:02",
    mtu=1400,
    address=IPv4Interface("10.9.0.2/24"),
    address_ipv6=None,
    isolated=True,
    hairpin=False,
    alias="sandnet1 end",
    tap=TapOptions(),
)
OWNER, NOBODY = 12345, 65534

links = LinuxLinks()


@pytest.fixture
def bridged(host: Host) -> Host:
    host.run(links.ensure_bridge, BRIDGE)
    return host


@needs_taps
def test_a_tap_is_a_port_of_its_bridge_and_up(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP)
    found = bridged.run(links.find, "snv0")
    assert found
    assert (found.kind, found.up, found.mtu, found.group, found.alias) == ("tun", True, 1400, PORTS, "sandnet1 end")
    assert found.mac == link_mac("snv0")
    assert "isolated on" in bridged.sh("bridge", "-d", "link", "show", "dev", "snv0")


@needs_other_users
def test_a_tap_has_the_requested_owner_and_queues(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP._replace(tap=TapOptions(owner=12345, group=54321, queues=2)))
    shown = bridged.sh("ip", "-d", "link", "show", "dev", "snv0")
    assert "tun type tap pi off vnet_hdr on multi_queue" in shown
    assert "persist on user 12345 group 54321" in shown


@needs_other_users
def test_the_highest_user_id_may_own_a_tap(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP._replace(tap=TapOptions(owner=2**32 - 2)))
    assert "user 4294967294" in bridged.sh("ip", "-d", "link", "show", "dev", "snv0")


@needs_other_users
def test_only_its_owner_may_open_a_tap(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP._replace(tap=TapOptions(owner=OWNER)))
    with pytest.raises(PermissionError):
        bridged.run(open_tap, "snv0", NOBODY)
    os.close(bridged.run(open_tap, "snv0", OWNER))


@needs_other_users
def test_a_tap_without_owner_is_roots(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP._replace(tap=TapOptions()))
    with pytest.raises(PermissionError):
        bridged.run(open_tap, "snv0", NOBODY)


@needs_taps
def test_a_tap_that_is_open_is_repaired_and_stays_open(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP)
    before = bridged.run(links.find, "snv0")
    with ExitStack() as stack:
        descriptor = bridged.run(open_tap, "snv0")
        stack.callback(os.close, descriptor)
        stolen = struct.pack("=16sH6s16x", b"snv0", 1, bytes.fromhex("02420a090003"))
        fcntl.ioctl(descriptor, 0x8924, stolen)  # SIOCSIFHWADDR: the emulator may, without a capability
        bridged.sh("ip", "link", "set", "snv0", "nomaster", "down")
        bridged.run(links.plug_tap, TAP)
        found = bridged.run(links.find, "snv0")
        assert found == before
        assert os.write(descriptor, bytes(10 + 60)) == 70


@needs_taps
def test_plugging_a_retired_tap_again_makes_a_new_one(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP)
    before = bridged.run(links.find, "snv0")
    bridged.run(links.retire, ["snv0"])
    bridged.run(links.plug_tap, TAP)
    found = bridged.run(links.find, "snv0")
    assert before
    assert found
    assert found.up
    assert found.ifindex != before.ifindex


@needs_taps
def test_a_retired_tap_is_deleted_while_it_is_open(bridged: Host) -> None:
    bridged.run(links.plug_tap, TAP)
    descriptor = bridged.run(open_tap, "snv0")
    bridged.run(links.retire, ["snv0"])
    bridged.run(links.reap)
    assert bridged.run(links.find, "snv0") is None
    with pytest.raises(OSError, match=os.strerror(errno.EBADFD)):
        os.write(descriptor, bytes(70))
    os.close(descriptor)


def test_a_pair_in_the_place_of_a_tap_is_a_conflict(bridged: Host) -> None:
    bridged.sh("ip", "link", "add", "snv0", "type", "veth", "peer", "other")
    with pytest.raises(Error, match="snv0 is there and is no tap") as caught:
        bridged.run(links.plug_tap, TAP)
    assert caught.value.kind is Kind.CONFLICT


@needs_taps
def test_a_tap_for_a_full_bridge_leaves_nothing(bridged: Host) -> None:
    pairs = "".join(f"link add d{n} master snb0 type veth peer e{n}\n" for n in range(MAX_PORTS))
    bridged.run(lambda: subprocess.run(["ip", "-batch", "-"], input=pairs, text=True, check=True))
    with pytest.raises(Error, match="full") as caught:
        bridged.run(links.plug_tap, TAP)
    assert caught.value.code == "network_full"
    assert bridged.run(links.find, "snv0") is None


def test_a_tap_for_an_absent_bridge_is_not_found(host: Host) -> None:
    with pytest.raises(Error) as caught:
        host.run(links.plug_tap, TAP)
    assert caught.value.kind is Kind.NOT_FOUND
    assert host.run(links.find, "snv0") is None


def test_a_host_without_the_device_says_so(bridged: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DEVICE", "/dev/net/none")
    with pytest.raises(Error, match="makes no taps") as caught:
        bridged.run(links.plug_tap, TAP)
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "no_taps")
