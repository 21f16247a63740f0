"""Shell completion with names from the daemon. If the daemon is stopped or slow, there are no completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from sandnet.errors import Error
from sandnet.escaping import printable

if TYPE_CHECKING:
    from sandnet.cli.session import Session
    from sandnet.client import Client

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _from_daemon(names: Callable[[Client], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            found = list(names(_session(ctx.find_root().params).impatient_client))
        except Error:
            return []
        return [name for name in found if name.startswith(incomplete) and printable(name) == name]

    return complete


def _session(root: Mapping[str, Any]) -> Session:
    from sandnet.cli.session import Session

    return Session(root.get("host"), (root.get("tls_ca"), root.get("tls_cert"), root.get("tls_key")))


def _service_names(client: Client) -> Iterable[str]:
    return (f"{service.name}.{service.network}" for service in client.services())


networks = _from_daemon(lambda client: (network.name for network in client.networks()))
services = _from_daemon(_service_names)
nodes = _from_daemon(lambda client: (node.name for node in client.nodes()))
containers = _from_daemon(lambda client: (sandbox.id for sandbox in client.sandboxes()))
