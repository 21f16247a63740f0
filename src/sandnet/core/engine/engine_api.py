"""Ask a container engine's own API for the names and labels of a container: the plugin protocol has neither."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

import msgspec

from sandnet.http_exchange import Answer, request
from sandnet.model.ids import HOST_NAME

T = TypeVar("T")

TIMEOUT: Final = 10.0
"""Seconds that the engine may take. It answers about a container only after it has started it."""
MOST_NAMES: Final = 64
MOST_LABELS: Final = 100
LONGEST_LABEL: Final = 1024
"""Characters of a label's key and value together; longer ones are left out."""


class ContainerFacts(NamedTuple):
    """What an engine knows of a container on one of its networks."""

    names: tuple[str, ...]
    """Its name and aliases, in lower case."""
    labels: dict[str, str]


class _Attached(msgspec.Struct):
    endpoint: str = msgspec.field(name="EndpointID", default="")
    aliases: list[str] | None = msgspec.field(name="Aliases", default=None)


class _Network(msgspec.Struct):
    containers: dict[str, _Attached] | None = msgspec.field(name="Containers", default=None)


class _Settings(msgspec.Struct):
    networks: dict[str, _Attached] | None = msgspec.field(name="Networks", default=None)


class _Config(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Container(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")
    config: _Config = msgspec.field(name="Config", default_factory=_Config)
    settings: _Settings = msgspec.field(name="NetworkSettings", default_factory=_Settings)


class EngineApi:
    """The API of the engine at a unix socket. Its calls block: they are jobs for threads of their own."""

    def __init__(self, path: str) -> None:
        """Initialize without a connection.

        Args:
            path: of the socket; empty: there is none, and nothing is known.
        """
        self.path = path

    def container(self, network_id: str, endpoint_id: str) -> ContainerFacts | None:
        """Return the container of an endpoint; ``None``: the engine does not answer, or does not know it yet."""
        network = self._get(f"/networks/{network_id}", _Network)
        attached = (network.containers if network else None) or {}
        container_id = next((each for each, at in attached.items() if at.endpoint == endpoint_id), "")
        container = self._get(f"/containers/{container_id}/json", _Container) if container_id.isalnum() else None
        if container is None:
            return None
        ends = (container.settings.networks or {}).values()
        aliases = [name for end in ends if end.endpoint == endpoint_id for name in end.aliases or []]
        return ContainerFacts(_names([container.name.removeprefix("/"), *aliases]), _labels(container.config.labels))

    def _get(self, target: str, kind: type[T]) -> T | None:
        if not self.path:
            return None
        with suppress(OSError, ValueError, msgspec.DecodeError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self.path)
            connection.sendall(request("GET", target, "engine", None))
            answer = Answer(connection)
            return msgspec.json.decode(answer.read(), type=kind) if answer.status == 200 else None
        return None


def _names(found: Iterable[str]) -> tuple[str, ...]:
    valid = (name.lower() for name in found if HOST_NAME.fullmatch(name))
    return tuple(dict.fromkeys(valid))[:MOST_NAMES]


def _labels(found: dict[str, str] | None) -> dict[str, str]:
    short = [(key, value) for key, value in (found or {}).items() if len(key) + len(value) <= LONGEST_LABEL]
    return dict(short[:MOST_LABELS])
