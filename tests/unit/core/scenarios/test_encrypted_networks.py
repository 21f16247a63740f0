"""Encrypted networks of several hosts: what hosts publish, whom they accept, and which hosts refuse them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sandnet.api.libnetwork import encode as api
from sandnet.core.cluster.shared_values import HOSTS, HostRecord, decode, encode
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.drivers.overlay.encryption import KEY_FILE
from sandnet.errors import Error
from sandnet.kernel.wireguard.base import Tunnel
from sandnet.model import Address
from sandnet.model.tunnel import TUNNEL_LINK, HostTunnel, tunnel_address
from sandnet.stores.base import Put
from tests.support.conditions import until
from tests.support.hosts_in_process import DRIVER, HostInProcess, several_hosts

Hosts = list[HostInProcess]
MISSING = "this kernel has no WireGuard, and wireguard-go is not installed: apt-get install wireguard-go"


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


def published(host: HostInProcess, name: str) -> HostRecord:
    entry = host.cluster.contents.get(f"{HOSTS}{name}")
    assert entry
    return decode(entry.value, HostRecord)


def keys(host: HostInProcess) -> tuple[str, ...]:
    """The public keys that a host has published."""
    tunnel = published(host, host.name).tunnel
    assert tunnel
    return tunnel.keys


def tunnel(host: HostInProcess) -> Tunnel | None:
    """The tunnel in a host's kernel."""
    return host.kernel.tunnels.made.get(TUNNEL_LINK)


def addresses(host: HostInProcess) -> set[tuple[Address, tuple[Address, ...]]]:
    """Where a host sends what is for other hosts, and from where it accepts it besides."""
    driver = host.controller._context.drivers[DRIVER]
    assert isinstance(driver, OverlayDriver)
    peers = [peer for table in driver._tables.values() for peer in table._peers.values()]
    return {(peer.host_address, peer.further_hosts) for peer in peers}


def limit(host: HostInProcess) -> str:
    """What networks over several hosts cannot have on a host, as health reports it."""
    (found,) = (each for each in host.controller.health().drivers if each.name == DRIVER)
    assert found.available
    return found.reason


def accepted(host: HostInProcess) -> set[str]:
    """The keys that a host accepts."""
    found = tunnel(host)
    return {peer.public_key for peer in (found.peers if found else None) or ()}


async def publish(host: HostInProcess, tunnel: HostTunnel | None) -> None:
    """Replace what a host has published, until it publishes itself again."""
    record = replace(published(host, host.name), tunnel=tunnel)
    host.cluster.transact([Put(f"{HOSTS}{host.name}", encode(record))], [], {})


async def test_hosts_know_each_others_keys_and_addresses(hosts: Hosts) -> None:
    one, two = hosts
    await one.network(encrypted=True)
    await two.in_line()
    await one.endpoint("web")
    await one.join("c1", "web")
    await until(lambda: addresses(two) == {(tunnel_address(keys(one)[0]), ())})
    await until(lambda: (accepted(one), accepted(two)) == ({*keys(two)}, {*keys(one)}))
    found, shared = tunnel(two), one.cluster.contents.get(f"{HOSTS}h2")
    assert found
    assert shared
    assert found.private_key.encode() not in shared.value
    assert [str(peer.host) for peer in found.peers or ()] == ["10.99.0.1"]


async def test_next_key_of_a_host_is_accepted_before_it_is_used(hosts: Hosts) -> None:
    one, two = hosts
    await one.network(encrypted=True)
    await two.in_line()
    await one.endpoint("web")
    await one.join("c1", "web")
    await until(lambda: addresses(two))
    key, following = keys(one)[0], two.kernel.tunnels.public_key(two.kernel.tunnels.new_key())
    await publish(one, HostTunnel(port=51871, keys=(key, following)))
    await until(lambda: addresses(two) == {(tunnel_address(key), (tunnel_address(following),))})
    await until(lambda: accepted(two) == {key, following})
    await publish(one, HostTunnel(port=51871, keys=(following,)))
    await until(lambda: addresses(two) == {(tunnel_address(following), ())})
    await until(lambda: accepted(two) == {following})


async def test_host_without_wireguard_refuses_with_the_reason(hosts: Hosts) -> None:
    one, two = hosts
    two.kernel.tunnels.reason = MISSING
    with pytest.raises(Error, match="apt-get install wireguard-go") as refused:
        await two.network(encrypted=True)
    assert refused.value.code == "no_encryption"
    await one.network("blue", encrypted=True)
    await until(lambda: any("apt-get install" in problem for problem in two.controller.health().problems))
    assert tunnel(two) is None
    with pytest.raises(Error, match="apt-get install wireguard-go"):
        two.controller.networks.find("blue")
    two.kernel.tunnels.reason = ""
    await until(lambda: two.controller.networks.list(name="blue"))
    assert tunnel(two)


