"""Changes of networks while containers use them.

The new record is the intent: a daemon that is killed during the change finds it at its next start, and restores the
bridge, the links and the files from it, as after any other difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations, roll_back
from sandnet.core.state.records import Records
from sandnet.core.state.shared_writer import repeated
from sandnet.drivers.base import Driver, Updatable
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Network, NetworkOptions, Phase
from sandnet.model.interfaces.bandwidth import FIELDS as BANDWIDTH

_log = logging.getLogger(__name__)

OptionsOf = Callable[[Network], NetworkOptions]
"""Returns a network's options with the requested changes."""
LabelsOf = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Returns a network's labels with the requested changes, from those that it has when the change is made."""

_FILES: Final = frozenset({"dns_search", "dns_options"})
"""Options that are in files of sandboxes: networks of every driver can change them."""
_LINKS: Final = frozenset({"mtu", "ip_range", "ipv6", "subnet_ipv6", "gateway_ipv6", *BANDWIDTH})
"""Options that networks of an :class:`Updatable` driver can change."""
_ADDRESSES: Final = frozenset({"subnet", "gateway", "bridge_address", "ipv6", "subnet_ipv6", "gateway_ipv6"})


class NetworkUpdates:
    """Changes of networks."""

    def __init__(
        self,
        records: Records,
        operations: Operations,
        locks: Locks,
        drivers: Mapping[str, Driver],
        networks: Networks,
        sandboxes: Sandboxes,
    ) -> None:
        self._records = records
        self._operations = operations
        self._locks = locks
        self._drivers = drivers
        self._networks = networks
        self._sandboxes = sandboxes

    async def update(self, ref: str, options: OptionsOf | None, labels: LabelsOf | None) -> None:
        """Change a network's options and labels.

        Args:
            ref: the network, by id, name or unique id prefix.
            options: returns its new options; ``None``: they stay.
            labels: returns its new labels; ``None``: they stay.

        Raises:
            Error: ``NOT_FOUND``; ``CONFLICT``: an option that cannot change now, with the reason; or an error of the
                driver. Then nothing is changed.
        """
        network_id = self._networks.find(ref).id
        await self._operations.run(self._update(network_id, options, labels))

    async def apply(self, network_id: str) -> None:
        """Bring this host's containers into line with a network that another host has changed."""
        async with self._locks.hold(*self._locks_of(network_id)):
            await asyncio.gather(*(self._ensure(each) for each in self._records.attachments_of_network(network_id)))

    async def _update(self, network_id: str, options: OptionsOf | None, labels: LabelsOf | None) -> None:
        while not await repeated(lambda: self._try(network_id, options, labels), self._records.catch_up):
            pass  # new endpoints or containers joined the network while this waited for the locks

    async def _try(self, network_id: str, options: OptionsOf | None, labels: LabelsOf | None) -> bool:
        names = self._locks_of(network_id)
        async with self._locks.hold(*names):
            before = self._networks.open(network_id)
            if not self._locks_of(network_id) <= names:
                return False
            after = replace(
                before,
                options=options(before) if options else before.options,
                labels=dict(labels(before.labels)) if labels else before.labels,
            )
            if after != before:
                after = await self._planned(before, after)
                await self._carry_out(before, after)
            return True

    def _locks_of(self, network_id: str) -> set[str]:
        return {
            f"network/{network_id}",
            *(f"endpoint/{endpoint.id}" for endpoint in self._records.endpoints_of(network_id)),
            *(f"sandbox/{attachment.container_id}" for attachment in self._records.attachments_of_network(network_id)),
        }

    async def _planned(self, before: Network, after: Network) -> Network:
        """Record the intent, and return it."""
        driver = self._drivers[before.driver]
        updatable = isinstance(driver, Updatable)
        _refuse_fixed(before, after, _FILES | _LINKS if updatable else _FILES)
        async with self._locks.hold("networks"):  # two plans at once would choose one subnet
            if isinstance(driver, Updatable) and after.options != before.options:
                others = [net for net in self._records.networks() if net.id != before.id]
                others += self._networks.elsewhere(before)
                after = await driver.plan_update(after, others)
            await self._records.commit(put=[after])
        return after

    async def _carry_out(self, before: Network, after: Network) -> None:
        if after.options == before.options:
            return
        driver = self._drivers[after.driver]
        if isinstance(driver, Updatable):
            try:
                await driver.create_network(after)
            except BaseException:
                await roll_back(f"the change of network {after.name}", self._undo(before))
                raise
        await asyncio.gather(*(self._ensure(each) for each in self._records.attachments_of_network(after.id)))

    async def _undo(self, before: Network) -> None:
        await self._records.commit(put=[before])
        await self._drivers[before.driver].create_network(before)

    async def _ensure(self, attachment: Attachment) -> None:
        """Bring a link and the files of its sandbox into line; where that fails, reconciliation repairs it later."""
        sandbox = self._records.sandbox(attachment.container_id)
        if sandbox is None or attachment.phase is not Phase.READY:
            return
        try:
            await self._sandboxes.ensure(sandbox, attachment)
        except Error as failure:
            _log.warning("container %s does not follow its network yet: %s", attachment.container_id, failure)


def _refuse_fixed(before: Network, after: Network, live: frozenset[str]) -> None:
    """Refuse a change of an option that is fixed.

    Raises:
        Error: ``CONFLICT``, with the reason.
    """
    for field in NetworkOptions.__struct_fields__:
        old, new = getattr(before.options, field), getattr(after.options, field)
        if old != new and (field not in live or (field in _ADDRESSES and before.ipv6)):
            reason = "endpoints have addresses and routes by it" if field in _ADDRESSES else "it is fixed at creation"
            message = f"network {before.name}: {field} cannot change while the network exists: {reason}"
            raise Error(
                Kind.CONFLICT, message, f"delete the network, and create it with the new {field}", "fixed_option"
            )
