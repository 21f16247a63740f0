"""The drivers of all network plugins of the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from ipaddress import IPv4Network

from sandnet.drivers.base import Driver
from sandnet.drivers.registry import ExternalDrivers
from sandnet.drivers.remote.discovery import OWN_NAME, PLUGIN_NAME, names
from sandnet.drivers.remote.plugin_client import LIMITS, Limits, PluginClient
from sandnet.drivers.remote.plugin_driver import PluginDriver
from sandnet.ipam.subnet_plan import SubnetIndex
from sandnet.kernel.base import Kernel
from sandnet.kernel.workers import Workers


class PluginDrivers(ExternalDrivers):
    """One driver for each network plugin.

    Args:
        directories: where plugins are found.
        kernel: the host's kernel.
        workers: threads for its calls.
        pools: pools of IPv4 subnets for networks that request none.
        limits: of time.
    """

    def __init__(
        self,
        directories: Sequence[str],
        kernel: Kernel,
        workers: Workers,
        pools: Sequence[IPv4Network],
        limits: Limits = LIMITS,
    ) -> None:
        self._directories = directories
        self._kernel = kernel
        self._workers = workers
        self._pools = pools
        self._limits = limits
        self._subnets = SubnetIndex()
        self._plugins: dict[str, PluginClient] = {}

    def names(self) -> Iterable[str]:
        """Return the names of the plugins that are there now."""
        return names(self._directories)

    def make(self, name: str) -> Driver | None:
        """Return the driver of a plugin; ``None``: no plugin can have that name."""
        if not PLUGIN_NAME.fullmatch(name) or name == OWN_NAME:
            return None
        plugin = self._plugins[name] = PluginClient(name, self._directories, self._limits)
        return PluginDriver(plugin, self._kernel, self._workers, self._pools, self._subnets)

    def hurried(self, driver: Driver) -> AbstractContextManager[None]:
        """Make a plugin's requests short within the block."""
        plugin = self._plugins.get(driver.name)
        return plugin.hurried() if plugin else nullcontext()
