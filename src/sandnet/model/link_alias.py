"""Aliases of links: the state that a bridge or a veth carries, to rebuild the records when every file is lost.

The kernel stores up to 255 bytes of text with a link (``IFLA_IFALIAS``; ``ip link`` shows it). Our alias consists of
words: the format, the kind, the object's id (its bytes, URL-safe base64), names, flags (one letter for each setting
that differs from the default), and then values with a letter each, the most important first. Values that do not fit are
left out; then the last word is ``~``.
"""

from __future__ import annotations

import binascii
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from sandnet.errors import Error
from sandnet.model.address import Address, mac_for
from sandnet.model.endpoint import Endpoint
from sandnet.model.ids import CONTAINER_ID, ENDPOINT_NAME, NETWORK_NAME
from sandnet.model.interfaces.bandwidth import FIELDS, Bandwidth, check_bandwidth
from sandnet.model.link_names import LINK_NAME
from sandnet.model.network import Network, NetworkOptions
from sandnet.model.ports import PROTOCOL_NAMES, ExposedPort
from sandnet.model.sandbox import KEY_LENGTH, Attachment, Origin, Sandbox
from sandnet.model.tap import TapOptions

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
    "r": ("routed_ipv4", True),
    "t": ("routed_ipv6", True),
    "e": ("encrypted", True),
    "g": ("gateway_dns", True),
    "n": ("gateway_dns", False),
}
"""Boolean options of a network: the flag's letter, the option's name, and its value where the flag is set."""

KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*~*")
"""Pattern of a name in the sandbox directory: the beginning of a container's id, made unique by tildes."""

_FORMAT: Final = "sandnet1"
_NETWORK: Final = "net"
_ATTACHMENT: Final = "end"
_CUT: Final = "~"
_ALL: Final = "all"
_NONE: Final = "none"
_VALUE: Final = re.compile(r"([A-Za-z0-9])=(.+)")


class NetworkAlias(NamedTuple):
    """The alias of a bridge: the state of its network."""

    id: str
    name: str
    flags: str
    values: Mapping[str, str]
    """``4`` and ``6`` the bridge's addresses with prefix lengths; ``g`` and ``h`` the gateways, if they differ from the
    bridge's addresses; ``r`` the range; ``a`` reserved addresses; ``v`` the VXLAN network identifier; ``t`` the MTU;
    ``b`` the binding address; ``c`` the limit of flows; ``e`` and ``x`` egress addresses; ``l`` rates and bursts; ``o``
    the access of sandboxes to the host's own programs, if it was requested (:func:`host_access`); ``d`` search domains
    and ``n`` options of its sandboxes' resolv.conf; ``s`` the creation time in seconds since the epoch."""
    whole: bool
    """Whether the alias is complete."""


class AttachmentAlias(NamedTuple):
    """The alias of a veth: the state of its attachment, its endpoint and its sandbox."""

    endpoint_id: str
    endpoint_name: str
    container_id: str
    interface: str
    flags: str
    """``j`` the namespace was joined; ``u`` its ``lo`` was up; ``l`` the address is a separate lease; ``n`` the
    attachment does not hold the endpoint's address; ``d`` drained; ``r`` the sandbox is removed when its processes have
    exited; ``e`` a container engine has the namespace; ``o`` the endpoint is deleted with its last container; ``t`` the
    link is a tap, or with ``i`` joined to one inside."""
    values: Mapping[str, str]
    """``4`` and ``6`` the interface's addresses; ``a`` and ``b`` the endpoint's, if they differ; ``m`` the MAC, if not
    derived from the address; ``k`` the name in the sandbox directory, if it is not derived from the container's id;
    ``t`` the owner, group and options of a tap; ``q`` the process in the join request and its start time; ``w`` weight;
    ``p`` gateway priority; ``l`` rates and bursts; ``i`` additional addresses; ``s`` the creation time in seconds since
    the epoch."""
    whole: bool
    """Whether the alias is complete."""

    @property
    def is_tap(self) -> bool:
        """Whether the link itself is a tap."""
        return "t" in self.flags and "i" not in self.flags

    @property
    def key(self) -> str:
        """The name in the sandbox directory."""
        return self.values.get("k") or self.container_id[:KEY_LENGTH]


def network_alias(net: Network) -> str:
    """Return the alias of a network's bridge."""
    options = net.options
    flags = "".join(letter for letter, (name, value) in OPTIONS.items() if getattr(options, name) == value)
    flags += "p" if net.predefined else ""
    gateways = [
        subnet.gateway if subnet and subnet.host_address and subnet.gateway != subnet.host_address.ip else None
        for subnet in (net.ipv4, net.ipv6)
    ]
    values = (
        ("4", net.ipv4 and net.ipv4.host_address),
        ("6", net.ipv6 and net.ipv6.host_address),
        ("g", gateways[0]),
        ("h", gateways[1]),
        ("r", options.ip_range),
        ("a", ",".join(map(str, options.reserved_addresses.values())) or None),
        ("v", net.vni or None),
        ("t", options.mtu),
        ("b", options.binding_address),
        ("o", _host_access(options.host_access)),
        ("d", ",".join(options.dns_search) or None),
        ("n", ",".join(options.dns_options) or None),
        ("c", options.max_flows),
        ("e", options.egress_ipv4),
        ("x", options.egress_ipv6),
        ("l", bandwidth_text(options)),
        ("s", int(net.created)),
    )
    return _encoded((_NETWORK, _short(net.id), net.name, flags or "-"), values)


