"""The packet filter's input and its reports: networks, endpoints and faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

from sandnet.model import Attachment, Endpoint, Network, Phase

T = TypeVar("T")

Step = Callable[[], None]
"""A short synchronous part of a job on a worker thread."""
RunWith = Callable[[Step], Awaitable[T]]
"""Function that runs a caller's job on a worker thread, together with a step.

One job for both saves a switch of threads. What the step raises, the function raises.
"""
RunBetween = Callable[[Step, Step], Awaitable[T]]
"""The same with two steps: the first one begins the job, the second one ends it."""


def no_step() -> None:
    """Do nothing: the step of a change that needs none."""


class EndpointState(NamedTuple):
    """An endpoint and its attachments."""

    endpoint: Endpoint
    backends: Sequence[Attachment]


class NetworkState(NamedTuple):
    """A network and its endpoints."""

    network: Network
    endpoints: Sequence[EndpointState]


StateOf = Callable[[Collection[Phase]], list[NetworkState]]
"""Function that returns the driver's networks, endpoints and attachments in one of these phases, as they are now."""


class Fault(NamedTuple):
    """Something on the host that differs from the records."""

    what: str
    """Kind: ``network``, ``rules``, ``parameter``, ``sandbox``, ``backend`` or ``file``."""
    object: str
    """A network's id, or the name of a table, a parameter or a file; empty where the context names it."""
    problem: str
    reason: str
    """The consequence for users."""
    attachment: Attachment | None = None
    """The attachment that differs, of a ``backend``."""
