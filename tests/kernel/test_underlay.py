"""The underlay of a real host: by address, and by default routes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sandnet.errors import Error
from sandnet.kernel.linux.vxlan.vxlan_links import LinuxVxlanPorts
from sandnet.kernel.vxlan.base import Underlay
from tests.support.network_host import Host


def uplink(host: Host, name: str, *addresses: str, mtu: int = 1500) -> None:
    host.sh("ip", "link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", f"{name}p")
    host.sh("ip", "link", "set", name, "up")
    host.sh("ip", "link", "set", f"{name}p", "up")
    for address in addresses:
        host.sh("ip", "address", "add", address, "dev", name, *(("nodad",) if ":" in address else ()))


def found(host: Host) -> Underlay:
    return host.run(LinuxVxlanPorts().underlay, None)


def test_host_without_default_route_has_no_underlay(host: Host) -> None:
    uplink(host, "up0", "192.0.2.1/24")
    with pytest.raises(Error, match="no default route"):
        found(host)


def test_underlay_is_the_source_of_the_default_route(host: Host) -> None:
    uplink(host, "up0", "192.0.2.1/24", "198.51.100.1/24", "2001:db8::1/64", mtu=1400)
    host.sh("ip", "route", "add", "default", "via", "198.51.100.9")
    assert found(host) == Underlay(ip_address("198.51.100.1"), "up0", 1400)
    host.sh("ip", "route", "replace", "default", "via", "198.51.100.9", "src", "192.0.2.1")
    assert found(host) == Underlay(ip_address("192.0.2.1"), "up0", 1400)


def test_route_of_the_lowest_metric_counts(host: Host) -> None:
    uplink(host, "up0", "192.0.2.1/24")
    uplink(host, "up1", "203.0.113.1/24")
    host.sh("ip", "route", "add", "default", "via", "192.0.2.9", "metric", "200")
    host.sh("ip", "route", "add", "default", "via", "203.0.113.9", "metric", "100")
    assert found(host).link == "up1"


def test_host_with_ipv6_only_has_an_underlay_of_ipv6(host: Host) -> None:
    uplink(host, "up0", "2001:db8::1/64")
    host.sh("ip", "route", "add", "default", "via", "fe80::9", "dev", "up0")
    assert found(host) == Underlay(ip_address("2001:db8::1"), "up0", 1500)


def test_path_mtu_is_that_of_the_route(host: Host) -> None:
    uplink(host, "up0", "192.0.2.1/24", "2001:db8::1/64", mtu=1400)
    ports = LinuxVxlanPorts()
    assert host.run(ports.path_mtu, ip_address("192.0.2.7")) == 1400
    assert host.run(ports.path_mtu, ip_address("2001:db8::7")) == 1400
    assert host.run(ports.path_mtu, ip_address("198.51.100.7")) == 0
    host.sh("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.9", "mtu", "1300")
    assert host.run(ports.path_mtu, ip_address("198.51.100.7")) == 1300
