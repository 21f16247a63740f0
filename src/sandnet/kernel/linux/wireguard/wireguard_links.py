"""WireGuard links, of the kernel or of wireguard-go, with their addresses and routes."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv6Interface, IPv6Network
from typing import Final

from sandnet.errors import NO_ENCRYPTION, Error, Kind, invalid
from sandnet.kernel.linux.sysctl import ProcSysctl, set_where_different
from sandnet.kernel.linux.taps.device import check_available
from sandnet.kernel.linux.wireguard import tunnel_routes, userspace, wg_program
from sandnet.kernel.netlink.rtnetlink import (
    add_address,
    alias,
    family_options,
    get_link,
    info,
    link_header,
    list_addresses,
    mac_and_mtu,
    remove_address,
)
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, map_errors, string
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFNAME
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.types import Link
from sandnet.kernel.wireguard.base import PrivateKey, Tunnel
from sandnet.model.tunnel import is_public_key

_KIND: Final = "wireguard"
_USERSPACE_KIND: Final = "tun"
_ALIAS: Final = "sandnet: encrypted networks"
_HINT: Final = "apt-get install wireguard-tools wireguard-go"


class LinuxTunnels:
    """See :class:`sandnet.kernel.wireguard.base.Tunnels`.

    Args:
        log: the file to which wireguard-go writes why it does not start.
        missing_features: returns which features this kernel lacks, by name.
        userspace_only: use wireguard-go where the kernel has WireGuard, too.
    """

    def __init__(
        self, log: str, missing_features: Callable[[], dict[str, str]], *, userspace_only: bool = False
    ) -> None:
        self._log = log
        self._missing_features = missing_features
        self._userspace_only = userspace_only
        self._sysctl = ProcSysctl()
        self._lock = threading.Lock()

    def missing(self) -> str:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.missing`."""
        features = self._missing_features()
        if reason := features.get("ipv6"):
            return f"encrypted networks need IPv6 on the host: {reason}"
        if shutil.which(wg_program.PROGRAM) is None:
            return f"encrypted networks need the program wg: {_HINT}"
        kernel = "the configuration chooses wireguard-go" if self._userspace_only else features.get(_KIND, "")
        if kernel and shutil.which(userspace.PROGRAM) is None:
            return f"{kernel}, and wireguard-go is not installed: {_HINT}"
        return _taps_missing() if kernel else ""

    def new_key(self) -> PrivateKey:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.new_key`."""
        return PrivateKey(wg_program.ask("genkey").strip())

    def public_key(self, key: PrivateKey) -> str:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.public_key`."""
        if not is_public_key(key):  # both halves are written alike
            raise invalid("this is no private key of WireGuard", code="invalid_key")
        return wg_program.ask("pubkey", secret=f"{key}\n").strip()

    def ensure(self, tunnel: Tunnel) -> None:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.ensure`."""
        with self._lock, map_errors(f"make WireGuard link {tunnel.name}"), Netlink() as netlink:
            tunnel_routes.refuse(netlink, tunnel.range)
            link = self._linked(netlink, tunnel.name)
            if link.kind == _USERSPACE_KIND:
                self._serve(tunnel.name)
            try:
                wg_program.configure(tunnel)
            except Error as failure:
                if failure.code != wg_program.SILENT or link.kind != _USERSPACE_KIND:
                    raise
                userspace.kill(tunnel.name)
                self._serve(tunnel.name)
                wg_program.configure(tunnel)
            self._set_up(netlink, tunnel, link)

    def works(self, tunnel: Tunnel) -> bool:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.works`."""
        with map_errors(f"look up link {tunnel.name}"), Netlink() as netlink:
            link = get_link(netlink, tunnel.name)
            if link is None or not link.up or (link.kind == _USERSPACE_KIND and not userspace.is_served(tunnel.name)):
                return False
            return tunnel_routes.is_through(
                tunnel_routes.routes_to(netlink, tunnel.range), link.ifindex, tunnel.addresses[0]
            )

    def differences(self, tunnel: Tunnel) -> list[str]:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.differences`."""
        with map_errors(f"look up link {tunnel.name}"), Netlink() as netlink:
            return [f"WireGuard link {tunnel.name}: {text}" for text in _differences(netlink, tunnel)]

    def delete(self, name: str, addresses: IPv6Network) -> None:
        """See :meth:`sandnet.kernel.wireguard.base.Tunnels.delete`."""
        with self._lock, map_errors(f"delete WireGuard link {name}"), Netlink() as netlink:
            link = get_link(netlink, name)
            if link and link.kind in (_KIND, _USERSPACE_KIND):
                userspace.kill(name)
                netlink.call(RTM_DELLINK, link_header(link.ifindex), accept=(errno.ENODEV,))
            tunnel_routes.remove(netlink, addresses)

    def _linked(self, netlink: Netlink, name: str) -> Link:
        """Return the link; one that is absent is made."""
        link = get_link(netlink, name)
        if link is None:
            self._make(netlink, name)
            link = get_link(netlink, name)
        if link is None or link.kind not in (_KIND, _USERSPACE_KIND):
            raise Error(Kind.CONFLICT, f"link {name} is there and is no WireGuard link", "rename or delete it")
        return link

    def _make(self, netlink: Netlink, name: str) -> None:
        if reason := self.missing():
            raise Error(Kind.UNAVAILABLE, reason, code=NO_ENCRYPTION)
        if self._userspace_only or _KIND in self._missing_features():
            userspace.make_link(name)
            return
        body = link_header() + string(IFLA_IFNAME, name) + info(_KIND)
        try:
            netlink.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise

    def _serve(self, name: str) -> None:
        if not userspace.is_served(name):
            userspace.kill(name)  # one that has the link, and not its socket
            userspace.serve(name, self._log)

    def _set_up(self, netlink: Netlink, tunnel: Tunnel, link: Link) -> None:
        set_where_different(self._sysctl, f"net/ipv6/conf/{tunnel.name}/disable_ipv6", "0")
        if (link.mtu, link.up, link.alias) != (tunnel.mtu, True, _ALIAS) or link.kind == _USERSPACE_KIND:
            options = alias(_ALIAS) + mac_and_mtu(mtu=tunnel.mtu) + family_options(link_local=False)
            netlink.call(RTM_SETLINK, link_header(link.ifindex, up=True) + options)
        wanted = {IPv6Interface((address, 128)) for address in tunnel.addresses}
        for address in wanted:
            add_address(netlink, link.ifindex, address)
        tunnel_routes.route_through(netlink, tunnel.range, link.ifindex, tunnel.addresses[0])
        for other in list_addresses(netlink, link.ifindex):
            if other not in wanted:
                remove_address(netlink, link.ifindex, other)


def _differences(netlink: Netlink, tunnel: Tunnel) -> Iterator[str]:
    routes = tunnel_routes.routes_to(netlink, tunnel.range)
    if not tunnel_routes.is_refused(routes):
        yield f"the route that refuses {tunnel.range} without it is missing"
    link = get_link(netlink, tunnel.name)
    if link is None or not link.up:
        yield "it is down" if link else "it is gone"
        return
    if link.mtu != tunnel.mtu:
        yield f"its MTU is {link.mtu}, not {tunnel.mtu}"
    own = {address.ip for address in list_addresses(netlink, link.ifindex)}
    for address in tunnel.addresses:
        if address not in own:
            yield f"its address {address} is missing"
    if not tunnel_routes.is_through(routes, link.ifindex, tunnel.addresses[0]):
        yield f"{tunnel.range} is not routed to it"
    if link.kind == _USERSPACE_KIND and not userspace.is_served(tunnel.name):
        yield "its process wireguard-go has ended"
        return
    yield from wg_program.differences(wg_program.show(tunnel.name), tunnel)


def _taps_missing() -> str:
    """Return why wireguard-go cannot have its tun; empty: it can."""
    try:
        check_available()
    except Error as failure:
        return f"wireguard-go needs a tun, and {failure.message}: {failure.hint}"
    return ""
