"""What a tap is in the words of each emulator."""

from __future__ import annotations

import json

import msgspec
import pytest

from sandnet.cli import tap_formats
from sandnet.errors import Error
from sandnet.wire.sandbox_interfaces import Tap

TAP = Tap(
    container="vm",
    network="front",
    device="snv0123456789",
    netns=None,
    interface="eth0",
    mac="02:42:0a:09:00:02",
    mtu=1500,
    address="10.9.0.2/24",
    address_ipv6=None,
    gateway="10.9.0.1",
    gateway_ipv6=None,
    name_servers=["10.9.0.1"],
    host_name="",
    kernel_argument="ip=10.9.0.2::10.9.0.1:255.255.255.0::eth0:off:10.9.0.1",
    owner=0,
    group=None,
    queues=1,
    vhost=False,
    offload=True,
)
LARGE = msgspec.structs.replace(TAP, mtu=9000, queues=4, vhost=True, offload=False)


def test_qemu_gets_the_tap_by_name_and_the_mac() -> None:
    assert tap_formats.qemu(TAP) == (
        "-netdev tap,id=eth0,ifname=snv0123456789,script=no,downscript=no,vhost=off "
        "-device virtio-net-pci,netdev=eth0,mac=02:42:0a:09:00:02"
    )


def test_qemu_gets_queues_mtu_vhost_and_offload() -> None:
    assert tap_formats.qemu(LARGE) == (
        "-netdev tap,id=eth0,ifname=snv0123456789,script=no,downscript=no,vhost=on,vnet_hdr=off,queues=4 "
        "-device virtio-net-pci,netdev=eth0,mac=02:42:0a:09:00:02,mq=on,vectors=10,host_mtu=9000"
    )


def test_firecracker_gets_a_part_of_its_configuration() -> None:
    assert json.loads(tap_formats.firecracker(TAP)) == {
        "boot-source": {"boot_args": TAP.kernel_argument},
        "network-interfaces": [
            {"iface_id": "eth0", "guest_mac": "02:42:0a:09:00:02", "host_dev_name": "snv0123456789"},
        ],
    }


def test_firecracker_refuses_a_tap_of_several_queues() -> None:
    with pytest.raises(Error, match="several queues"):
        tap_formats.firecracker(LARGE)


def test_cloud_hypervisor_counts_a_queue_for_each_direction() -> None:
    assert tap_formats.cloud_hypervisor(TAP) == "--net tap=snv0123456789,mac=02:42:0a:09:00:02,id=eth0,num_queues=2"
    assert tap_formats.cloud_hypervisor(LARGE) == (
        "--net tap=snv0123456789,mac=02:42:0a:09:00:02,id=eth0,num_queues=8,"
        "offload_tso=off,offload_ufo=off,offload_csum=off,mtu=9000"
    )
