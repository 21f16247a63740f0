"""A call of the plugin: its environment, which is in the query, and its network configuration, which is the body."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from sandnet.api import parsing
from sandnet.api.cni.errors import INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, UNREADABLE, VERSION_KEY
from sandnet.errors import Error, invalid
from sandnet.model.ids import check_container_id, check_network_name
from sandnet.model.link_names import LINK_NAME
from sandnet.wire import cni as wire
from sandnet.wire.cni_versions import NEWEST, VERSIONS

_VARIABLES: Final = {
    "container": "CNI_CONTAINERID",
    "netns": "CNI_NETNS",
    "ifname": "CNI_IFNAME",
    "args": "CNI_ARGS",
}
"""The environment's variables, by their names in the query."""


class Call(NamedTuple):
    """A call of the plugin."""

    version: str
    """The version of the specification that the result must have."""
    configuration: wire.Configuration
    container_id: str
    netns: str
    interface: str
    arguments: dict[str, str]
    """``CNI_ARGS``."""

    @property
    def network(self) -> str:
        """The name of the network."""
        return self.configuration.network or self.configuration.name


async def read_call(request: Request[Any, Any, Any], *needed: str) -> Call:
    """Return the call that the request describes.

    Args:
        request: the request.
        needed: names in the query that must be there: ``container``, ``netns``, ``ifname``.

    Raises:
        Error: ``INVALID``, with a code of :mod:`sandnet.api.cni.errors`.
    """
    configuration = _configuration(await _body(request))
    request.state[VERSION_KEY] = _readable_version(configuration)
    _check_version(configuration)
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    for name in needed:
        if not query.get(name):
            raise _wrong(f"{_VARIABLES[name]} is missing")
    call = Call(
        version=configuration.cni_version,
        configuration=configuration,
        container_id=query.get("container", ""),
        netns=query.get("netns", ""),
        interface=query.get("ifname", ""),
        arguments=_arguments(query.get("args", "")),
    )
    check_network_name(call.network)
    if call.container_id:
        check_container_id(call.container_id)
    if call.interface and not LINK_NAME.fullmatch(call.interface):
        raise _wrong(f"CNI_IFNAME: {call.interface!r} cannot name an interface")
    if call.netns:
        _check_path(call.netns)
    return call


async def _body(request: Request[Any, Any, Any]) -> bytes:
    try:
        return await request.body()
    except InternalServerException:  # the framework treats a client's disconnection as a server error
        raise invalid("the plugin hung up before its input was complete", code=UNREADABLE) from None


def _configuration(body: bytes) -> wire.Configuration:
    try:
        return wire.decode(body, wire.Configuration)
    except msgspec.ValidationError as failure:
        raise invalid(f"invalid network configuration: {failure}") from None
    except ValueError as failure:
        reason = str(failure) if body else "it is empty"
        raise invalid(f"the network configuration is no JSON: {reason}", code=UNREADABLE) from None


def _readable_version(configuration: wire.Configuration) -> str:
    return configuration.cni_version if configuration.cni_version in VERSIONS else NEWEST


def _check_version(configuration: wire.Configuration) -> None:
    if configuration.cni_version not in VERSIONS:
        message = f"version {configuration.cni_version[:40] or 'none'} of the CNI specification is not supported"
        raise invalid(message, f"supported: {', '.join(VERSIONS)}", INCOMPATIBLE_VERSION)


def _check_path(path: str) -> None:
    try:
        parsing.path(path, "CNI_NETNS")
    except Error as failure:
        raise _wrong(failure.message, failure.hint) from None


def _arguments(text: str) -> dict[str, str]:
    """Parse ``CNI_ARGS``: pairs like ``NAME=VALUE``, separated by semicolons."""
    found = {}
    for pair in filter(None, text.split(";")):
        name, separator, value = pair.partition("=")
        if not separator:
            raise _wrong(f"CNI_ARGS: {pair[:40]!r} is no pair", "write it like NAME=VALUE;NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def _wrong(message: str, hint: str = "") -> Error:
    return invalid(message, hint, INVALID_ENVIRONMENT)
