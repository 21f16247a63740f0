"""The options of ``sandnet network create`` and ``update``, and the request's ``options`` from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import click

from sandnet.cli import parameters
from sandnet.cli.rates import RATES, rate_options

F = TypeVar("F", bound=Callable[..., object])

GENERIC: Final = "com.docker.network.generic"
"""libnetwork's label that contains a driver's own options (libnetwork notes, C.2)."""

_LIVE: Final = (
    click.option("--ip-range", metavar="CIDR", help="Hand out addresses of this part of the subnet only."),
    click.option("--ipv6", is_flag=True, help="Give sandboxes IPv6 addresses too."),
    click.option("--subnet-ipv6", metavar="CIDR", help="IPv6 subnet; implies --ipv6."),
    click.option("--mtu", type=click.IntRange(68, 65535), help="MTU of the network's links, in bytes."),
    click.option(
        "--dns-search",
        multiple=True,
        metavar="DOMAIN",
        help="Search domain of its sandboxes' resolv.conf (repeatable); . for none. Default: the host's.",
    ),
    click.option(
        "--dns-option",
        "dns_options",
        multiple=True,
        metavar="OPTION",
        help="Option of its sandboxes' resolv.conf, such as ndots:1 (repeatable), beside the host's.",
    ),
    rate_options,
)
"""Options that can change while containers use the network."""
_DRIVER_OPTION: Final = click.option(
    "-o",
    "--opt",
    "extra",
    type=parameters.PAIR,
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the driver (repeatable). CamelCase keys are libnetwork's, such as EnableICC=false.",
)
_DNS: Final = ("dns_search", "dns_options")


def create_options(command: F) -> F:
    """Add the options of a new network."""
    return _added(command, *_fixed(hidden=False), *_LIVE, _DRIVER_OPTION)


def update_options(command: F) -> F:
    """Add the options of a network that changes.

    Those that are fixed at creation are taken without being listed: the daemon refuses them with the reason.
    """
    return _added(command, *_LIVE, _DRIVER_OPTION, *_fixed(hidden=True))


def _fixed(*, hidden: bool) -> tuple[Callable[[F], F], ...]:
    return (
        click.option(
            "--subnet",
            metavar="CIDR",
            hidden=hidden,
            help="IPv4 subnet. Default: the next free /24 of the pools.",
        ),
        click.option(
            "--gateway",
            metavar="IP",
            hidden=hidden,
            help="The sandboxes' next hop. Default: the subnet's first address.",
        ),
        click.option(
            "--ipam-driver",
            metavar="DRIVER",
            hidden=hidden,
            help="dhcp: a server on the segment gives the addresses (macvlan networks).",
        ),
        click.option(
            "--allow-overlap",
            is_flag=True,
            hidden=hidden,
            help="Take the subnet although the host uses addresses of it.",
        ),
        click.option(
            "--bridge-name", metavar="LINK", hidden=hidden, help="Name of the bridge device, made or existing."
        ),
        click.option("--internal", is_flag=True, hidden=hidden, help="No way out of the network and none in."),
        click.option(
            "--routed",
            is_flag=True,
            hidden=hidden,
            help="Translate no address: other hosts route the subnets to this one, and reach published ports directly.",
        ),
        click.option(
            "--no-icc", is_flag=True, hidden=hidden, help="Sandboxes of the network may not reach each other."
        ),
        click.option(
            "--no-anti-spoofing",
            is_flag=True,
            hidden=hidden,
            help="Sandboxes may send from addresses that are not their own.",
        ),
        click.option(
            "--host-access",
            multiple=True,
            metavar="all|none|PORT[/PROTO]",
            hidden=hidden,
            help="What sandboxes reach of the host's own programs (ports are repeatable). Default: none.",
        ),
    )


def _added(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def options(plain: Mapping[str, object], extra: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return the request's ``options``: sandnet's plain keys, and libnetwork's CamelCase ones under their label.

    libnetwork's generic values are always text; any other ``KEY=VALUE`` is decoded if it is JSON.
    """
    given = {key: value for key, value in plain.items() if value or (key in RATES and value is not None)}
    requested = {key: value for key, value in given.items() if not key.startswith("no_")}
    requested |= {key.removeprefix("no_"): False for key in given if key.startswith("no_")}
    requested |= {key: list(value) for key, value in requested.items() if key in _DNS and isinstance(value, tuple)}
    if "host_access" in requested:
        requested["host_access"] = _host_access(requested["host_access"])
    if requested.pop("routed", False):
        requested |= {"routed_ipv4": True, "routed_ipv6": True}
    if "subnet_ipv6" in requested:
        requested["ipv6"] = True
    generic = {key: value for key, value in extra if _is_generic(key)}
    requested |= {key: parameters.scalar(value) for key, value in extra if not _is_generic(key)}
    return requested | ({GENERIC: generic} if generic else {})


def _host_access(given: object) -> object:
    words = list(given) if isinstance(given, Iterable) else []
    return {"all": True, "none": False}.get(words[0], words) if len(words) == 1 else words


def _is_generic(key: str) -> bool:
    return key[0].isupper() and "." not in key
