"""What a bridge and a veth say of themselves, so that records can be made of them when every file is lost.

The kernel keeps up to 255 bytes of text with a link (``IFLA_IFALIAS``; ``ip link`` shows it). Ours are words:
the format, the kind, the object's id (its bytes, URL-safe base64), names, one letter for each thing that is not as
usual, and then values by a letter, the most important first. What does not fit is left out, and a last ``~`` says so.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from sandnet.model.address import mac_for
from sandnet.model.endpoint import Endpoint
from sandnet.model.ids import CONTAINER_ID, ENDPOINT_NAME, NETWORK_NAME
from sandnet.model.link_names import LINK_NAME
from sandnet.model.network import Network
from sandnet.model.ports import PROTOCOL_NAMES, ExposedPort
from sandnet.model.sandbox import KEY_LENGTH, Attachment, Origin, Sandbox

LIMIT: Final = 255
"""Bytes (``IFALIASZ`` - 1, ``linux/if.h``)."""
OPTIONS: Final = {
    "i": ("internal", True),
    "c": ("icc", False),
    "s": ("anti_spoofing", False),
    "m": ("masquerade", False),
    "f": ("firewall", False),
    "o": ("allow_overlap", True),
    "6": ("ipv6", True),
}
"""Options of a network that are yes or no: the letter that says that they are not as usual, and what they are then."""

KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*~*")
"""What a name in the sandbox directory looks like: the beginning of a container's id, made different by tildes."""

_FORMAT: Final = "sandnet1"
_NETWORK: Final = "net"
_ATTACHMENT: Final = "end"
_CUT: Final = "~"
_ALL: Final = "all"
_NONE: Final = "none"
_VALUE: Final = re.compile(r"([A-Za-z0-9])=(.+)")


class NetworkAlias(NamedTuple):
    """What a bridge says of its network."""

    id: str
    name: str
    flags: str
    values: Mapping[str, str]
    """``4`` and ``6`` the bridge's addresses with prefix lengths, ``g`` and ``h`` gateways that are others, ``r`` the
    range, ``t`` the MTU, ``b`` the binding address, ``c`` the limit of flows, ``e`` and ``x`` egress addresses, ``o``
    what sandboxes reach of the host's own programs, where somebody asked (:func:`host_access`), ``d`` search domains
    and ``n`` options of its sandboxes' resolv.conf, ``s`` seconds since the epoch."""
    whole: bool
    """Nothing was left out."""


class AttachmentAlias(NamedTuple):
    """What a veth says of its attachment, and of the endpoint and the sandbox at its ends."""

    endpoint_id: str
    endpoint_name: str
    container_id: str
    interface: str
    flags: str
    """``j`` the namespace was joined, ``u`` its ``lo`` was up, ``l`` the address is a further one, ``n`` it does not
    hold the endpoint's, ``d`` drained, ``r`` to be reclaimed when its processes have ended."""
    values: Mapping[str, str]
    """``4`` and ``6`` the interface's addresses, ``a`` and ``b`` the endpoint's where they are others, ``m`` the
    MAC where it does not follow from the address, ``k`` the name in the sandbox directory where it does not follow
    from the container's id, ``q`` the process that a join named and when it started, ``w`` weight, ``p`` gateway
    priority, ``s`` seconds since the epoch."""
    whole: bool

    @property
    def key(self) -> str:
        """The name in the sandbox directory."""
        return self.values.get("k") or self.container_id[:KEY_LENGTH]


def network_alias(net: Network) -> str:
    """The mark of a network's bridge."""
    options = net.options
    flags = "".join(letter for letter, (name, value) in OPTIONS.items() if getattr(options, name) == value)
    flags += "p" if net.predefined else ""
    gateways = [
        subnet.gateway if subnet and subnet.bridge and subnet.gateway != subnet.bridge.ip else None
        for subnet in (net.ipv4, net.ipv6)
    ]
    values = (
        ("4", net.ipv4 and net.ipv4.bridge),
        ("6", net.ipv6 and net.ipv6.bridge),
        ("g", gateways[0]),
        ("h", gateways[1]),
        ("r", options.ip_range),
        ("t", options.mtu),
        ("b", options.binding_address),
        ("o", _host_access(options.host_access)),
        ("d", ",".join(options.dns_search) or None),
        ("n", ",".join(options.dns_options) or None),
        ("c", options.max_flows),
        ("e", options.egress_ipv4),
        ("x", options.egress_ipv6),
        ("s", int(net.created)),
    )
    return _encoded((_NETWORK, _short(net.id), net.name, flags or "-"), values)