async def test_host_without_wireguard_is_shown_as_one_with_the_reason(hosts: Hosts) -> None:
    one, two = hosts
    await two.stop()
    two.kernel.tunnels.reason = MISSING
    await two.start()
    await until(lambda: published(two, "h2").tunnel is None)
    await until(lambda: not api.node(one.controller.nodes.find("h2")).encryption)
    assert api.node(two.controller.nodes.find("h1")).encryption
    assert limit(two) == MISSING
    assert limit(one) == ""
    two.kernel.tunnels.reason = ""
    two.wake()
    await until(lambda: api.node(one.controller.nodes.find("h2")).encryption)
    assert limit(two) == ""


async def test_host_without_a_key_shows_the_reason(hosts: Hosts, tmp_path: Path) -> None:
    one, _ = hosts
    await one.stop()
    key = tmp_path / "h1" / "state" / KEY_FILE
    key.unlink()
    key.mkdir()
    await one.start()
    await until(lambda: limit(one).startswith("encrypted networks need a key: "))
    assert str(key) in limit(one)


async def test_tunnel_goes_with_the_last_encrypted_network(hosts: Hosts) -> None:
    one, two = hosts
    for name in ("red", "blue"):
        await one.network(name, encrypted=True)
    await two.in_line()
    assert tunnel(two)
    await two.controller.removal.network("red")
    assert tunnel(two)
    await two.controller.removal.network("blue")
    assert tunnel(two) is None
    await until(lambda: tunnel(one) is None)


async def test_tunnel_stays_for_another_network_after_a_restart(hosts: Hosts) -> None:
    one, _ = hosts
    for name in ("red", "blue"):
        await one.network(name, encrypted=True)
    await one.stop()
    await one.start()
    await one.controller.removal.network("red")
    assert tunnel(one)
    await one.controller.removal.network("blue")
    assert tunnel(one) is None


async def test_down_removes_the_tunnel(hosts: Hosts) -> None:
    one, _ = hosts
    await one.network(encrypted=True)
    assert tunnel(one)
    await one.stop()
    assert tunnel(one)
    assert await one.take_down() == []
    assert tunnel(one) is None


async def test_record_without_keys_leaves_a_host_out(hosts: Hosts) -> None:
    one, two = hosts
    await one.network(encrypted=True)
    await two.in_line()
    await one.endpoint("web")
    await one.join("c1", "web")
    await until(lambda: addresses(two))
    for sent in (None, HostTunnel(port=51871, keys=("--peer", "x")), HostTunnel(port=0, keys=keys(two))):
        await publish(one, sent)
        await until(lambda: accepted(two) == set())


async def test_number_of_keys_of_a_host_is_bounded(hosts: Hosts) -> None:
    """Another program may write any number of them into the store."""
    one, two = hosts
    await one.network(encrypted=True)
    await two.in_line()
    await one.endpoint("web")
    await one.join("c1", "web")
    await until(lambda: addresses(two))
    made = two.kernel.tunnels
    many = (*keys(one), *(made.public_key(made.new_key()) for _ in range(1000)))
    await publish(one, HostTunnel(port=51871, keys=many))
    await until(lambda: accepted(two) == {*many[:2]})
    await until(lambda: addresses(two) == {(tunnel_address(many[0]), (tunnel_address(many[1]),))})


async def test_lost_wireguard_is_noticed_while_the_daemon_runs(hosts: Hosts) -> None:
    """Its key had been announced, and no one looked again until a restart."""
    one, two = hosts
    assert keys(two)
    two.kernel.tunnels.reason = MISSING
    two.wake()
    await until(lambda: published(two, "h2").tunnel is None)
    await until(lambda: limit(two) == MISSING)
    await until(lambda: not api.node(one.controller.nodes.find("h2")).encryption)


async def test_tunnel_in_use_goes_on_without_the_program_that_made_it(hosts: Hosts) -> None:
    one, two = hosts
    await one.network(encrypted=True)
    await two.in_line()
    before = keys(two)
    two.kernel.tunnels.reason = MISSING
    two.wake()
    await until(lambda: limit(two) == MISSING)
    await two.in_line()
    assert keys(two) == before
    assert accepted(one) == {*before}
