"""Parsing of a network's ``options``: two vocabularies are accepted, and one record results.

libnetwork's labels (reference notes, C.2) have every value as text; sandnet's plain keys have JSON's own types.
One request may use both if they agree. A key of neither vocabulary is refused, unless it is one of libnetwork's own:
its label namespace, and the fields of its bridge driver that have no meaning here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from ipaddress import IPv4Interface
from typing import Any, Final

import msgspec

from sandnet.api import parsing
from sandnet.api.subnet_options import check
from sandnet.errors import Error, invalid
from sandnet.model import Network, NetworkOptions
from sandnet.model.address import encode_hook
from sandnet.model.interfaces.bandwidth import FIELDS as BANDWIDTH
from sandnet.model.ports import PROTOCOL_NAMES

GENERIC: Final = "com.docker.network.generic"
ENABLE_IPV6: Final = "com.docker.network.enable_ipv6"
NAMESPACE: Final = "com.docker.network."
"""The namespace of libnetwork's own labels. Its later versions have more labels than sandnet knows."""
IGNORED: Final = frozenset({"EnableUserlandProxy", "EnableIPForwarding"})
"""Fields of libnetwork's bridge driver that clients may send, though it did not read them from a request either."""

Reader = Callable[[object, str], object]

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_GO_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_NAT: Final = "nat"
_ROUTED: Final = "routed"
_ALIKE: Final = 0.6
"""Similarity (from 0 to 1) to a known key from which an unknown key is taken for a misspelt one."""
_LONGEST_KEY: Final = 64
"""Characters of a key that are compared with others, and shown."""


