"""Conversion of the model into Docker's objects."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sandnet.api import network_options, plugin_options
from sandnet.api.middleware.normalization import ENGINE_API_VERSION, ENGINE_MIN_API_VERSION
from sandnet.core.controller import Controller
from sandnet.ipam.addresses import AddressUse
from sandnet.model import Endpoint, Network, Subnet
from sandnet.model.ids import bare
from sandnet.wire import engine as wire

_MOST: Final = 2**64 - 1
"""Highest number of addresses that is reported."""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names of machines."""
_PRODUCT: Final = "sandnet"


def summary(net: Network) -> wire.NetworkSummary:
    """Return a network without its containers."""
    return wire.NetworkSummary(
        name=net.name,
        id=net.id,
        created=datetime.fromtimestamp(net.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        scope="local",
        driver=net.driver,
        enable_ipv4=net.ipv4 is not None,
        enable_ipv6=net.ipv6 is not None,
        ipam=wire.NetworkIpam(
            driver=net.options.ipam_driver or "default",
            options={},
            config=[_pool(net, each) for each in (net.ipv4, net.ipv6) if each],
        ),
        internal=net.options.internal,
        options=network_options.to_engine_options(net.options) | plugin_options.shown(net.options),
        labels=net.labels,
    )


def details(core: Controller, net: Network) -> wire.NetworkDetails:
    """Return a network with its containers, and with the use of its addresses."""
    plain = summary(net)
    subnets = {str(prefix): _use(use) for prefix, use in core.networks.address_use(net).items()}
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    fields["containers"] = _containers(core, net)
    return wire.NetworkDetails(**fields, status=wire.NetworkStatus(ipam=wire.IpamStatus(subnets=subnets)))


def version(release: str) -> wire.EngineVersion:
    """Return the program's version, and the versions of the API."""
    machine = platform.machine()
    arch, kernel = _ARCHITECTURES.get(machine, machine), platform.release()
    facts = {
        "ApiVersion": ENGINE_API_VERSION,
        "MinAPIVersion": ENGINE_MIN_API_VERSION,
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": kernel,
    }
    return wire.EngineVersion(
        platform=wire.Platform(name=_PRODUCT),
        components=[wire.Component(name="Engine", version=release, details=facts)],
        version=release,
        api_version=ENGINE_API_VERSION,
        min_api_version=ENGINE_MIN_API_VERSION,
        os="linux",
        arch=arch,
        kernel_version=kernel,
    )


def info(core: Controller, release: str) -> wire.EngineInfo:
    """Return the facts about the host and the daemon."""
    health, counts = core.health(), core.counts()
    return wire.EngineInfo(
        id=_PRODUCT,
        name=platform.node(),
        server_version=release,
        operating_system=_PRODUCT,
        architecture=platform.machine(),
        kernel_version=platform.release(),
        ncpu=os.cpu_count() or 1,
        mem_total=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        containers=counts.sandboxes,
        containers_running=counts.sandboxes,
        plugins=wire.Plugins(network=sorted(driver.name for driver in health.drivers if driver.available)),
        warnings=[f"WARNING: {problem}" for problem in health.problems],
    )


def _pool(net: Network, subnet: Subnet) -> wire.IpamPool:
    reserved = net.options.reserved_addresses.items()
    inside = {name: str(address) for name, address in reserved if address.version == subnet.prefix.version}
    return wire.IpamPool(
        subnet=str(subnet.prefix),
        ip_range=str(subnet.range) if subnet.range else None,
        gateway=str(subnet.gateway) if subnet.gateway else None,
        auxiliary_addresses=inside or None,
    )


def _use(use: AddressUse) -> wire.SubnetStatus:
    return wire.SubnetStatus(ips_in_use=min(use.in_use, _MOST), dynamic_ips_available=min(use.available, _MOST))


def _containers(core: Controller, net: Network) -> Mapping[str, wire.ConnectedContainer]:
    """Return the endpoints of a network by container; those without one are ``ep-`` and their id, as in Docker."""
    found: dict[str, wire.ConnectedContainer] = {}
    for endpoint in core.endpoints.list(net):
        backends = core.services.backends(endpoint)
        for backend in backends:
            key = f"ep-{endpoint.id}" if backend.container_id in found else backend.container_id
            found[key] = _container(endpoint, backend.mac, backend.address, backend.address_ipv6)
        if not backends:
            found[f"ep-{endpoint.id}"] = _container(endpoint, endpoint.mac, endpoint.address, endpoint.address_ipv6)
    return found


def _container(endpoint: Endpoint, mac: str, address: object, address_ipv6: object) -> wire.ConnectedContainer:
    return wire.ConnectedContainer(
        name=bare(endpoint.name),
        endpoint_id=endpoint.id,
        mac_address=mac,
        ipv4_address=str(address or ""),
        ipv6_address=str(address_ipv6 or ""),
    )