def attachment_alias(endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment) -> str:
    """The mark of an attachment's link on the host."""
    found = {
        "j": sandbox.origin is Origin.JOINED,
        "u": sandbox.loopback_was_up,
        "l": attachment.leased,
        "n": not attachment.holder,
        "d": attachment.drained,
        "r": sandbox.auto_remove,
    }
    flags = "".join(letter for letter, is_so in found.items() if is_so)
    own, own6 = attachment.address, attachment.address_ipv6
    usual = mac_for(IPv4Address(own.ip)) if own else ""
    key = sandbox.key.rpartition("/")[2]
    values = (
        ("4", own and own.ip),
        ("6", own6 and own6.ip),
        ("m", attachment.mac if attachment.mac != usual else None),
        ("k", key if key != sandbox.container_id[:KEY_LENGTH] else None),
        ("a", endpoint.address.ip if endpoint.address and endpoint.address != own else None),
        ("b", endpoint.address_ipv6.ip if endpoint.address_ipv6 and endpoint.address_ipv6 != own6 else None),
        ("q", f"{sandbox.process.pid}:{sandbox.process.started}" if sandbox.process else None),
        ("w", attachment.weight if attachment.weight != 1 else None),
        ("p", attachment.gateway_priority or None),
        ("s", int(endpoint.created)),
    )
    words = (_ATTACHMENT, _short(endpoint.id), endpoint.name, sandbox.container_id, attachment.interface, flags or "-")
    return _encoded(words, values)


def read_alias(text: str) -> NetworkAlias | AttachmentAlias | None:
    """The mark that a link bears; ``None``: none of ours, or one that makes no sense."""
    words = text.split(" ")
    if words[0] != _FORMAT:
        return None
    match words[1:]:
        case [kind, short, name, flags, *rest] if kind == _NETWORK and NETWORK_NAME.fullmatch(name):
            found = _long(short)
            return NetworkAlias(found, name, flags, _values(rest), _CUT not in rest) if found else None
        case [kind, short, name, container, interface, flags, *rest] if kind == _ATTACHMENT:
            named = ENDPOINT_NAME.fullmatch(name) and CONTAINER_ID.fullmatch(container)
            found = _long(short) if named and LINK_NAME.fullmatch(interface) else ""
            values = _values(rest)
            mark = AttachmentAlias(found, name, container, interface, flags, values, _CUT not in rest)
            return mark if found and KEY_NAME.fullmatch(mark.key) else None
    return None


def _host_access(asked: bool | tuple[ExposedPort, ...] | None) -> str | None:
    """``all``, ``none``, or ports by protocol: ``6:22,80;17:53``."""
    if asked is None:
        return None
    if isinstance(asked, bool) or not asked:
        return _ALL if asked else _NONE
    ports: dict[int, list[str]] = {}
    for each in asked:
        ports.setdefault(each.proto, []).append(str(each.port))
    return ";".join(f"{proto}:{','.join(some)}" for proto, some in ports.items())


def host_access(text: str | None) -> bool | tuple[ExposedPort, ...] | None:
    """What a mark says of it: as :attr:`NetworkOptions.host_access`.

    Raises:
        ValueError: it makes no sense.
    """
    if text in (None, _ALL, _NONE):
        return None if text is None else text == _ALL
    groups = [group.partition(":") for group in str(text).split(";")]
    found = [ExposedPort(proto=int(proto), port=int(port)) for proto, _, ports in groups for port in ports.split(",")]
    if not all(each.proto in PROTOCOL_NAMES and 1 <= each.port <= 65535 for each in found):
        raise ValueError(text)
    return tuple(found)


def _encoded(words: Iterable[str], values: Iterable[tuple[str, object]]) -> str:
    text, cut = " ".join((_FORMAT, *words)), False
    for letter, value in values:
        if value is None:
            continue
        longer = f"{text} {letter}={value}"
        if len(longer) + len(_CUT) + 1 <= LIMIT:
            text = longer
        else:
            cut = True
    return f"{text} {_CUT}" if cut else text


def _values(words: Iterable[str]) -> Mapping[str, str]:
    return {found[1]: found[2] for word in words if (found := _VALUE.fullmatch(word))}


def _short(object_id: str) -> str:
    return urlsafe_b64encode(bytes.fromhex(object_id)).rstrip(b"=").decode()


def _long(short: str) -> str:
    """The id of 64 hex digits; empty when it is none."""
    try:
        found = urlsafe_b64decode(short + "=").hex()
    except (binascii.Error, ValueError):
        return ""
    return found if len(found) == 64 else ""


def address4(text: str | None) -> IPv4Address | None:
    """An address of a mark, or nothing where it is none."""
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        return None


def address6(text: str | None) -> IPv6Address | None:
    """Likewise."""
    try:
        return IPv6Address(text) if text else None
    except ValueError:
        return None
