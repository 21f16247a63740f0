"""What every driver promises, on the in-memory kernel and on the real one; the sample of docs/add-a-driver.md too."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace

from sandnet.drivers.base import Driver, LoadBalancing, PortPublisher, Recoverable
from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.macvlan import MacvlanDriver
from sandnet.drivers.null import NullDriver
from sandnet.drivers.overlay.driver import OverlayDriver, OverlaySettings
from sandnet.drivers.overlay.encryption import Encryption, TunnelSettings
from sandnet.drivers.remote.plugin_client import PluginClient
from sandnet.drivers.remote.plugin_driver import PluginDriver
from sandnet.drivers.sysctls import SysctlManager
from sandnet.errors import Error, Kind
from sandnet.firewall.base import EndpointState, NetworkState, RunWith, Step
from sandnet.ipam.subnet_plan import SubnetIndex
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.types import Bridge, Veth
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, BoundPort, Endpoint, Network, NetworkOptions, Phase
from sandnet.model.interfaces.interface_options import InterfaceOptions
from sandnet.model.link_alias import attachment_alias
from sandnet.model.sandbox import Origin, Sandbox
from sandnet.model.tap import TapOptions
from sandnet.stores.memory import MemoryStore
from tests.support.jobs import run_step
from tests.support.kernel_cases import SANDBOXES, KernelCase
from tests.support.network_plugin import PluginServer, present
from tests.support.sample_driver import sample_driver

POOLS: Final = (IPv4Network("10.60.0.0/16"),)
ID: Final = "ab" * 32
KEY: Final = f"{SANDBOXES}/c1"
SERVERS: Final[list[PluginServer]] = []
"""Of the case at hand."""


class InlineWorkers(Workers):
    """Runs each job at once: the case's kernel moves to the right thread by itself."""

    async def run(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return job(*args, **kwargs)


def null(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    return NullDriver("null")


def bridge(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    return BridgeDriver(kernel, workers, LinkReaper(kernel.links, workers), host_network, POOLS)


def overlay(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    shared = BridgeDriver(kernel, workers, LinkReaper(kernel.links, workers), host_network, POOLS, shared=True)
    kernel.links.ensure_bridge(Bridge("up0", 1500, (IPv4Interface("192.0.2.1/24"),)))
    encryption = Encryption(kernel.tunnels, workers, TunnelSettings(tempfile.mkdtemp()))
    settings = OverlaySettings(IPv4Address("192.0.2.1"))
    return OverlayDriver(kernel, workers, host_network, shared, encryption, settings)


def macvlan(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    kernel.links.ensure_bridge(Bridge("up0", 1500, (IPv4Interface("192.0.2.1/24"),)))
    return MacvlanDriver(kernel, workers)


def segment(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    return sample_driver(kernel, workers, host_network, POOLS)


def plugin(kernel: Kernel, workers: Workers, host_network: HostNetwork) -> Driver:
    """A driver of a network plugin, which makes nothing."""
    folder = Path(tempfile.mkdtemp())
    SERVERS.append(PluginServer(folder / "odd.spec", present()))
    return PluginDriver(PluginClient("odd", [str(folder)]), kernel, workers, POOLS, SubnetIndex())


OPTIONS = {"macvlan": NetworkOptions(parent="up0", subnet=IPv4Network("192.0.2.0/24"))}
"""What a network of a driver cannot be without."""


@dataclass
class DriverCase:
    """One driver on one kernel."""

    driver: Driver
    kernel: Kernel
    host_network: HostNetwork
    networks: list[NetworkState]

    async def network(self) -> Network:
        """A network of the driver, planned and made."""
        draft = Network(
            id=ID, name="net", driver=self.driver.name, phase=Phase.CREATING, sequence=1, created=0.0,
            options=OPTIONS.get(self.driver.name, NetworkOptions()),
        )  # fmt: skip
        planned = await self.driver.plan(draft, [])
        self.networks[:] = [NetworkState(planned, [])] if planned.link else []
        made = replace(await self.driver.create_network(planned), phase=Phase.READY)
        self.networks[:] = [NetworkState(made, [])] if made.link else []
        return made

    def plug(self, network: Network, ep: Endpoint, att: Attachment) -> RunWith[Veth | None]:
        """A job that plugs the attachment's link."""

        async def run(step: Step) -> Veth | None:
            step()
            veth = self.driver.link(network, ep, att)
            if veth:
                self.kernel.links.plug(KEY, veth)
            return veth

        return run

    def faults(self, network: Network) -> Any:
        """How the network differs in the kernel."""
        return self.driver.faults([network], self.kernel.state_reader.host())


@pytest.fixture(params=[null, bridge, overlay, macvlan, segment, plugin], ids=lambda make: make.__name__)
async def case(request: pytest.FixtureRequest, kernel_case: KernelCase) -> AsyncIterator[DriverCase]:
    workers = InlineWorkers(1)
    sysctls = SysctlManager(kernel_case.kernel.sysctl, MemoryStore(), workers)
    host_network = HostNetwork(kernel_case.kernel, workers, sysctls)
    networks: list[NetworkState] = []
    await host_network.start(
        lambda phases: [each for each in networks if each.network.phase in phases],
        lambda phases: [each.network for each in networks if each.network.phase in phases],
    )
    yield DriverCase(
        request.param(kernel_case.kernel, workers, host_network), kernel_case.kernel, host_network, networks
    )
    while SERVERS:
        SERVERS.pop().close()


def endpoint(network: Network) -> Endpoint:
    address = IPv4Interface((network.ipv4.prefix[7], network.ipv4.prefix.prefixlen)) if network.ipv4 else None
    return Endpoint(
        id="e" * 64, name="web", network_id=network.id, phase=Phase.READY, sequence=2, created=0.0,
        address=address, mac="02:42:0a:3c:00:07" if address else "",
    )  # fmt: skip


def attachment(network: Network, ep: Endpoint) -> Attachment:
    linked = bool(network.link)
    return Attachment(
        endpoint_id=ep.id, network_id=network.id, container_id="c1", phase=Phase.READY, sequence=3,
        interface="eth0" if linked else "", host_link="snv0123456789" if linked else "", holder=True,
        address=ep.address, mac=ep.mac,
    )  # fmt: skip


async def test_planned_network_is_made_and_does_not_differ(case: DriverCase) -> None:
    network = await case.network()
    assert await case.faults(network) == []
    assert await case.driver.changed_networks([network]) == []
    assert await case.host_network.packet_filter.faults() == []


async def test_creating_a_network_again_changes_nothing(case: DriverCase) -> None:
    network = await case.network()
    assert await case.driver.create_network(network) == network
    assert await case.faults(network) == []


async def test_network_made_again_is_repaired(case: DriverCase) -> None:
    network = await case.network()
    case.kernel.links.delete([network.link] if network.link else [])
    assert bool(await case.faults(network)) is bool(network.link)
    await case.driver.create_network(network)
    assert await case.faults(network) == []


async def test_deleting_a_network_twice_leaves_nothing(case: DriverCase) -> None:
    before = {link.name for link in case.kernel.links.list()}
    network = await case.network()
    case.networks.clear()
    for _ in range(2):
        await case.driver.delete_network(network)
    assert {link.name for link in case.kernel.links.list()} - before <= {network.link}  # which a reaper may have now
    assert await case.host_network.packet_filter.faults() == []


async def test_join_returns_what_its_job_returns(case: DriverCase) -> None:
    network = await case.network()
    case.kernel.namespaces.make(KEY)
    ep = endpoint(network)
    att = attachment(network, ep)
    assert await case.driver.join(network, ep, att, case.plug(network, ep, att)) == case.driver.link(network, ep, att)
    assert bool(case.driver.link(network, ep, att)) is bool(network.link)


async def test_link_has_what_the_join_requests(case: DriverCase) -> None:
    network = await case.network()
    ep = endpoint(network)
    options = InterfaceOptions(sysctls={"net.ipv4.conf.IFNAME.arp_notify": "1"})
    att = replace(attachment(network, ep), tap=TapOptions(queues=2), options=options)
    link = case.driver.link(network, ep, att)
    assert link is None or link.tap == att.tap
    assert link is None or link.parameters == (("net/ipv4/conf/eth0/arp_notify", "1"),)


async def test_failed_job_of_a_join_leaves_a_leave_to_undo(case: DriverCase) -> None:
    network = await case.network()
    ep = endpoint(network)
    att = attachment(network, ep)

    async def fail(step: Step) -> None:
        step()
        raise Error(Kind.UNAVAILABLE, "the kernel refuses")

    with pytest.raises(Error, match="the kernel refuses"):
        await case.driver.join(network, ep, att, fail)
    await case.driver.leave(network, [att], run_step)
    case.networks[:] = [NetworkState(network, [EndpointState(ep, [])])] if network.link else []
    assert await case.host_network.packet_filter.faults() == []


async def test_sandbox_has_its_interface_and_leaves_no_trace(case: DriverCase) -> None:
    network = await case.network()
    ep = endpoint(network)
    att = attachment(network, ep)
    case.kernel.namespaces.make(KEY)
    for _ in range(2):
        await case.driver.join(network, ep, att, case.plug(network, ep, att))
    assert set(case.kernel.namespaces.interfaces(KEY)) == {"lo", *({"eth0"} if network.link else ())}
    case.networks[:] = [NetworkState(network, [EndpointState(ep, [att])])] if network.link else []
    assert await case.host_network.packet_filter.faults() == []

    async def retire(step: Step) -> None:
        case.kernel.links.retire([att.host_link])
        step()

    for _ in range(2):
        await case.driver.leave(network, [att], retire)
    case.networks[:] = [NetworkState(network, [EndpointState(ep, [])])] if network.link else []
    assert await case.host_network.packet_filter.faults() == []


async def test_right_link_is_not_taken_for_a_different_one(case: DriverCase) -> None:
    network = await case.network()
    port = case.kernel.state_reader.host().links.get(network.link)
    assert port is None or not case.driver.may_differ(network, port)


async def test_deleting_an_endpoint_twice_is_success(case: DriverCase) -> None:
    network = await case.network()
    for _ in range(2):
        await case.driver.delete_endpoint(network, endpoint(network))


async def test_port_publisher_publishes_and_withdraws_repeatedly(case: DriverCase) -> None:
    if not isinstance(case.driver, PortPublisher):
        return
    network = await case.network()
    case.driver.check_publishable(network)
    bound = BoundPort(proto=6, port=80, host_ip=IPv4Interface("0.0.0.0").ip, host_port=8080)
    ep = replace(endpoint(network), ports=(bound,))
    for _ in range(2):
        await case.driver.publish(network, ep)
    case.networks[:] = [NetworkState(network, [EndpointState(ep, [])])]
    assert await case.host_network.packet_filter.faults() == []
    for _ in range(2):
        await case.driver.unpublish(network, ep)
    case.networks[:] = [NetworkState(network, [])]
    assert await case.host_network.packet_filter.faults() == []


async def test_load_balancing_takes_the_same_backends_twice(case: DriverCase) -> None:
    if not isinstance(case.driver, LoadBalancing):
        return
    network = await case.network()
    ep = endpoint(network)
    for backends in ([attachment(network, ep)], [attachment(network, ep)], []):
        await case.driver.balance(network, ep, backends)


async def test_recoverable_driver_recognises_its_own_links_only(case: DriverCase) -> None:
    if not isinstance(case.driver, Recoverable):
        return
    network = await case.network()
    ep = endpoint(network)
    att = attachment(network, ep)
    case.kernel.namespaces.make(KEY)
    await case.driver.join(network, ep, att, run_step)
    veth = case.driver.link(network, ep, att)
    assert veth
    sandbox = Sandbox(
        container_id="c1", key=KEY, phase=Phase.READY, sequence=4, created=0.0, inode=1, origin=Origin.MADE
    )
    case.kernel.links.plug(KEY, veth._replace(alias=attachment_alias(ep, sandbox, att)))
    found = case.driver.recognise(case.kernel.links.list())
    assert [(link.name, alias.name) for link, alias in found.networks] == [(network.link, "net")]
    assert [(link.name, alias.container_id) for link, alias in found.attachments] == [(att.host_link, "c1")]
    ((link, alias),) = found.networks
    recovered = case.driver.network_of(link, alias, network.sequence)
    assert recovered
    assert (recovered.id, recovered.link, recovered.ipv4) == (network.id, network.link, network.ipv4)
