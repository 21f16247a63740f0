"""``PATCH /networks/{network}`` and ``sandnet network update``: what changes while containers use a network."""

from __future__ import annotations

import pytest

from tests.support.daemon import JSON, SANDNET, RefusedError, RunningDaemon, state_of


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_mtu_reaches_bridge_and_links_in_use(daemon: RunningDaemon, restart: bool) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", mtu=1400, bridge_name="mine0")
    web, db = daemon.sandbox("foo", "web"), daemon.sandbox("foo", "db")
    daemon.api.patch("/networks/foo", options={"mtu": 1300})
    if restart:
        daemon.stop()
        daemon.start()
    for place in (web, db):
        assert "mtu 1300" in place.sh("ip", "link", "show", "eth0")
    ports = daemon.host.sh("ip", "link", "show", "master", "mine0") + daemon.host.sh("ip", "link", "show", "mine0")
    assert ports.count("mtu 1300") == 3
    web.sh("ip", "link", "set", "eth0", "mtu", "1200")
    daemon.api.post("/reconcile", fix=True)
    assert "mtu 1300" in web.sh("ip", "link", "show", "eth0")
    assert daemon.api.reported("foo")["options"]["mtu"] == 1300
    web.sh("ping", "-c1", "-W10", "10.9.1.3")


def test_search_domains_reach_files_in_use(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web")
    daemon.api.join("foo", "web", "c1")
    path = next(each for each in daemon.api.get("/sandboxes", verbose="true") if each["id"] == "c1")["resolv_conf_path"]
    daemon.api.patch("/networks/foo", options={"dns_search": ["a.example"], "dns_options": ["ndots:4"]})
    text = daemon.host.sh("cat", path)
    assert "search a.example" in text
    assert "ndots:4" in text
    daemon.api.patch("/networks/foo", options={"dns_search": []})
    assert "a.example" not in daemon.host.sh("cat", path)


def test_ipv6_is_added_for_new_endpoints(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    old = daemon.sandbox("foo", "old")
    daemon.api.patch("/networks/foo", options={"subnet_ipv6": "fd00:9:1::/64"})
    new, other = daemon.sandbox("foo", "new"), daemon.sandbox("foo", "other")
    address = daemon.api.reported("foo", "other")["address_ipv6"].partition("/")[0]
    new.sh("ping", "-6", "-c1", "-W10", address)
    new.sh("ping", "-6", "-c1", "-W10", "fd00:9:1::1")
    old.sh("ping", "-c1", "-W10", "10.9.1.3")
    assert daemon.api.reported("foo", "old")["address_ipv6"] is None
    assert other
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []
    before = state_of(new)
    daemon.stop()
    daemon.start()
    assert state_of(new) == before


def test_range_changes_for_new_endpoints(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", ip_range="10.9.1.128/31")
    for name in ("a", "b"):
        daemon.api.endpoint("foo", name)
    with pytest.raises(RefusedError):
        daemon.api.endpoint("foo", "c")
    daemon.api.patch("/networks/foo", options={"ip_range": "10.9.1.128/29"})
    held = [daemon.api.reported("foo", name)["address"] for name in ("a", "b")]
    for name in ("c", "d"):
        daemon.api.endpoint("foo", name)
        held.append(daemon.api.reported("foo", name)["address"])
    assert len(set(held)) == 4
    assert {address.rpartition(".")[0] for address in held} == {"10.9.1"}


def test_labels_are_merged_by_the_daemon(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.patch("/networks/foo", labels={"a": "1", "b": "1"})
    daemon.api.patch("/networks/foo", label_changes={"a": None, "b": "2", "c": "3", "absent": None})
    assert daemon.api.reported("foo")["labels"] == {"b": "2", "c": "3"}


def test_updates_of_labels_at_once_lose_none(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    names = [f"l{number}" for number in range(8)]
    update = (str(SANDNET), "-H", f"unix://{daemon.run}/sandnet.sock", "network", "update", "foo", "--label")
    running = [daemon.host.popen(*update, f"{name}=1") for name in names]
    assert [process.wait(60) for process in running] == [0] * len(names)
    assert sorted(daemon.api.reported("foo")["labels"]) == sorted(names)


def test_labels_are_replaced(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.patch("/networks/foo", labels={"a": "1"})
    daemon.api.patch("/networks/foo", labels={"b": "2"})
    assert daemon.api.reported("foo")["labels"] == {"b": "2"}


def test_command_changes_a_network_in_use(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", ingress_rate=10_000_000)
    update = ("network", "update", "foo")
    daemon.cli(*update, "--label", "a=1", "--label", "b=2")
    web = daemon.sandbox("foo", "web")
    daemon.cli(*update, "--mtu", "1300", "--label", "b=3", "--label-rm", "a", "--dns-search", "x.example")
    assert "mtu 1300" in web.sh("ip", "link", "show", "eth0")
    daemon.cli(*update, "--subnet-ipv6", "fd00:9:1::/64", "--ingress-rate", "none", "-o", "dns_search=[]")
    found = daemon.api.reported("foo")
    assert found["labels"] == {"b": "3"}
    assert found["subnets"] == ["10.9.1.0/24", "fd00:9:1::/64"]
    assert found["options"] == {"subnet": "10.9.1.0/24", "mtu": 1300, "ipv6": True, "subnet_ipv6": "fd00:9:1::/64"}
    with pytest.raises(AssertionError, match="internal cannot change while the network exists"):
        daemon.cli(*update, "--internal")
    assert daemon.api.reported("foo") == found


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"options": {"subnet": "10.9.2.0/24"}}, 409, "subnet cannot change while the network exists"),
        ({"options": {"internal": True}}, 409, "internal cannot change"),
        ({"options": {"ipv6": False}}, 409, "ipv6 cannot change"),
        ({"options": {"gateway_ipv6": "fd00:9:1::9"}}, 409, "gateway_ipv6 cannot change"),
        ({"options": {"mtu": 1200}}, 400, "mtu"),
        ({"options": {"ip_range": "10.9.3.0/25"}}, 400, "ip_range"),
        ({"options": {"mt": 1400}}, 400, "unknown option"),
        ({}, 400, "nothing is to be changed"),
        ({"labels": {"a": 1}}, 400, "labels"),
        ({"labels": {"a": "1"}, "label_changes": {"b": "1"}}, 400, "label_changes"),
        ({"label_changes": {f"l{number}": "1" for number in range(300)}}, 400, "too many"),
    ],
)
def test_refused_change_leaves_the_network(daemon: RunningDaemon, body: JSON, status: int, message: str) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", subnet_ipv6="fd00:9:1::/64")
    before = daemon.api.reported("foo")
    with pytest.raises(RefusedError) as caught:
        daemon.api.patch("/networks/foo", **body)
    assert caught.value.status == status
    assert message in caught.value.message
    assert daemon.api.reported("foo") == before
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []
