"""Which operations of the REST interface the scenarios interrupt."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar.di import Provide

from sandnet.api.app import HANDLERS
from sandnet.api.libnetwork.openapi import document

S = TypeVar("S", bound=Callable[..., object])

RUNTIME_CHANGES = {
    *("POST /cni/add", "POST /cni/del"),
    *(f"POST /v1.55/networks/{{network}}/{verb}" for verb in ("connect", "disconnect")),
}
"""The calls of container runtimes and of Docker's clients that change something and have no counterpart among the other
operations; ``gc`` does for many attachments what ``del`` does for one."""
SHARED_CHANGES = {"DELETE /nodes/{node}"}
"""Calls that change the store of several hosts and nothing on this one. ``tests/support/host_campaign.py`` interrupts
its transactions."""
CHANGES = ("post", "put", "patch", "delete")
"""Methods that change something."""


def interrupts(*operations: str) -> Callable[[S], S]:
    """Say of a scenario which operations it interrupts; the harness holds it to that."""

    def printed(setting: S) -> S:
        setting.operations = operations  # type: ignore[attr-defined]
        return setting

    return printed


def operations_of(setting: Callable[..., object]) -> tuple[str, ...]:
    """What was reported of it."""
    found: tuple[str, ...] = getattr(setting, "operations", ())
    return found


def changing_operations() -> set[str]:
    """All that the daemon serves; those with a flag in the query once more with each."""

    async def core() -> None:
        """Stands for the running daemon's controller."""

    async def release() -> str:
        return "0"

    absentees = {"core": Provide(core), "release": Provide(release)}
    paths: dict[str, dict[str, Any]] = msgspec.json.decode(document(HANDLERS, absentees, "0"))["paths"]
    found = set()
    for path, item in paths.items():
        for method in set(item) & set(CHANGES):
            plain = f"{method.upper()} {path}"
            flags = [each["name"] for each in item[method].get("parameters", ()) if each["in"] == "query"]
            found |= {plain, *(f"{plain}?{flag}" for flag in flags)}
    return found - SHARED_CHANGES | RUNTIME_CHANGES


def is_of(operation: str, method: str, path: str) -> bool:
    """Whether a request is one of an operation."""
    pattern = re.sub(r"\\\{[^}]*\\\}", "[^/?]+", re.escape(operation))
    return re.fullmatch(pattern, f"{method} {path.removesuffix('=true')}") is not None
