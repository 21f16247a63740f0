"""The drivers by their names: the daemon's own, and those of network plugins, which come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from sandnet.drivers.base import Driver
from sandnet.errors import Error, Kind, not_found


class ExternalDrivers:
    """The drivers of other programs that the registry knows; see :class:`DriverRegistry`."""

    def names(self) -> Iterable[str]:
        """Return the names of those that could be used now."""
        return ()

    def make(self, name: str) -> Driver | None:
        """Return a driver; ``None``: the name is not one that such a driver can have."""
        return None

    def hurried(self, driver: Driver) -> AbstractContextManager[None]:
        """Make a driver wait within the block no longer than the start of the daemon may be delayed."""
        return nullcontext()


class DriverRegistry(Mapping[str, Driver]):
    """All drivers. Of external ones, it has those that networks use, and those that could be used now.

    Args:
        own: the daemon's own.
        external: those of other programs.
        in_use: returns the names of the drivers of all recorded networks.
    """

    def __init__(self, own: Iterable[Driver], external: ExternalDrivers, in_use: Callable[[], Iterable[str]]) -> None:
        self._own = {driver.name: driver for driver in own}
        self._external = external
        self._made: dict[str, Driver] = {}
        self._in_use = in_use

    def __getitem__(self, name: str) -> Driver:
        if name in self._own:
            return self._own[name]
        if name in self._made:
            return self._made[name]
        if name not in self._external.names() and name not in self._in_use():
            raise KeyError(name)
        driver = self._external.make(name)
        if driver is None:
            raise KeyError(name)
        self._made[name] = driver
        return driver

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        used = {name for name in self._in_use() if name not in self._own}
        yield from sorted(used | set(self._external.names()) - self._own.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def working(self, name: str) -> Driver:
        """Return the driver with that name, which works on this host.

        Raises:
            Error: ``NOT_FOUND``, or ``UNAVAILABLE`` with the reason.
        """
        driver = self.get(name)
        if driver is None:
            raise not_found("driver", name, f"there are: {', '.join(sorted(self))}")
        reason = driver.unavailable()
        if reason:
            message = f"driver {name} is not available: {reason}"
            raise Error(Kind.UNAVAILABLE, message, f"these work here: {self._available()}", "driver_unavailable")
        return driver

    def _available(self) -> str:
        return ", ".join(name for name, driver in self._own.items() if not driver.unavailable())

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Make the external drivers that networks use wait no longer than the start of the daemon may be delayed."""
        with ExitStack() as stack:
            for name in self:
                if name not in self._own:
                    stack.enter_context(self._external.hurried(self[name]))
            yield