def _boolean(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise parsing.wrong_type(key, "a boolean", value)
    return value


def _go_boolean(value: object, key: str) -> bool:
    """Parse a boolean as Go's ``strconv.ParseBool`` does, or take a JSON boolean."""
    if isinstance(value, str):
        if value not in _TRUE | _FALSE:
            raise invalid(f"{key}: {value!r} is not a boolean", "use true or false")
        return value in _TRUE
    return _boolean(value, key)


def _number(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise parsing.wrong_type(key, "a whole number", value)
    return value


def _go_number(value: object, key: str) -> int:
    """Parse a number as Go's ``strconv.Atoi`` does, or take a JSON number."""
    if isinstance(value, str) and not _GO_INTEGER.fullmatch(value):
        raise invalid(f"{key}: {value[:40]!r} is not a whole number")
    return _number(int(value) if isinstance(value, str) else value, key)


def _go_mtu(value: object, key: str) -> int | None:
    """Parse as :func:`_go_number`; ``None`` for 0: the default."""
    return _go_number(value, key) or None


def _gateway_mode(value: object, key: str) -> bool:
    """Parse a gateway mode of Docker's bridge driver; return whether it is ``routed``."""
    mode = parsing.text(value, key)
    if mode not in (_NAT, _ROUTED):
        raise invalid(f"{key}: {mode[:40]!r} is not supported", f"use {_NAT} or {_ROUTED}")
    return mode == _ROUTED


_LABELS: Final[Mapping[str, tuple[str, Reader]]] = {
    "BridgeName": ("bridge_name", parsing.link_name),
    "AddressIPv4": ("bridge_address", parsing.ipv4_interface),
    "FixedCIDR": ("ip_range", parsing.ipv4_masked),
    "FixedCIDRv6": ("subnet_ipv6", parsing.ipv6_masked),
    "DefaultGatewayIPv4": ("gateway", parsing.ipv4),
    "DefaultGatewayIPv6": ("gateway_ipv6", parsing.ipv6),
    "EnableIPv6": ("ipv6", _go_boolean),
    "EnableIPTables": ("firewall", _go_boolean),
    "EnableIPMasquerade": ("masquerade", _go_boolean),
    "EnableICC": ("icc", _go_boolean),
    "DefaultBindingIP": ("binding_address", parsing.binding_address),
    "Mtu": ("mtu", _go_mtu),
    "AllowNonDefaultBridge": ("create_bridge", _go_boolean),
}

_PLAIN: Final[Mapping[str, tuple[str, Reader]]] = {
    "subnet": ("subnet", parsing.ipv4_network),
    "gateway": ("gateway", parsing.ipv4),
    "bridge_address": ("bridge_address", parsing.ipv4_interface),
    "ip_range": ("ip_range", parsing.ipv4_masked),
    "reserved_addresses": ("reserved_addresses", parsing.reserved_addresses),
    "ipv6": ("ipv6", _boolean),
    "subnet_ipv6": ("subnet_ipv6", parsing.ipv6_network),
    "gateway_ipv6": ("gateway_ipv6", parsing.ipv6),
    "allow_overlap": ("allow_overlap", _boolean),
    "mtu": ("mtu", _number),
    "internal": ("internal", _boolean),
    "icc": ("icc", _boolean),
    "anti_spoofing": ("anti_spoofing", _boolean),
    "host_access": ("host_access", parsing.host_access),
    "masquerade": ("masquerade", _boolean),
    "routed_ipv4": ("routed_ipv4", _boolean),
    "routed_ipv6": ("routed_ipv6", _boolean),
    "com.docker.network.bridge.gateway_mode_ipv4": ("routed_ipv4", _gateway_mode),
    "com.docker.network.bridge.gateway_mode_ipv6": ("routed_ipv6", _gateway_mode),
    "egress_ipv4": ("egress_ipv4", parsing.ipv4_of_host),
    "egress_ipv6": ("egress_ipv6", parsing.ipv6_of_host),
    "com.docker.network.host_ipv4": ("egress_ipv4", parsing.ipv4_of_host),
    "com.docker.network.host_ipv6": ("egress_ipv6", parsing.ipv6_of_host),
    "max_flows": ("max_flows", _number),
    **{field: (field, _number) for field in BANDWIDTH},
    "vni": ("vni", _number),
    "com.docker.network.driver.overlay.vxlanid_list": ("vni", _go_number),
    "encrypted": ("encrypted", _boolean),
    "firewall": ("firewall", _boolean),
    "bridge_name": ("bridge_name", parsing.link_name),
    "create_bridge": ("create_bridge", _boolean),
    "gateway_dns": ("gateway_dns", _boolean),
    "binding_address": ("binding_address", parsing.binding_address),
    "routes": ("routes", parsing.routes),
    "parent": ("parent", parsing.link_name),
    "macvlan_mode": ("macvlan_mode", parsing.macvlan_mode),
    "ipam_driver": ("ipam_driver", parsing.ipam_driver),
    "dns_search": ("dns_search", parsing.dns_search),
    "dns_options": ("dns_options", parsing.dns_options),
    ENABLE_IPV6: ("ipv6", _go_boolean),
}


_TYPED: Final = frozenset({_boolean, _go_boolean, _number, _go_number, _go_mtu, parsing.host_access})
"""Readers of values that are not text: for them an empty string is a value of the wrong type, not an absent one."""


def parse(raw: Mapping[str, object] | None) -> tuple[NetworkOptions, list[str]]:
    """Return the requested options, and the keys of libnetwork that have no meaning here.

    ``null`` means absent, and so does an empty string where text is expected, as everywhere in the dialect.

    Raises:
        Error: kind ``INVALID``; an unknown key, a value of the wrong type or out of range, or two keys that contradict
            each other.
    """
    found, unknown = _read(raw or {})
    return check(found.options(NetworkOptions())), unknown


def parse_change(raw: Mapping[str, object], net: Network) -> NetworkOptions:
    """Return the options of a network with the requested changes; what is absent stays.

    Raises:
        Error: kind ``INVALID``, as :func:`parse`.
    """
    options = _read(raw)[0].options(net.options)
    subnet = net.ipv4.prefix if net.ipv4 else None
    check(msgspec.structs.replace(options, subnet=options.subnet or subnet))
    return options


def _read(raw: Mapping[str, object]) -> tuple[_Found, list[str]]:
    """Return the fields that were read, and the keys of libnetwork that have no meaning here."""
    plain = dict(raw)
    generic = plain.pop(GENERIC, None)
    if not isinstance(generic, dict | None):
        raise parsing.wrong_type(GENERIC, "an object", generic)
    found = _Found()
    unknown = found.read(plain, _PLAIN, "") + found.read(generic or {}, _LABELS, f"{GENERIC}.")
    found.imply()
    return found, unknown


_ENGINE: Final[Mapping[str, str]] = {
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.name": "bridge_name",
    "com.docker.network.bridge.enable_icc": "icc",
    "com.docker.network.bridge.enable_ip_masquerade": "masquerade",
    "com.docker.network.bridge.host_binding_ipv4": "binding_address",
}
"""Options of Docker's own bridge driver, and the plain keys with the same meaning."""
FLAGS: Final[Mapping[str, str]] = {
    "subnet": "--subnet",
    "gateway": "--gateway",
    "ip_range": "--ip-range",
    "reserved_addresses": "--aux-address",
    "ipv6": "--ipv6",
    "subnet_ipv6": "--subnet",
    "gateway_ipv6": "--gateway",
    "internal": "--internal",
    "ipam_driver": "--ipam-driver",
}
"""Options that Docker's command has a flag for, and that its requests have fields for."""
_LISTS: Final = frozenset({"dns_search", "dns_options", "host_access"})


def from_text(options: Mapping[str, str]) -> dict[str, object]:
    """Return options whose values are all text, as a command line has them, in the form that :func:`parse` takes.

    Lists are separated by commas.

    Raises:
        Error: kind ``INVALID``: a value has the wrong type.
    """
    plain: dict[str, object] = {}
    generic: dict[str, object] = {}
    for given, value in options.items():
        name = _ENGINE.get(given, given)
        if name in _LABELS:
            generic[name] = value
        elif name in plain:
            raise invalid(f"{given}: {name} is given twice", "leave one of them out", "contradiction")
        else:
            plain[name] = _from_text(name, value)
    return {**plain, GENERIC: generic}


def from_engine_options(options: Mapping[str, str]) -> dict[str, object]:
    """Return the driver options of a request of Docker (``-o``) in the form that :func:`parse` takes.

    Raises:
        Error: kind ``INVALID``: a value has the wrong type, or the request has a field for the option.
    """
    for key in options:
        if key in FLAGS:
            raise invalid(f"-o {key} has a flag of its own", f"use {FLAGS[key]}", "contradiction")
    return from_text(options)


def to_engine_options(options: NetworkOptions) -> dict[str, str]:
    """Return the options that differ from the defaults, without those that have flags, as :func:`from_text` takes them.

    Options of Docker's own bridge driver have its names.
    """
    names = {plain: name for name, plain in _ENGINE.items()}
    modes = {
        f"com.docker.network.bridge.gateway_mode_ipv{version}": _ROUTED
        for version in (4, 6)
        if getattr(options, f"routed_ipv{version}")
    }
    options = msgspec.structs.replace(options, routed_ipv4=False, routed_ipv6=False)
    found = msgspec.to_builtins(options, enc_hook=encode_hook)
    shown = {name: value for name, value in found.items() if name not in (*FLAGS, "bridge_address", "plugin_options")}
    if options.routes:
        shown["routes"] = [f"{to.destination}={to.gateway}" if to.gateway else to.destination for to in options.routes]
    if isinstance(options.host_access, tuple):
        shown["host_access"] = [f"{port.port}/{PROTOCOL_NAMES[port.proto]}" for port in options.host_access]
    return {names.get(name, name): _as_text(value) for name, value in shown.items()} | modes


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _from_text(name: str, value: str) -> object:
    reader = _PLAIN[name][1] if name in _PLAIN else None
    if name == "encrypted" and not value:  # Docker's option counts as set without a value
        return True
    if reader is _boolean or (name in _LISTS and value in _TRUE | _FALSE):
        return _go_boolean(value, name)
    if name in _LISTS:
        return [each for each in value.split(",") if each]
    if reader is _number:
        if not _GO_INTEGER.fullmatch(value):
            raise invalid(f"{name}: {value[:40]!r} is not a whole number")
        return int(value)
    return value


class _Found:
    """The fields that were read, each with the key that it was read from."""

    def __init__(self) -> None:
        self._fields: dict[str, tuple[str, object]] = {}

    def read(self, raw: Mapping[str, object], vocabulary: Mapping[str, tuple[str, Reader]], prefix: str) -> list[str]:
        """Add the values of known keys; return the keys that may be ignored."""
        ignored = []
        for name, value in raw.items():
            if name in vocabulary:
                self._take(*vocabulary[name], prefix + name, value)
            elif name.startswith(NAMESPACE) or (prefix and name in IGNORED):
                ignored.append(prefix + name)
            else:
                raise _unknown(name, prefix)
        return ignored

    def _take(self, field: str, reader: Reader, key: str, value: object) -> None:
        if value is not None and (value != "" or reader in _TYPED):
            self._add(field, key, reader(value, key))

    def imply(self) -> None:
        """Add what other fields imply: a bridge address implies the subnet, an IPv6 subnet implies IPv6."""
        key, address = self._fields.get("bridge_address", ("", None))
        if isinstance(address, IPv4Interface):
            self._add("subnet", key, address.network)
        key, subnet = self._fields.get("subnet_ipv6", ("", None))
        if subnet is not None:
            self._add("ipv6", f"IPv6, by {key},", True)

    def options(self, base: NetworkOptions) -> NetworkOptions:
        """Return the record; fields without a value are those of ``base``."""
        changes: dict[str, Any] = {field: value for field, (_, value) in self._fields.items()}
        return msgspec.structs.replace(base, **changes)

    def _add(self, field: str, key: str, value: object) -> None:
        other, held = self._fields.setdefault(field, (key, value))
        if held != value:
            message = f"{other} is {held}, but {key} is {value}"
            raise invalid(message, "let them agree, or leave one out", "contradiction")


def _unknown(name: str, prefix: str) -> Error:
    """Return the error for an unknown key, with the most similar known one as its hint."""
    shown = f"{prefix}{name[:_LONGEST_KEY]}"
    return invalid(
        f"unknown option: {shown!r}", _nearest(name[:_LONGEST_KEY], in_generic=bool(prefix)), "unknown_option"
    )


def _nearest(name: str, *, in_generic: bool) -> str:
    here, there = (_LABELS, _PLAIN) if in_generic else (_PLAIN, _LABELS)
    likeness, known = _most_alike(name, here)
    elsewhere, other = _most_alike(name, there)
    if max(likeness, elsewhere) < _ALIKE:
        return f"known here: {', '.join(here)}"
    if likeness >= elsewhere:
        return f"did you mean {known}?"
    return f"did you mean {other}? It stands {'beside' if in_generic else 'inside'} {GENERIC}"


def _most_alike(name: str, known: Iterable[str]) -> tuple[float, str]:
    plain = _letters(name)
    found = [(SequenceMatcher(None, plain, _letters(each)).ratio(), each) for each in known]
    return max(found, key=lambda each: each[0])


def _letters(key: str) -> str:
    """Return the key without the differences that users mix up: case, and any of ``_``, ``-``, ``.`` or none."""
    return re.sub(r"[_.-]", "", key).lower()
