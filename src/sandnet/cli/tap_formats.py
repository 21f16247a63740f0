"""What an emulator needs of a tap, in the words of the emulator. No argument contains a blank."""

from __future__ import annotations

from typing import Final

import msgspec

from sandnet.errors import Error, Kind
from sandnet.wire.sandbox_interfaces import Tap

_USUAL_MTU: Final = 1500


def text(tap: Tap) -> tuple[tuple[str, str], ...]:
    """Return the fields for people."""
    return (
        ("Device", tap.device),
        ("Namespace", tap.netns or ""),
        ("Network", tap.network),
        ("Interface", tap.interface),
        ("MAC", tap.mac),
        ("MTU", str(tap.mtu)),
        ("Address", tap.address),
        ("IPv6 address", tap.address_ipv6 or ""),
        ("Additional addresses", ", ".join(tap.additional_addresses)),
        ("Gateway", tap.gateway or ""),
        ("IPv6 gateway", tap.gateway_ipv6 or ""),
        ("Name servers", ", ".join(tap.name_servers)),
        ("Kernel argument", tap.kernel_argument),
        ("Owner", str(tap.owner)),
        ("Group", "" if tap.group is None else str(tap.group)),
    )


def qemu(tap: Tap) -> str:
    """Return arguments of QEMU (qemu(1), ``-netdev tap`` and ``-device virtio-net-pci``)."""
    backend = f"tap,id={tap.interface},ifname={tap.device},script=no,downscript=no"
    device = f"virtio-net-pci,netdev={tap.interface},mac={tap.mac}"
    backend += ",vhost=on" if tap.vhost else ",vhost=off"
    if not tap.offload:
        backend += ",vnet_hdr=off"
    if tap.queues > 1:  # a vector for each queue, one for changes, one for control
        backend += f",queues={tap.queues}"
        device += f",mq=on,vectors={2 * tap.queues + 2}"
    if tap.mtu != _USUAL_MTU:
        device += f",host_mtu={tap.mtu}"
    return f"-netdev {backend} -device {device}"


def firecracker(tap: Tap) -> str:
    """Return the parts of a configuration of Firecracker (``--config-file``) that the tap concerns.

    Raises:
        Error: ``INVALID``, Firecracker does not open a tap of several queues.
    """
    if tap.queues > 1:
        message = "Firecracker opens a tap once, and this one has several queues"
        raise Error(Kind.INVALID, message, "join with --queues 1", "queues")
    interface = {"iface_id": tap.interface, "guest_mac": tap.mac, "host_dev_name": tap.device}
    parts = {"boot-source": {"boot_args": tap.kernel_argument}, "network-interfaces": [interface]}
    return msgspec.json.format(msgspec.json.encode(parts), indent=2).decode()


def cloud_hypervisor(tap: Tap) -> str:
    """Return arguments of Cloud Hypervisor (``--net``), which counts a queue for each direction."""
    given = f"tap={tap.device},mac={tap.mac},id={tap.interface},num_queues={2 * tap.queues}"
    if not tap.offload:
        given += ",offload_tso=off,offload_ufo=off,offload_csum=off"
    if tap.mtu != _USUAL_MTU:
        given += f",mtu={tap.mtu}"
    return f"--net {given}"


def kernel(tap: Tap) -> str:
    """Return the argument for the kernel's command line."""
    return tap.kernel_argument
