"""What a DHCP server states, and what becomes of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.kernel.dhcp.offered_lease import VALUES, read_lease
from sandnet.model.interfaces.dhcp_lease import FOREVER, DhcpLease

USUAL = {
    "ip": "192.0.2.7",
    "subnet": "255.255.255.0",
    "router": "192.0.2.1",
    "dns": "192.0.2.1 198.51.100.1",
    "domain": "Home.Example.",
    "serverid": "192.0.2.2",
    "lease": "3600",
}


def test_usual_values_are_a_lease() -> None:
    lease = read_lease(USUAL, 100.0)
    assert lease == DhcpLease(
        address=IPv4Interface("192.0.2.7/24"),
        router=IPv4Address("192.0.2.1"),
        dns=(IPv4Address("192.0.2.1"), IPv4Address("198.51.100.1")),
        domain="home.example",
        server=IPv4Address("192.0.2.2"),
        seconds=3600,
        obtained=100.0,
    )
    assert (lease.overdue, lease.ends) == (3250.0, 3700.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ip": ""}, "is none"),
        ({"ip": "192.0.2.7/24"}, "is none"),
        ({"ip": "192.0.2.7; reboot"}, "is none"),
        ({"ip": "127.0.0.1"}, "no address of a machine"),
        ({"ip": "0.0.0.1"}, "no address of a machine"),
        ({"ip": "169.254.1.1"}, "no address of a machine"),
        ({"ip": "224.0.0.1"}, "no address of a machine"),
        ({"ip": "255.255.255.255"}, "no address of a machine"),
        ({"ip": "192.0.2.0"}, "no address of a machine"),
        ({"ip": "192.0.2.255"}, "no address of a machine"),
        ({"subnet": ""}, "is none"),
        ({"subnet": "24"}, "is none"),
        ({"subnet": "0.0.0.255"}, "no mask"),
        ({"subnet": "255.0.255.0"}, "no mask"),
        ({"subnet": "0.0.0.0"}, "no mask"),
        ({"subnet": "128.0.0.0"}, "no mask"),
        ({"subnet": "255.255.255.255"}, "no mask"),
        ({"lease": ""}, "seconds is none"),
        ({"lease": "0"}, "seconds is none"),
        ({"lease": "-5"}, "seconds is none"),
        ({"lease": "1" * 400}, "seconds is none"),
    ],
)
def test_unusable_address_is_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_lease({**USUAL, **changes}, 0.0)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("router", ["", "nonsense", "192.0.3.1", "192.0.2.7", "192.0.2.255", "127.0.0.1"])
def test_router_elsewhere_is_left_out(router: str) -> None:
    assert read_lease({**USUAL, "router": router}, 0.0).router is None
    assert read_lease({**USUAL, "router": f"{router} 192.0.2.9"}, 0.0).router == IPv4Address("192.0.2.9")


def test_name_servers_are_few_and_elsewhere() -> None:
    given_servers = "127.0.0.1 0.0.0.0 224.0.0.1 x 192.0.2.1 192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4"
    found = read_lease({**USUAL, "dns": given_servers}, 0.0).dns
    assert [str(each) for each in found] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize("domain", ["a b", "$(reboot)", "-x", "a..b", "a\nb", "x" * 300, "é", "."])
def test_domain_that_is_none_is_left_out(domain: str) -> None:
    assert read_lease({**USUAL, "domain": domain}, 0.0).domain == ""


def test_infinite_lease_does_not_end() -> None:
    assert read_lease({**USUAL, "lease": str(FOREVER)}, 0.0).ends == float("inf")


@given(st.dictionaries(st.sampled_from(VALUES), st.text(max_size=60)))
def test_any_values_are_a_lease_or_refused(values: dict[str, str]) -> None:
    try:
        lease = read_lease({**USUAL, **values}, 0.0)
    except ValueError:
        return
    assert lease.address.ip in lease.address.network
