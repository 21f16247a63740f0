"""Macvlan networks: sandboxes as machines on the Ethernet segment of one of the host's links."""

from __future__ import annotations

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    JSON,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    Sandbox,
    mapping,
)
from tests.support.network_host import eventually
from tests.support.privileges import needs_taps

SEGMENT: dict[str, JSON] = {
    "parent": "uplink",
    "subnet": "198.51.100.0/24",
    "ip_range": "198.51.100.128/25",
    "gateway": HOST_ADDRESS,
}
WITHIN = 20.0
"""Seconds in which a repair is done even on a busy machine; the next comparison of everything takes longer to come."""


@pytest.fixture
def web(daemon: RunningDaemon) -> Sandbox:
    daemon.api.network("lan", "macvlan", **SEGMENT)
    made = daemon.sandbox("lan", "web")
    made.serve("web", 80)
    return made


def stacked(daemon: RunningDaemon) -> list[str]:
    """Macvlan interfaces that are on the host."""
    return [name for name in daemon.links() if name.startswith("snm")]


def test_machines_of_the_segment_reach_the_sandbox_directly(daemon: RunningDaemon, web: Sandbox) -> None:
    assert web.address.startswith("198.51.100.1")
    assert daemon.outside.ask(web.address, 80).server == "web"
    daemon.outside.serve("far", 7000)
    assert web.ask(OUTSIDE_ADDRESS, 7000).address == web.address
    assert web.mac in daemon.outside.sh("ip", "neigh", "show", web.address)
    assert stacked(daemon) == []


def test_neighbours_find_each_other_by_name(daemon: RunningDaemon, web: Sandbox) -> None:
    db = daemon.sandbox("lan", "db")
    assert db.ask(web.address, 80).server == "web"
    assert web.address in daemon.cli("dns", "--from", db.container, "web")


def test_private_sandboxes_do_not_reach_each_other(daemon: RunningDaemon) -> None:
    daemon.api.network("lan", "macvlan", **SEGMENT, macvlan_mode="private")
    web, db = daemon.sandbox("lan", "web"), daemon.sandbox("lan", "db")
    web.serve("web", 80)
    assert db.is_refused(web.address, 80)
    assert daemon.outside.ask(web.address, 80).server == "web"


def test_both_families_are_on_the_segment(daemon: RunningDaemon) -> None:
    prefix = OUTSIDE_ADDRESS6.rpartition("::")[0] + "::/64"
    daemon.api.network("lan", "macvlan", **SEGMENT, subnet_ipv6=prefix)
    web = daemon.sandbox("lan", "web", address_ipv6=OUTSIDE_ADDRESS6.rpartition("::")[0] + "::77")
    web.serve("web", 80, address=web.address6)
    assert daemon.outside.ask(web.address6, 80).server == "web"


@pytest.mark.parametrize("restart", [False, True], ids=["running", "killed"])
def test_deleted_interface_is_made_again(daemon: RunningDaemon, web: Sandbox, restart: bool) -> None:
    if restart:
        daemon.kill()
    web.sh("ip", "link", "delete", "eth0")
    if restart:
        daemon.start()
    else:
        daemon.api.post("/reconcile", fix=True)
    eventually(lambda: daemon.outside.reaches(web.address, 0.5), WITHIN)
    eventually(lambda: daemon.api.post("/reconcile", fix=False)["drift"] == [], WITHIN)
    assert daemon.outside.ask(web.address, 80).server == "web"


def test_nothing_is_left_after_leave_and_delete(daemon: RunningDaemon, web: Sandbox) -> None:
    before = set(daemon.links())
    theirs = daemon.host.container()
    daemon.api.endpoint("lan", "db")
    daemon.api.join("lan", "db", "c2", netns=theirs.path)
    daemon.api.leave("lan", "db", "c2")
    assert daemon.place(theirs.path).sh("ip", "-br", "link").split()[0] == "lo"
    assert len(daemon.place(theirs.path).sh("ip", "-br", "link").splitlines()) == 1
    daemon.api.leave("lan", "web", web.container)
    for name in ("web", "db"):
        daemon.api.delete(f"/services/{name}")
    daemon.api.delete("/networks/lan")
    assert set(daemon.links()) == before
    assert stacked(daemon) == []


