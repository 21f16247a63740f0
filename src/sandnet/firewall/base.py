"""What the packet filter is given, and what it reports: networks, endpoints and faults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from sandnet.model import Attachment, Endpoint, Network, Phase


class EndpointState(NamedTuple):
    """An endpoint and who is attached to it."""

    endpoint: Endpoint
    backends: Sequence[Attachment]


class NetworkState(NamedTuple):
    """A network and all that is on it."""

    network: Network
    endpoints: Sequence[EndpointState]


StateOf = Callable[[Collection[Phase]], list[NetworkState]]
"""The driver's networks, endpoints and attachments that are in one of these phases, as they are when it is called."""


class Fault(NamedTuple):
    """Something in the kernel that is not as records say."""

    what: str
    """``network``, ``rules`` or ``parameter``."""
    object: str
    """A network's id, a table's or a parameter's name."""
    problem: str
    reason: str
    """Why it matters."""
