"""Makes one prepared sandbox, with as few system calls as the kernel allows.

The pair is made from inside the new namespace, and its other end in the host's. So one netlink socket and one datagram
do everything.
"""

from __future__ import annotations

import os
import socket
from typing import Final, NamedTuple

from sandnet.kernel.linux.namespace_sockets import open_sockets
from sandnet.kernel.netlink.rtnetlink import family_options, link_header, veth_info
from sandnet.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Message, Netlink, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFNAME, LOOPBACK
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.syscalls import OWN_NAMESPACE, restoring_namespace, unshare_network
from sandnet.kernel.types import PREPARED, PreparedSandbox
from sandnet.model.address import Address
from sandnet.model.ids import new_id
from sandnet.model.link_names import port_name

INTERFACE: Final = "eth0"
"""Name of the link inside: what a container without another interface gets."""


class Listen(NamedTuple):
    """Where the resolver listens in every sandbox."""

    address: Address
    port: int


def prepare_sandbox(listen: Listen | None) -> PreparedSandbox:
    """Make a namespace with ``lo`` up, a veth pair to the caller's namespace, and the resolver's sockets.

    On a failure nothing is left. Call it on a thread that may leave its network namespace for a moment.

    Args:
        listen: where to open the resolver's sockets; ``None``: open none.

    Raises:
        OSError: the kernel refuses: ``ENOSPC`` the limit of namespaces is reached, ``EMFILE`` the one of descriptors.
    """
    host_link = port_name(new_id())
    with restoring_namespace() as home:
        unshare_network()
        namespace = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            inner_index = _make_links(host_link, home)
            sockets = open_sockets(listen.address, listen.port) if listen else None
        except BaseException:
            os.close(namespace)
            raise
    prepared = PreparedSandbox(namespace, os.fstat(namespace).st_ino, host_link, 0, INTERFACE, inner_index, sockets)
    try:
        return prepared._replace(host_index=socket.if_nametoindex(host_link))
    except BaseException:
        close_sandbox(prepared)
        raise


def close_sandbox(prepared: PreparedSandbox) -> None:
    """Close the descriptors of a prepared sandbox; the kernel deletes it, unless something else holds it."""
    for each in prepared.sockets or ():
        each.close()
    os.close(prepared.namespace)


def _make_links(host_link: str, home: int) -> int:
    """Set ``lo`` up, make the pair, and return the index of its end in the calling thread's namespace.

    Args:
        host_link: name of the other end.
        home: descriptor of the namespace that the other end is made in.
    """
    named = string(IFLA_IFNAME, INTERFACE)
    with Netlink() as inside:
        inside.transact(
            [
                Message(RTM_SETLINK, 0, link_header(LOOPBACK, up=True)),
                Message(
                    RTM_NEWLINK,
                    NLM_F_CREATE | NLM_F_EXCL,
                    link_header() + named + veth_info(host_link, home, u32(IFLA_GROUP, PREPARED)),
                ),
                Message(RTM_SETLINK, NLM_F_ACK, link_header() + named + family_options(link_local=False)),
            ]
        )
        return inside.index(INTERFACE)
