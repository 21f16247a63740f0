"""A request of Docker's Engine API."""

from __future__ import annotations

from typing import NamedTuple

from sandnet.core.controller import Controller


class EngineRequest(NamedTuple):
    """A request, without its version prefix."""

    core: Controller
    release: str
    """The program's version."""
    reference: str
    """The network in the path; empty: there is none."""
    query: str
    body: bytes
