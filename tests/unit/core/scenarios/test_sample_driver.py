"""The sample driver in a whole daemon: what the core does for a driver with no capability."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from sandnet import composition
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.drivers.base import Driver
from sandnet.drivers.host_network import HostNetwork
from sandnet.errors import Error
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.workers import Workers
from sandnet.model import EndpointSpec, JoinSpec, NetworkOptions, NetworkSpec, PortMapping
from tests.support.core_in_process import CoreInProcess
from tests.support.sample_driver import sample_driver

SPEC = NetworkSpec(name="green", driver="segment")


@pytest.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    own = composition.own_drivers

    def with_the_sample(
        config: Config, kernel: Kernel, workers: Workers, reaper: LinkReaper, host_network: HostNetwork
    ) -> list[Driver]:
        sample = sample_driver(kernel, workers, host_network, (IPv4Network("10.60.0.0/16"),))
        return [*own(config, kernel, workers, reaper, host_network), sample]

    monkeypatch.setattr(composition, "own_drivers", with_the_sample)
    host = CoreInProcess(Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")))
    yield await host.start()
    await host.controller.stop()


async def test_container_joins_and_leaves(core: Controller) -> None:
    await core.networks.create(SPEC)
    endpoint = await core.endpoints.create("green", EndpointSpec(name="web"))
    await core.sandboxes.join("green", endpoint.id, JoinSpec(container_id="c1"))
    assert await core.reconcile.run(fix=False) == []
    await core.removal.network("green", force=True)
    assert await core.reconcile.run(fix=False) == []


async def test_second_backend_is_refused_without_balancing(core: Controller) -> None:
    await core.networks.create(SPEC)
    service = await core.services.publish("green", EndpointSpec(name="web"))
    await core.services.attach(service.id, JoinSpec(container_id="c1"))
    with pytest.raises(Error) as refused:
        await core.services.attach(service.id, JoinSpec(container_id="c2"))
    assert refused.value.code == "already_joined"
    assert (
        refused.value.hint == "detach it first, or create another endpoint: it cannot be one of several backends here"
    )


async def test_published_port_is_refused_without_a_publisher(core: Controller) -> None:
    await core.networks.create(SPEC)
    with pytest.raises(Error) as refused:
        await core.endpoints.create("green", EndpointSpec(name="web", port_mapping=(PortMapping(proto=6, port=80),)))
    assert refused.value.code == "ports_not_supported"


async def test_option_that_the_sample_lacks_is_refused(core: Controller) -> None:
    with pytest.raises(Error, match="segment has no IPv6"):
        await core.networks.create(NetworkSpec(name="green", driver="segment", options=NetworkOptions(ipv6=True)))
