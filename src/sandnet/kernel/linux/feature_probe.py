"""Probes which features this kernel has, by using them.

Each probe runs on a thread of its own in a new network namespace, where it can disturb nothing. The namespace ends with
the thread, and the kernel deletes what the probe made.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sandnet.errors import Error
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.netlink.rtnetlink import info, link_header
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFNAME, IFLA_VXLAN_ID
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK
from sandnet.kernel.syscalls import unshare_network

_NEEDS: Final = {
    "bridge": "this kernel has no bridge driver (CONFIG_BRIDGE, module bridge)",
    "veth": "this kernel has no veth driver (CONFIG_VETH, module veth)",
    "vxlan": "this kernel has no VXLAN driver (CONFIG_VXLAN, module vxlan)",
    "wireguard": "this kernel has no WireGuard (CONFIG_WIREGUARD, module wireguard)",
    "nftables": "this kernel or the installed libnftables cannot do what our tables need "
    "(CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_HASH, "
    "CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET)",
    "ipv6": "IPv6 is missing or was switched off when the kernel started (CONFIG_IPV6, ipv6.disable)",
    "sctp": "this kernel has no SCTP sockets (CONFIG_IP_SCTP, module sctp); mapped SCTP ports still work",
}
_NO_NAMESPACE: Final = {
    errno.EPERM: "we may not make a network namespace; it takes CAP_SYS_ADMIN",
    errno.EINVAL: "this kernel has no network namespaces (CONFIG_NET_NS)",
    errno.ENOSPC: "the limit of network namespaces is reached (sysctl user.max_net_namespaces)",
}
_TABLE: Final = """
table inet sandnet_probe {
  map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain arriving {
    type nat hook prerouting priority dstnat;
    fib daddr type local dnat ip to meta l4proto . th dport map @ports
  }
  chain leaving { type nat hook postrouting priority srcnat; ct status dnat masquerade; }
}
table bridge sandnet_probe {
  chain arriving {
    type filter hook prerouting priority -300
    ether daddr set jhash ip saddr mod 2 seed 0x1 map { 0 : 02:00:00:00:00:01, 1 : 02:00:00:00:00:02 }
  }
}
"""


def missing_features() -> dict[str, str]:
    """See :meth:`sandnet.kernel.base.Host.missing_features`; every call probes again."""
    if reason := _no_namespace():
        untried = f"it could not be tried: {reason}"
        found = {"namespaces": reason} | dict.fromkeys(("bridge", "veth", "vxlan", "wireguard", "nftables"), untried)
    else:
        attempts = {
            "bridge": _try_bridge,
            "veth": _try_veth,
            "vxlan": _try_vxlan,
            "wireguard": _try_wireguard,
            "nftables": _try_nftables,
        }
        found = _tried(attempts, unshare_network)
    return found | _tried({"ipv6": _try_ipv6, "sctp": _try_sctp}, _stay)


def _no_namespace() -> str:
    try:
        _on_a_thread(_stay, unshare_network)
    except OSError as error:
        return _NO_NAMESPACE.get(error.errno or 0, f"cannot make a network namespace: {error.strerror}")
    return ""


def _tried(attempts: dict[str, Callable[[], None]], place: Callable[[], None]) -> dict[str, str]:
    found = {}
    for feature, attempt in attempts.items():
        try:
            _on_a_thread(attempt, place)
        except (OSError, Error) as error:
            reason = error.message if isinstance(error, Error) else error.strerror or os.strerror(error.errno or 0)
            found[feature] = f"{_NEEDS[feature]}: {reason}"
    return found


def _on_a_thread(attempt: Callable[[], None], place: Callable[[], None]) -> None:
    def there() -> None:
        place()
        attempt()

    with ThreadPoolExecutor(1, thread_name_prefix="probe") as thread:
        thread.submit(there).result()


def _stay() -> None:
    """Do nothing: stay in this namespace, or probe nothing in the new one."""


def _try_link(kind: str, *options: bytes) -> None:
    with Netlink() as netlink:
        body = link_header() + string(IFLA_IFNAME, "probe") + info(kind, *options)
        netlink.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)


def _try_bridge() -> None:
    _try_link("bridge")


def _try_veth() -> None:
    _try_link("veth")


def _try_vxlan() -> None:
    _try_link("vxlan", u32(IFLA_VXLAN_ID, 1))


def _try_wireguard() -> None:
    _try_link("wireguard")


def _try_nftables() -> None:
    nftables = Nftables()
    try:
        nftables.run(_TABLE)
    finally:
        nftables.close()


def _try_ipv6() -> None:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()


def _try_sctp() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
