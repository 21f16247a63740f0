"""What the parts of the in-memory kernel share: fault injection, and the state of a namespace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from sandnet.kernel.types import DefaultRoute, Link, SourceRoute
from sandnet.model.address import Address, Interface, Prefix

P = ParamSpec("P")
T = TypeVar("T")

LOOPBACK: Final = Link("lo", 1, "", 0, True, 65536, "00:00:00:00:00:00", 0)


@dataclass
class InnerEnd:
    """The end of a pair that is in a namespace."""

    mac: str
    mtu: int
    addresses: list[Interface]
    neighbours: dict[Address, str] = field(default_factory=dict)
    """Entries that others gave it, with their MACs."""
    routes: list[tuple[Prefix, Address | None]] = field(default_factory=list)
    """Static routes through it."""
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeNamespace:
    """A network namespace; ``lo`` is not among its links."""

    loopback_up: bool
    links: dict[str, InnerEnd] = field(default_factory=dict)
    loopback: list[Interface] = field(default_factory=list)
    """Addresses on ``lo``."""
    default_routes: dict[int, DefaultRoute] = field(default_factory=dict)
    """By IP version."""
    source_routes: tuple[SourceRoute, ...] = ()
    taps: dict[str, str] = field(default_factory=dict)
    """Interfaces by the names of the taps that are joined to them."""


class FaultInjector:
    """Records the calls, and makes one of them fail on request."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.calls: list[str] = []
        self.pending: dict[str, tuple[int, BaseException]] = {}
        """By method: how many calls succeed before one fails, and the error it raises."""

    def enter(self, method: str) -> None:
        """Record the start of a call.

        Raises:
            BaseException: the requested failure, once; the call then has done nothing.
        """
        self.calls.append(method)
        if method in self.pending:
            calls, error = self.pending.pop(method)
            if calls == 0:
                raise error
            self.pending[method] = (calls - 1, error)


class Part(Protocol):
    """A part of the in-memory kernel, named by its property in ``Kernel``."""

    area: str
    faults: FaultInjector


S = TypeVar("S", bound=Part)


def recorded(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Serialize the method with all others, record its calls, and let it fail on request."""

    @wraps(method)
    def called(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.faults.lock:
            self.faults.enter(f"{self.area}.{method.__name__}")
            return method(self, *args, **kwargs)

    return called
