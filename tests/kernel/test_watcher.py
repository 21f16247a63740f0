"""News of the kernel, as they gather."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandnet.kernel.linux import watcher
from sandnet.kernel.linux.kernel import LinuxFirewall
from sandnet.kernel.linux.watcher import LinuxWatcher
from tests.support.network_host import Host


@pytest.fixture
def watching(host: Host) -> Iterator[LinuxWatcher]:
    """Listens since the host was empty."""
    firewall = LinuxFirewall()
    made = LinuxWatcher(firewall)
    host.run(made.read)
    yield made
    made.close()
    firewall.close()


def test_deleted_links_are_not_remembered(host: Host, watching: LinuxWatcher) -> None:
    remembered = dict(watching._names)
    gone: set[str] = set()
    for number in range(3):
        host.sh("ip", "link", "add", f"br{number}", "type", "bridge")
        assert f"br{number}" in host.run(watching.read).links
        host.sh("ip", "link", "del", f"br{number}")
        gone |= host.run(watching.read).deleted
    assert gone == {"br0", "br1", "br2"}
    assert watching._names == remembered


def test_links_into_a_namespace_are_known_until_they_are_deleted(host: Host, watching: LinuxWatcher) -> None:
    one, two = host.container(), host.container()
    for link, place in ("v1", one), ("v2", one), ("v3", two):
        host.sh("ip", "link", "add", link, "type", "veth", "peer", "name", f"{link}i", "netns", place.path)
    host.run(watching.read)
    number = watching._namespaces["v1"]
    assert sorted(watching.links_into(number)) == ["v1", "v2"]
    host.sh("ip", "link", "del", "v1")
    host.run(watching.read)
    assert [*watching.links_into(number)] == ["v2"]
    host.sh("ip", "link", "del", "v2")
    host.run(watching.read)
    assert not watching.links_into(number)
    assert watching._links_into.keys() == set(watching._namespaces.values())


def test_changed_addresses_and_routes_report_their_links(host: Host, watching: LinuxWatcher) -> None:
    host.sh("ip", "link", "add", "br0", "type", "bridge")
    host.sh("ip", "link", "set", "br0", "up")
    host.run(watching.read)
    host.sh("ip", "address", "add", "192.0.2.1/24", "dev", "br0")
    assert host.run(watching.read).extended == {"br0"}
    host.sh("ip", "route", "add", "unreachable", "10.9.0.0/16")
    assert host.run(watching.read).extended == {""}
    assert not host.run(watching.read).extended


def test_parameters_of_new_links_and_of_ports_are_not_reported(host: Host, watching: LinuxWatcher) -> None:
    host.sh("ip", "link", "add", "br0", "type", "bridge")
    host.sh("ip", "link", "add", "snv0123456789", "type", "veth", "peer", "inner")
    assert not host.run(watching.read).reduced
    host.sh("ip", "link", "add", "br1", "type", "bridge")
    host.sh("sysctl", "-q", "-w", "net.ipv4.conf.br1.forwarding=1")  # in the same read as the new link
    assert host.run(watching.read).reduced == {"br1"}
    for name in ("br0", "snv0123456789"):
        host.sh("sysctl", "-q", "-w", f"net.ipv4.conf.{name}.forwarding=1")
        host.sh("sysctl", "-q", "-w", f"net.ipv4.conf.{name}.forwarding=0")
    assert host.run(watching.read).reduced == {"br0"}


def test_changes_beyond_one_read_come_with_the_next(
    host: Host, watching: LinuxWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "_MOST", 1)
    names = {f"br{number}" for number in range(3)}
    for name in names:
        host.sh("ip", "link", "add", name, "type", "bridge")
    found = [set(host.run(watching.read).links) for _ in range(20)]
    assert set().union(*found) == names
    assert max(map(len, found)) == 1


def test_change_of_a_link_of_ours_by_another_program_is_reported(host: Host, watching: LinuxWatcher) -> None:
    host.sh("ip", "link", "add", "snv0123456789", "type", "veth", "peer", "name", "peer0")
    assert "snv0123456789" in host.run(watching.read).links
    host.sh("ip", "link", "set", "snv0123456789", "mtu", "1400")
    assert host.run(watching.read).links["snv0123456789"].link.mtu == 1400
    host.sh("ip", "link", "del", "snv0123456789")
    assert "snv0123456789" in host.run(watching.read).deleted