def attachment_alias(endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment) -> str:
    """Return the alias of an attachment's link on the host."""
    found = {
        "j": sandbox.origin is Origin.JOINED,
        "u": sandbox.loopback_was_up,
        "l": attachment.leased,
        "n": not attachment.holder,
        "d": attachment.drained,
        "r": sandbox.auto_remove,
        "e": sandbox.origin is Origin.EXTERNAL,
        "o": bool(endpoint.owner),
        "t": attachment.tap is not None,
        "i": attachment.tap is not None and attachment.tap.inside,
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
        ("t", _tap(attachment.tap) if attachment.tap else None),
        ("q", f"{sandbox.process.pid}:{sandbox.process.started}" if sandbox.process else None),
        ("w", attachment.weight if attachment.weight != 1 else None),
        ("p", attachment.gateway_priority or None),
        ("l", bandwidth_text(endpoint.bandwidth) if endpoint.bandwidth else None),
        ("i", ",".join(str(each.ip) for each in endpoint.additional_addresses) or None),
        ("s", int(endpoint.created)),
    )
    words = (_ATTACHMENT, _short(endpoint.id), endpoint.name, sandbox.container_id, attachment.interface, flags or "-")
    return _encoded(words, values)


def read_alias(text: str) -> NetworkAlias | AttachmentAlias | None:
    """Parse the alias of a link; ``None``: it is not one of ours, or invalid."""
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
            alias = AttachmentAlias(found, name, container, interface, flags, values, _CUT not in rest)
            return alias if found and KEY_NAME.fullmatch(alias.key) else None
    return None


def bandwidth_text(limits: Bandwidth | NetworkOptions) -> str | None:
    """Encode the rates and bursts of an endpoint, or of a network; ``None``: there are none."""
    values = [getattr(limits, field) for field in FIELDS]
    return ":".join(map(str, values)) if any(values) else None


def bandwidth(text: str | None) -> Bandwidth | None:
    """Decode the value ``l`` of an alias; ``None``: it is missing or invalid."""
    try:
        values = dict(zip(FIELDS, map(int, (text or "").split(":")), strict=True))
        return check_bandwidth(Bandwidth(**values), "l")
    except (ValueError, Error):
        return None


def _tap(tap: TapOptions) -> str:
    """Encode the options of a tap: owner, group, queues, and a letter for each other one that is not the usual."""
    flags = (("v", tap.vhost), ("o", not tap.offload))
    return f"{tap.owner}:{tap.group}:{tap.queues}:{''.join(letter for letter, is_so in flags if is_so)}"


def _host_access(requested: bool | tuple[ExposedPort, ...] | None) -> str | None:
    """Encode :attr:`NetworkOptions.host_access`: ``all``, ``none``, or ports by protocol (``6:22,80;17:53``)."""
    if requested is None:
        return None
    if isinstance(requested, bool) or not requested:
        return _ALL if requested else _NONE
    ports: dict[int, list[str]] = {}
    for each in requested:
        ports.setdefault(each.proto, []).append(str(each.port))
    return ";".join(f"{proto}:{','.join(some)}" for proto, some in ports.items())


def host_access(text: str | None) -> bool | tuple[ExposedPort, ...] | None:
    """Decode the value ``o`` of an alias to :attr:`NetworkOptions.host_access`.

    Raises:
        ValueError: the text is invalid.
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
    """Decode an id to 64 hex digits; empty: it is invalid."""
    try:
        found = urlsafe_b64decode(short + "=").hex()
    except (binascii.Error, ValueError):
        return ""
    return found if len(found) == 64 else ""


def address4(text: str | None) -> IPv4Address | None:
    """Parse the IPv4 address in an alias; ``None``: it is missing or invalid."""
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        return None


def address6(text: str | None) -> IPv6Address | None:
    """Parse the IPv6 address in an alias; ``None``: it is missing or invalid."""
    try:
        return IPv6Address(text) if text else None
    except ValueError:
        return None


def addresses(text: str | None) -> tuple[Address, ...]:
    """Parse the additional addresses in an alias; none, if they are missing or invalid."""
    try:
        return tuple(ip_address(each) for each in text.split(",")) if text else ()
    except ValueError:
        return ()


def created_of(alias: NetworkAlias | AttachmentAlias) -> float:
    """Return when the object was created, in seconds since the epoch; now, if the alias does not contain it."""
    return float(number(alias.values.get("s"), 0)) or time.time()


def number(text: str | None, default: int) -> int:
    """Parse an integer in an alias; ``default``: it is missing or invalid."""
    return int(text) if text and text.lstrip("-").isdecimal() else default
