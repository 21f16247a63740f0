"""The host and each sandbox keep neighbour entries for each other, which a full table does not discard."""

from __future__ import annotations

import json

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.network_host import eventually
from tests.support.traffic import Place


def kept(place: Place) -> dict[str, str]:
    """Return the entries that do not count in the table, as address to MAC, without the own address."""
    entries = json.loads(place.sh("ip", "-j", "neigh", "show", "nud", "all") or "[]")
    own = getattr(place, "address", "")
    return {each["dst"]: each.get("lladdr", "") for each in entries if "extern_learn" in each and each["dst"] != own}


def bridge_addresses(daemon: RunningDaemon, name: str) -> dict[str, str]:
    """Return the addresses of a bridge that are not link-local, each with its MAC."""
    (link,) = json.loads(daemon.host.sh("ip", "-j", "address", "show", "dev", name))
    return {each["local"]: link["address"] for each in link["addr_info"] if each["scope"] == "global"}


@pytest.mark.parametrize("internal", [False, True])
def test_host_and_sandbox_keep_entries_for_each_other(daemon: RunningDaemon, internal: bool) -> None:
    daemon.api.network("foo", ipv6=True, internal=internal)
    sandbox = daemon.sandbox("foo", "one")
    assert kept(daemon.here) == {sandbox.address: sandbox.mac, sandbox.address6: sandbox.mac}
    links, prepared = json.loads(daemon.host.sh("ip", "-j", "link")), daemon.prepared()
    (port,) = [each for each in links if each["ifname"].startswith("snv") and each["ifname"] not in prepared]
    assert kept(sandbox) == bridge_addresses(daemon, port["master"])
    daemon.api.leave("foo", "one", sandbox.container)
    assert not kept(daemon.here)


def test_neighbour_entries_follow_kills_and_moved_addresses(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandboxes = [daemon.sandbox("foo", name) for name in ("one", "two", "three")]
    service = sandboxes[0]
    more = daemon.api.post("/services/one/backend", container_id="more")
    assert more
    daemon.api.leave("foo", "one", service.container)  # the further backend holds the address now
    assert kept(daemon.here)[service.address] != service.mac
    for sandbox in sandboxes[1:]:
        links = json.loads(daemon.host.sh("ip", "-j", "link"))
        (port,) = [each["ifname"] for each in links if sandbox.container in each.get("ifalias", "").split()]
        daemon.host.sh("ip", "link", "delete", port)
        daemon.api.leave("foo", sandbox.endpoint, sandbox.container)
    assert not {sandboxes[1].address, sandboxes[2].address} & set(kept(daemon.here))


def test_kept_entry_has_the_mac_of_a_new_owner_at_once(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    assert daemon.here.reaches(sandbox.address)
    daemon.api.leave("foo", "one", sandbox.container)
    daemon.api.delete("/networks/foo/endpoints/one")
    other = daemon.sandbox("foo", "two", address=sandbox.address, mac="02:00:00:00:00:77")
    assert kept(daemon.here) == {sandbox.address: other.mac}
    assert daemon.here.reaches(other.address)


def test_sandbox_on_a_bridge_of_another_program_keeps_an_entry(daemon: RunningDaemon) -> None:
    """The bridge's MAC may change, so the kernel finds it out."""
    daemon.host.sh("ip", "link", "add", "theirs", "up", "type", "bridge")
    daemon.host.sh("ip", "address", "add", "10.77.0.1/24", "dev", "theirs")
    daemon.api.network("foo", bridge_name="theirs")
    sandbox = daemon.sandbox("foo", "one")
    assert set(kept(sandbox)) == {"10.77.0.1"}
    assert sandbox.reaches("10.77.0.1")
    eventually(lambda: kept(sandbox) == bridge_addresses(daemon, "theirs"))
    daemon.api.clear()
    daemon.host.sh("ip", "link", "delete", "theirs")
