"""Where an etcd cluster is, and who asks it: parsed and checked once, at the edge."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandnet.errors import Error, invalid

SCHEMES: Final = ("etcd://", "etcds://")
"""In clear, and over TLS."""
PORT: Final = 2379
PREFIX: Final = "/sandnet/"
MOST_MEMBERS: Final = 16
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")
_HINT: Final = "use etcd://HOST:PORT,HOST:PORT/PREFIX, or etcds:// over TLS"


class Credentials(NamedTuple):
    """Who the client is. Empty: nothing."""

    ca: str = ""
    """Path of the PEM file with the CAs of the members' certificates; empty: those that the machine trusts."""
    cert: str = ""
    """Path of the PEM file with the client's certificate."""
    key: str = ""
    """Path of the PEM file with its key."""
    user: str = ""
    """User of etcd."""
    password_file: str = ""
    """Path of the file whose first line is the user's password."""


NO_CREDENTIALS: Final = Credentials()


class EtcdLocation(NamedTuple):
    """A cluster, and the part of its keys that is ours."""

    members: tuple[tuple[str, int], ...]
    """Hosts and ports."""
    prefix: str
    """Beginning of all keys, with a slash at both ends."""
    tls: bool
    credentials: Credentials


def names_etcd(url: str) -> bool:
    """Return whether the URL of a store is one of etcd."""
    return url.startswith(SCHEMES)


def parse(url: str, credentials: Credentials = NO_CREDENTIALS) -> EtcdLocation:
    """Return the location that a URL names.

    Args:
        url: ``etcd://HOST:PORT,…/PREFIX``; the port is 2379 and the prefix ``sandnet`` unless they are given.
        credentials: of the client.

    Raises:
        Error: ``INVALID``: the URL is malformed, or the credentials do not fit.
    """
    scheme, _, rest = url.partition("://")
    hosts, _, prefix = rest.partition("/")
    if not names_etcd(url) or not hosts or "@" in hosts:
        raise _wrong(f"store {url!r} is no URL of etcd")
    members = tuple(dict.fromkeys(_member(text) for text in hosts.split(",")))
    if len(members) > MOST_MEMBERS:
        raise _wrong(f"store {url!r} names more than {MOST_MEMBERS} members")
    if not prefix.isprintable() or "?" in prefix or "#" in prefix or "//" in prefix:
        raise _wrong(f"store {url!r} has no valid prefix")
    tls = scheme == "etcds"
    _check(credentials, tls=tls)
    return EtcdLocation(members, f"/{prefix.strip('/')}/" if prefix.strip("/") else PREFIX, tls, credentials)


def _member(text: str) -> tuple[str, int]:
    host, port = text, str(PORT)
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        valid = bool(closing) and bool(re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", host)) and rest[:1] in ("", ":")
        port = rest[1:] if rest else port
    else:
        host, colon, given = text.partition(":")
        port = given if colon else port
        valid = bool(_HOST.fullmatch(host))
    if not valid or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise _wrong(f"{text!r} is no host and port of etcd")
    return host, int(port)


def _check(credentials: Credentials, *, tls: bool) -> None:
    files = (credentials.ca, credentials.cert, credentials.key, credentials.password_file)
    if any(path and not path.startswith("/") for path in files):
        raise _wrong("store_ca, store_cert, store_key and store_password_file must be absolute paths", "")
    if not tls and any((credentials.ca, credentials.cert, credentials.key)):
        raise _wrong("store_ca, store_cert and store_key are for TLS", "begin the store's URL with etcds://")
    if bool(credentials.cert) != bool(credentials.key):
        raise _wrong("a client's certificate needs its key", "give store_cert and store_key")
    if bool(credentials.user) != bool(credentials.password_file):
        raise _wrong("a user of etcd needs a password", "give store_user and store_password_file")


def _wrong(message: str, hint: str = _HINT) -> Error:
    return invalid(message, hint, "invalid_configuration")
