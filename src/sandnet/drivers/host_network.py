"""The state that networks of all drivers share on the host: forwarding, parameters, routing rules and packet filter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sandnet.drivers import readonly_sysctls
from sandnet.drivers.forwarding import Forwarding
from sandnet.drivers.gateway_questions import NO_ANSWER, GatewayQuestions
from sandnet.drivers.router_advertisements import RouterAdvertisements
from sandnet.drivers.routing_rules import NO_WAY_IN, NetworksOf, RoutingRules
from sandnet.drivers.sysctls import SysctlManager
from sandnet.errors import Error, Kind
from sandnet.firewall.base import Fault, StateOf
from sandnet.firewall.packet_filter import PacketFilter, published_endpoints
from sandnet.kernel.base import Kernel
from sandnet.kernel.workers import Workers
from sandnet.model import Address, BoundPort, Network, Phase
from sandnet.model.network import MAX_FLOWS

NO_ROUTER = "the host does not take the default route that routers advertise, as it forwards IPv6"
NO_FORWARD = "sandboxes reach nothing beyond their own network"


class HostNetwork:
    """The host's side of all networks; drivers and the core share one instance.

    Args:
        kernel: the host's kernel.
        workers: threads for its calls.
        sysctls: sets kernel parameters, and stores their previous values.
        forward_others: let the host also route between its other networks, if sandnet enabled forwarding.
        max_flows: tracked connections that a sandbox may have where its network sets no limit; 0: no limit.
    """

    def __init__(
        self,
        kernel: Kernel,
        workers: Workers,
        sysctls: SysctlManager,
        *,
        forward_others: bool = False,
        max_flows: int = MAX_FLOWS,
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self.sysctls = sysctls
        self._forwarding = Forwarding(sysctls, kernel, workers, leave_open=forward_others)
        self._advertisements = RouterAdvertisements(sysctls, kernel, workers)
        self._routing_rules = RoutingRules(kernel.host, workers)
        self._gateway_questions = GatewayQuestions(kernel.host, kernel.sysctl, workers)
        self.packet_filter = PacketFilter(kernel, workers, self._forwarding.elements, max_flows)
        self.networks: NetworksOf = lambda _phases: []
        """Returns the networks of all drivers that have links, in given phases; none before :meth:`start`."""
        self._forwarding_lock = asyncio.Lock()
        """Lock: the packet filter must restrict forwarding before it is enabled."""

    async def start(self, state: StateOf, networks: NetworksOf) -> None:
        """Prepare the host for the recorded networks; called once, before any other method. Established flows continue.

        Args:
            state: returns the networks of all drivers that have links, in given phases, with their endpoints.
            networks: returns these networks alone.

        Raises:
            Error: the kernel refuses.
        """
        self.networks = networks
        if self.packet_filter.unavailable():
            return
        nets = networks((Phase.READY,))
        await self._forwarding.start(nets)
        await self.packet_filter.start(state)
        await self.enable_forwarding(nets)
        await self._routing_rules.start(networks)
        await self.packet_filter.forget_stale(published_endpoints(state))

    async def stop(self) -> None:
        """Restore the host, once no network is left: no rules, no tables, parameters as before.

        Raises:
            Error: the kernel refuses.
        """
        await self._routing_rules.remove()
        await self._gateway_questions.remove()
        await self.sysctls.restore()  # first: without the table a forwarding host would be open
        await self.packet_filter.stop()

    async def enable_forwarding(self, nets: Sequence[Network]) -> None:
        """Enable forwarding for these networks; if it was off before, only for them."""
        async with self._forwarding_lock:
            await self.packet_filter.add_host_elements(await self._forwarding.decide(nets))
            if nets:
                await self.sysctls.ensure("net/ipv4/ip_forward", "1")
            if any(net.ipv6 for net in nets):
                await self._advertisements.enable_forwarding()
        await self._gateway_questions.ensure(nets)

    async def update_routing_rules(self, *first: Callable[[], None]) -> None:
        """Give routes to the current networks priority over the rules that other programs made.

        Args:
            first: what else to do in the kernel, before it and in the same job.
        """
        await self._routing_rules.ensure(*first)

    async def readonly_faults(self) -> list[Fault]:
        """Return the kernel parameters that prevent every network and cannot be written."""
        return await self._workers.run(readonly_sysctls.readonly_faults, self._kernel.sysctl)

    async def published_ports(self) -> Sequence[tuple[Address, BoundPort]]:
        """Return the ports of the host that the kernel publishes before :meth:`start`, each with its destination.

        This also restores what the host forwarded before sandnet, as the table is the only place that still contains
        it.
        """
        if self.packet_filter.unavailable():
            return ()
        listing = await self.packet_filter.listing()
        await self._forwarding.restore(listing)
        return self.packet_filter.published_ports(listing)

    async def parameter_faults(self) -> list[Fault]:
        """Return the parameters of the whole host that another program changed; cheap.

        :meth:`repair_parameters` sets them. This also follows changed routes, which is no repair.
        """
        if self.packet_filter.unavailable():
            return []
        await self.packet_filter.follow_routes()
        changed = await self.sysctls.changed()
        found = [(name, f"{name} has been changed") for name in changed]
        found += [(name, f"{name} is 1") for name in await self._advertisements.changed() if name not in changed]
        faults = [Fault("parameter", name, problem, _reason(name)) for name, problem in found]
        if not await self._routing_rules.is_ensured():
            problem = "others' rules for routing come before the routes to our networks"
            faults.append(Fault("parameter", "ip rule", problem, NO_WAY_IN))
        if not await self._gateway_questions.is_ensured(self.networks((Phase.READY,))):
            problem = "the route to the resolver's sockets is gone"
            faults.append(Fault("parameter", "ip -6 route", problem, NO_ANSWER))
        return faults

    async def repair_parameters(self) -> None:
        """Set the parameters again that :meth:`parameter_faults` reports.

        Raises:
            Error: ``CONFLICT`` a rule of another program leaves no priority for ours before it; or the kernel refuses.
        """
        await self.sysctls.reapply()
        await self._advertisements.maintain()
        await self._gateway_questions.ensure(self.networks((Phase.READY,)))
        await self._routing_rules.ensure()
        if not await self._routing_rules.is_ensured():
            problem = (
                "a rule for routing of others has the priority of the local table's: ours finds no place before it"
            )
            raise Error(Kind.CONFLICT, problem, "give theirs a priority of 2 to 32765 (ip rule)")


def _reason(parameter: str) -> str:
    return NO_ROUTER if parameter.endswith("/accept_ra") else NO_FORWARD
