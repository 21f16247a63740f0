"""Parsing of the ``options`` of a network that a plugin makes: a few are the daemon's, all others the plugin's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from sandnet.api import network_options, parsing
from sandnet.errors import invalid
from sandnet.model import NetworkOptions

_OWN: Final = frozenset(
    {
        *("subnet", "gateway", "ip_range", "ipv6", "subnet_ipv6", "gateway_ipv6", "allow_overlap"),
        *("internal", "dns_search", "dns_options", "reserved_addresses", network_options.ENABLE_IPV6),
    }
)
"""Plain keys that the daemon carries out by itself: it allocates addresses and serves names."""
_LONGEST: Final = 1 << 16
"""Bytes of the plugin's options."""


def parse(raw: Mapping[str, object] | None) -> tuple[NetworkOptions, list[str]]:
    """Return the daemon's options with the plugin's in them, and no ignored keys.

    A plugin expects its own options in ``com.docker.network.generic``, as text. Plain keys become such options.

    Raises:
        Error: kind ``INVALID``.
    """
    given = dict(raw or {})
    own = {key: given.pop(key) for key in _OWN & given.keys()}
    generic = given.pop(network_options.GENERIC, None)
    if not isinstance(generic, dict | None):
        raise parsing.wrong_type(network_options.GENERIC, "an object", generic)
    passed = {key: value for key, value in given.items() if key.startswith(network_options.NAMESPACE)}
    plain = {key: _text(value) for key, value in given.items() if key not in passed}
    if twice := plain.keys() & (generic or {}).keys():
        raise invalid(f"option {min(twice)} is given twice", "leave one of them out", "contradiction")
    if merged := {**(generic or {}), **plain}:
        passed[network_options.GENERIC] = merged
    text = msgspec.json.encode(passed) if passed else b""
    if len(text) > _LONGEST:
        raise invalid(f"the options of the plugin have {len(text)} bytes", f"give at most {_LONGEST}")
    parsed, ignored = network_options.parse(own)
    return replace(parsed, plugin_options=text.decode()), ignored


def shown(options: NetworkOptions) -> dict[str, str]:
    """Return the plugin's own options as text."""
    passed: dict[str, object] = msgspec.json.decode(options.plugin_options or "{}")
    generic = passed.get(network_options.GENERIC)
    own = generic if isinstance(generic, dict) else {}
    return {str(key): value if isinstance(value, str) else str(_text(value)) for key, value in own.items()}


def _text(value: object) -> object:
    """Return a scalar as text, as a container engine's command line sends it."""
    return msgspec.json.encode(value).decode() if isinstance(value, bool | int | float) else value