def test_interface_that_a_killed_daemon_left_is_deleted(daemon: RunningDaemon) -> None:
    daemon.kill()
    daemon.host.sh("ip", "link", "add", "snm0123456789", "link", "uplink", "type", "macvlan")
    daemon.start()
    assert stacked(daemon) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parent": None}, "no_parent"),
        ({"parent": "nowhere"}, "parent_missing"),
        ({"parent": "lo"}, "parent_unfit"),
        ({"parent": "../x"}, "invalid_name"),
        ({"subnet": None, "gateway": None, "ip_range": None}, "no_subnet"),
        ({"macvlan_mode": "passthru"}, "invalid"),
        ({"icc": False}, "not_on_macvlan"),
        ({"internal": True}, "not_on_macvlan"),
        ({"ingress_rate": 10_000_000}, "not_on_macvlan"),
    ],
)
def test_what_a_macvlan_network_cannot_be_is_refused(daemon: RunningDaemon, changes: JSON, reason: str) -> None:
    options = {key: value for key, value in {**SEGMENT, **changes}.items() if value is not None}
    with pytest.raises(RefusedError, match=reason):
        daemon.api.network("lan", "macvlan", **options)


def test_ipvlan_is_listed_and_refused_with_the_reason(daemon: RunningDaemon) -> None:
    (listed,) = [each for each in daemon.api.get("/healthz")["drivers"] if each["name"] == "ipvlan"]
    assert not listed["available"]
    assert ("this kernel has no ipvlan" in listed["reason"]) != has_ipvlan(daemon)
    assert "sandnet does not support" in listed["reason"]
    for options in ({}, {"parent": "uplink", "ipvlan_mode": "l3"}):
        with pytest.raises(RefusedError, match="driver_unavailable") as caught:
            daemon.api.network("lan", "ipvlan", **options)
        assert caught.value.status == 503
        assert listed["reason"] in caught.value.message
        assert "macvlan" in caught.value.body["hint"]
    assert listed["reason"] in daemon.cli("status")


def has_ipvlan(daemon: RunningDaemon) -> bool:
    """Return whether the kernel makes such an interface."""
    try:
        daemon.host.sh("ip", "link", "add", "probe", "link", "uplink", "type", "ipvlan")
    except AssertionError:
        return False
    daemon.host.sh("ip", "link", "delete", "probe")
    return True


def test_root_inside_changes_the_mac_that_is_all_one_could_limit(daemon: RunningDaemon, web: Sandbox) -> None:
    """Why there are no rates: on the parent a frame shows its MAC, and not from which sandbox it came."""
    web.sh("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "3000", "latency", "50ms")
    web.sh("tc", "qdisc", "delete", "dev", "eth0", "root")
    web.sh("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    assert web.reaches(OUTSIDE_ADDRESS)
    assert "02:00:00:00:00:99" in daemon.outside.sh("ip", "neigh", "show", web.address)


@needs_taps
def test_bridge_over_the_uplink_has_rates_and_taps(fresh_daemon: RunningDaemon) -> None:
    """What a macvlan network cannot have: the page names this way."""
    daemon = fresh_daemon
    for words in (
        ("ip", "link", "add", "lan0", "type", "bridge"),
        ("ip", "address", "delete", f"{HOST_ADDRESS}/24", "dev", "uplink"),
        ("ip", "link", "set", "uplink", "master", "lan0"),
        ("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", "lan0"),
        ("ip", "link", "set", "lan0", "up"),
    ):
        daemon.host.sh(*words)
    daemon.start()
    options = {"bridge_name": "lan0", "ip_range": "198.51.100.128/25", "gateway": OUTSIDE_ADDRESS}
    daemon.api.network("lan", "bridge", allow_overlap=True, **options)
    web = daemon.sandbox("lan", "web", bandwidth={"egress_rate": 10_000_000})
    web.serve("web", 80)
    assert daemon.outside.ask(web.address, 80).server == "web"
    assert web.mac in daemon.outside.sh("ip", "neigh", "show", web.address)
    daemon.outside.serve("far", 7000)
    assert web.ask(OUTSIDE_ADDRESS, 7000).address == web.address
    daemon.api.endpoint("lan", "vm")
    assert daemon.api.post("/networks/lan/endpoints/vm/containers", container_id="vm-1", type="tap")["device"]


def test_what_its_endpoints_cannot_have_is_refused(daemon: RunningDaemon) -> None:
    daemon.api.network("lan", "macvlan", **SEGMENT)
    with pytest.raises(RefusedError, match="ports_not_supported"):
        daemon.api.endpoint("lan", "web", mapping(80, 8080))
    with pytest.raises(RefusedError, match="bandwidth_not_supported"):
        daemon.api.endpoint("lan", "web", bandwidth={"ingress_rate": 10_000_000})
    daemon.api.endpoint("lan", "web")
    with pytest.raises(RefusedError, match="link_type"):
        daemon.api.join("lan", "web", "vm-1", type="tap")
    daemon.api.join("lan", "web", "web-1")
    for path in ("/networks/lan/endpoints/web/containers", "/services/web/backend"):
        with pytest.raises(RefusedError, match="already_joined") as caught:
            daemon.api.post(path, container_id="web-2")
        assert "service attach" not in caught.value.body["hint"]
