"""What netavark passes, as a CNI configuration, and the result in netavark's form."""

from __future__ import annotations

from typing import Any

import pytest

from sandnet.cni import PluginError
from sandnet.netavark.cni_calls import arguments_of, cni_configuration, created, status_block

NETWORK: dict[str, Any] = {"name": "blue", "subnets": None, "options": None}
GIVEN: dict[str, Any] = {
    "container_id": "c1", "network": NETWORK, "network_options": {"interface_name": "eth0"}, "port_mappings": None,
}  # fmt: skip


def configured(network: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return cni_configuration({**GIVEN, **fields, "network": {**NETWORK, **(network or {})}})


def test_absent_fields_are_left_to_the_daemon() -> None:
    found = configured()
    assert (found["name"], found["ipam"], found["network"], found["mtu"]) == ("blue", None, None, None)
    assert found["runtimeConfig"] == {"portMappings": [], "ips": None, "mac": None, "aliases": {"blue": []}}


def test_subnets_and_lease_ranges_are_ranges() -> None:
    subnets = [
        {"subnet": "10.5.0.0/24", "gateway": "10.5.0.1", "lease_range": {"start_ip": "10.5.0.128"}},
        {"subnet": "fd05::/64"},
    ]
    ranges = [
        [{"subnet": "10.5.0.0/24", "gateway": "10.5.0.1", "rangeStart": "10.5.0.128"}],
        [{"subnet": "fd05::/64"}],
    ]
    assert configured({"subnets": subnets})["ipam"] == {"ranges": ranges}


def test_port_ranges_and_protocols_are_single_ports() -> None:
    mappings = [{"host_ip": "", "host_port": 8080, "container_port": 80, "range": 2, "protocol": "tcp,udp"}]
    found = configured(port_mappings=mappings)["runtimeConfig"]["portMappings"]
    assert [(each["hostPort"], each["containerPort"], each["protocol"]) for each in found] == [
        (8080, 80, "tcp"), (8081, 81, "tcp"), (8080, 80, "udp"), (8081, 81, "udp"),
    ]  # fmt: skip
    assert all(each["held"] for each in found)
    with pytest.raises(PluginError, match="8192"):
        configured(port_mappings=[{"host_port": 1, "container_port": 1, "range": 65535}])


def test_options_name_a_network_and_its_mtu() -> None:
    found = configured({"options": {"network": "green", "mtu": "1400"}, "internal": True})
    assert (found["network"], found["mtu"], found["internal"]) == ("green", 1400, True)
    with pytest.raises(PluginError, match="unknown option 'vlan'"):
        created({**NETWORK, "options": {"vlan": "5"}})


@pytest.mark.parametrize("mtu", ["", "large", "-1", "1e3", "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT TWO}"])
def test_mtu_that_is_no_number_is_refused(mtu: str) -> None:
    """It was ignored, and the network got the default."""
    with pytest.raises(PluginError, match="mtu is no number"):
        created({**NETWORK, "options": {"mtu": mtu}})
    with pytest.raises(PluginError, match="mtu is no number"):
        configured({"options": {"mtu": mtu}})


def test_parent_mode_and_dhcp_are_a_networks() -> None:
    options = {"driver": "macvlan", "parent": "eth0", "mode": "bridge"}
    found = configured({"options": options, "ipam_options": {"driver": "dhcp"}})
    assert [found[key] for key in ("driver", "master", "mode", "ipam")] == [
        "macvlan",
        "eth0",
        "bridge",
        {"type": "dhcp"},
    ]


@pytest.mark.parametrize("driver", ["host-local", "", None])
def test_daemon_leases_addresses_unless_a_server_does(driver: str | None) -> None:
    assert configured({"ipam_options": {"driver": driver}})["ipam"] is None


def test_network_without_addresses_is_refused() -> None:
    """``--ipam-driver none`` was ignored, and containers got addresses."""
    for call in (created, lambda network: configured(network)):
        with pytest.raises(PluginError, match="unknown IPAM driver 'none'"):
            call({**NETWORK, "ipam_options": {"driver": "none"}})


def test_name_of_the_container_is_the_endpoints() -> None:
    assert arguments_of({"container_name": "web"}) == "IgnoreUnknown=1;K8S_POD_NAME=web"
    for name in ("", None, "a;b", "a=b"):
        assert arguments_of({"container_name": name}) == ""


@pytest.mark.parametrize("field", ["network", "network_options"])
def test_missing_part_is_an_error(field: str) -> None:
    with pytest.raises(PluginError, match=f"{field} is missing"):
        cni_configuration({**GIVEN, field: None})


def test_result_is_the_interface_with_its_addresses() -> None:
    result = {
        "interfaces": [{"name": "snb0"}, {"name": "eth0", "mac": "02:42:0a:05:00:02", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.5.0.2/24", "gateway": "10.5.0.1"}, {"address": "fd05::2/64"}],
        "dns": {"nameservers": ["127.0.0.11"], "search": ["example.org"]},
    }
    subnets = [{"ipnet": "10.5.0.2/24", "gateway": "10.5.0.1"}, {"ipnet": "fd05::2/64"}]
    assert status_block(GIVEN, result) == {
        "dns_search_domains": ["example.org"],
        "dns_server_ips": ["127.0.0.11"],
        "interfaces": {"eth0": {"mac_address": "02:42:0a:05:00:02", "subnets": subnets}},
    }
