"""Parser of resolv.conf with the rules of the C library (resolv.conf(5); ``res_vinit_1`` in glibc's resolv/res_init.c).

A keyword begins in the first column and is followed by a blank or a tab. ``domain`` and ``search`` replace each other;
the last one applies. Options accumulate. A file without a usable ``nameserver`` means the server on loopback.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Final, NamedTuple

from sandnet.errors import invalid
from sandnet.model.address import Address

RESOLV_CONF: Final = "/etc/resolv.conf"
"""The host's file, and a sandbox's."""
LOOPBACK: Final = IPv4Address("127.0.0.1")
"""Server that a C library asks if resolv.conf contains none."""
MOST: Final = 32
"""Maximum number of search domains, and of options, of a network or a join."""
NDOTS: Final = "ndots"

_LINE: Final = re.compile(r"(nameserver|domain|search|options)[ \t]+(.*)", re.DOTALL)
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_ROOT: Final = "."
_OPTION: Final = re.compile(r"[a-z][a-z0-9-]{0,30}(?::[0-9]{1,3})?")


class Lookup(NamedTuple):
    """The requested settings of name lookups."""

    search: tuple[str, ...] = ()
    """Search domains; empty: the host's."""
    options: tuple[str, ...] = ()
    """Options in addition to the host's."""


class ResolvConf(NamedTuple):
    """The contents of a resolv.conf."""

    servers: tuple[Address, ...] = ()
    """Servers in the file's order, without duplicates; an IPv6 address may have a zone."""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def effective_servers(self) -> tuple[Address, ...]:
        """The servers that a C library asks."""
        return self.servers or (LOOPBACK,)

    def text(self) -> bytes:
        """Return the contents as the text of a file."""
        lines = [f"nameserver {server}" for server in self.servers]
        lines += [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "".join(f"{line}\n" for line in lines).encode()


def parsed(text: str) -> ResolvConf:
    """Parse a resolv.conf. Lines that a C library does not understand are ignored."""
    servers: list[Address] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.split("\n"):
        found = _LINE.fullmatch(line)
        words = _words(found[2]) if found else []
        if found is None or not words:
            continue
        match found[1]:
            case "nameserver":
                servers += _address(words[0])
            case "domain":
                search = (words[0],)
            case "search":
                search = tuple(words)
            case "options":
                options += words
    return ResolvConf(tuple(dict.fromkeys(servers)), search, merged(options))


def merged(*options: Iterable[str]) -> tuple[str, ...]:
    """Return all these options, but only the last one of each kind (``timeout:1``, ``timeout:2``)."""
    by_kind: dict[str, str] = {}
    for option in (option for some in options for option in some):
        kind = kind_of(option)
        by_kind.pop(kind, None)
        by_kind[kind] = option
    return tuple(by_kind.values())


def kind_of(option: str) -> str:
    """Return the kind of an option: ``timeout`` of ``timeout:1``."""
    return option.partition(":")[0]


def check_search(domains: Sequence[str], field: str) -> tuple[str, ...]:
    """Return the domains if each is valid in a resolv.conf; a single ``.`` means none.

    Raises:
        Error: kind ``INVALID``, naming ``field``.
    """
    for index, domain in enumerate(domains):
        if domain != _ROOT and not _DOMAIN.fullmatch(domain):
            raise invalid(
                f"{field}[{index}]: {domain[:80]!r} is no domain", "use names such as corp.example, or . for none"
            )
    return _limited(domains, field)


def check_options(options: Sequence[str], field: str) -> tuple[str, ...]:
    """Return the options if each has a valid syntax. Their meaning is not checked: the C library defines it.

    Raises:
        Error: kind ``INVALID``, naming ``field``.
    """
    for index, option in enumerate(options):
        if not _OPTION.fullmatch(option):
            hint = "use those of resolv.conf(5), such as ndots:1, timeout:2, attempts:3, rotate, use-vc"
            raise invalid(f"{field}[{index}]: {option[:80]!r} is no option of a resolv.conf", hint)
    return merged(_limited(options, field))


def _limited(given: Sequence[str], field: str) -> tuple[str, ...]:
    if len(given) > MOST:
        raise invalid(f"{field}: more than {MOST}")
    return tuple(dict.fromkeys(given))


def _words(text: str) -> list[str]:
    """Return the words before a comment: C libraries have no comments at the end of a line, but people write them."""
    words: list[str] = []
    for word in re.split(r"[ \t]+", text):
        if word.startswith(("#", ";")):
            break
        words += [word] if word else []
    return words


def _address(word: str) -> Iterable[Address]:
    try:
        yield ip_address(word)
    except ValueError:
        try:
            yield IPv4Address(socket.inet_aton(word))  # 127.1 and the like
        except OSError:
            return
