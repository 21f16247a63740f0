"""Identifiers and the rules for names. A name is never used as a path or as the name of a kernel link."""

from __future__ import annotations

import re
import secrets

from sandnet.errors import invalid

NETWORK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
ENDPOINT_NAME = re.compile(r"/?[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)


_NAME_HINT = "use 1 to 63 of A-Z a-z 0-9 _ -, the first a letter or digit"


def new_id() -> str:
    """Return a new random id: 64 hex digits, the first 12 not all decimal.

    The short form must never look like a number (libnetwork's stringid has the same rule).
    """
    while True:
        candidate = secrets.token_hex(32)
        if not candidate[:12].isdecimal():
            return candidate


def check_network_name(name: str) -> str:
    """Return the name unchanged if it is a valid name of a network.

    Raises:
        Error: kind ``INVALID``.
    """
    if not NETWORK_NAME.fullmatch(name):
        raise invalid(f"invalid network name: {name!r}", _NAME_HINT, "invalid_name")
    return name


def check_endpoint_name(name: str) -> str:
    """Return the name unchanged if it is a valid name of an endpoint or service (one leading ``/`` is allowed).

    Raises:
        Error: kind ``INVALID``.
    """
    if not ENDPOINT_NAME.fullmatch(name):
        raise invalid(f"invalid endpoint name: {name!r}", _NAME_HINT + "; one leading / is allowed", "invalid_name")
    return name


def check_container_id(container_id: str) -> str:
    """Return the id unchanged if it is a valid container id.

    Raises:
        Error: kind ``INVALID``.
    """
    if not CONTAINER_ID.fullmatch(container_id):
        hint = "use 1 to 128 of A-Z a-z 0-9 _ . -, the first a letter or digit"
        raise invalid(f"invalid container id: {container_id!r}", hint, "invalid_container_id")
    return container_id


def check_host_name(name: str, field: str) -> str:
    """Return the name unchanged if it is valid in a hosts file.

    Raises:
        Error: kind ``INVALID``, naming ``field``.
    """
    if not HOST_NAME.fullmatch(name):
        raise invalid(
            f"invalid {field}: {name!r}", "use dot-separated labels of letters, digits, - and _", "invalid_name"
        )
    return name


def bare(name: str) -> str:
    """Return an endpoint's name without the leading slash, as in hosts files and DNS."""
    return name.removeprefix("/")
