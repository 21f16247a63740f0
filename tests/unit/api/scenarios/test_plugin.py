"""The plugin protocol: each verb, twice, out of order, with half of its fields, with unknown ones."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from sandnet.api.plugin.asgi import MEDIA_TYPE
from sandnet.api.plugin.handlers import VERBS
from sandnet.config import Config
from sandnet.errors import Error
from sandnet.model import EndpointSpec, NetworkOptions, NetworkSpec
from tests.support.core_in_process import CoreInProcess
from tests.support.plugin_engine import GATEWAY, PluginEngine, Refused

NETWORK, ENDPOINT = secrets.token_hex(32), secrets.token_hex(32)
KEY = "/var/run/docker/netns/0123456789ab"


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[CoreInProcess]:
    core = CoreInProcess(Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"), dns=False))
    await core.start()
    yield core
    await core.controller.stop()
    core.workers.close()


@pytest.fixture
def engine(core: CoreInProcess) -> PluginEngine:
    return PluginEngine(core.controller)


# The protocol.


async def test_activation_names_both_drivers(engine: PluginEngine) -> None:
    for body in (b"", b"null\n", b"{}"):
        status, headers, answer = await engine.raw("/Plugin.Activate", body)
        assert (status, headers["content-type"]) == (200, MEDIA_TYPE)
        assert answer == {"Implements": ["NetworkDriver", "IpamDriver"]}


async def test_capabilities_are_local_without_replay(engine: PluginEngine) -> None:
    assert (await engine("NetworkDriver.GetCapabilities"))["Scope"] == "local"
    assert (await engine("IpamDriver.GetCapabilities"))["RequiresRequestReplay"] is False


async def test_unknown_path_is_404_and_get_is_405(engine: PluginEngine) -> None:
    assert (await engine.raw("/NetworkDriver.AllocateNetwork", b"{}"))[0] == 404
    assert (await engine.raw("/Plugin.Activate", b"", "GET"))[0] == 405


@pytest.mark.parametrize("path", VERBS)
async def test_unreadable_body_is_an_error_that_names_it(engine: PluginEngine, path: str) -> None:
    for body in (b"{", b"[]", b'"x"', b"\xff", b"{" * 5000):
        status, _, answer = await engine.raw(path, body)
        assert (status, [*answer]) == (200, ["Err", "Error"]), body


@pytest.mark.parametrize("path", VERBS)
async def test_no_verb_fails_unexpectedly_without_fields(engine: PluginEngine, path: str) -> None:
    for body in (b"", b"null", json.dumps({"Unknown": [1], "NetworkID": None}).encode()):
        _, _, answer = await engine.raw(path, body)
        assert "internal error" not in answer.get("Err", "")


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("NetworkDriver.DeleteNetwork", {"NetworkID": NETWORK}),
        ("NetworkDriver.DeleteEndpoint", {"NetworkID": NETWORK, "EndpointID": ENDPOINT}),
        ("NetworkDriver.Leave", {"NetworkID": NETWORK, "EndpointID": ENDPOINT}),
        ("NetworkDriver.RevokeExternalConnectivity", {"NetworkID": NETWORK, "EndpointID": ENDPOINT}),
        ("IpamDriver.ReleasePool", {"PoolID": "10.9.0.0/24"}),
        ("IpamDriver.ReleaseAddress", {"PoolID": "10.9.0.0/24", "Address": "10.9.0.7"}),
    ],
)
async def test_ending_what_does_not_exist_succeeds(engine: PluginEngine, verb: str, fields: dict[str, str]) -> None:
    for _ in range(2):
        assert await engine(verb, **fields) == {}


@pytest.mark.parametrize("bad", ["", "x", "../etc", "A" * 64, "a" * 63, "a" * 65])
async def test_ids_are_64_hex_digits(engine: PluginEngine, bad: str) -> None:
    with pytest.raises(Refused, match="64 hex digits"):
        await engine("NetworkDriver.CreateNetwork", NetworkID=bad)
    with pytest.raises(Refused, match="64 hex digits"):
        await engine("NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=bad)


# Pools.


async def test_two_pools_without_a_prefix_differ(engine: PluginEngine) -> None:
    assert len({await engine.pool() for _ in range(20)}) == 20


async def test_pool_of_a_network_is_granted_again_with_the_same_answer(
    engine: PluginEngine, core: CoreInProcess
) -> None:
    network, pool = await engine.network()
    assert await engine.pool(pool) == pool
    assert core.controller.networks.find(network)


async def test_pool_that_overlaps_a_network_is_refused(engine: PluginEngine) -> None:
    await engine.network(request="10.20.0.0/16")
    with pytest.raises(Refused, match="overlaps"):
        await engine.pool("10.20.5.0/24")


async def test_requested_pool_is_chosen_for_no_other_network(engine: PluginEngine, core: CoreInProcess) -> None:
    pool = await engine.pool()
    net = await core.controller.networks.create(NetworkSpec(name="own", driver="bridge"))
    assert net.ipv4
    assert str(net.ipv4.prefix) != pool
    await engine.network(pool)


async def test_requested_ipv6_subnet_may_be_that_of_a_pool(engine: PluginEngine, core: CoreInProcess) -> None:
    """An engine's network without IPv4 requests no other subnet."""
    pool = IPv6Network(await engine.pool("fd00:24::/64", v6=True))
    options = NetworkOptions(ipv6=True, subnet_ipv6=pool)
    net = await core.controller.networks.create(NetworkSpec(name="own", driver="bridge", options=options))
    assert net.ipv6
    assert net.ipv6.prefix == pool


async def test_released_pool_can_be_requested_by_another(engine: PluginEngine) -> None:
    pool = await engine.pool("10.21.0.0/24")
    await engine.address(pool, "10.21.0.9")
    await engine("IpamDriver.ReleasePool", PoolID=pool)
    assert await engine.pool("10.21.0.0/16") == "10.21.0.0/16"


async def test_pools_and_claims_survive_a_restart(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network(request="10.22.0.0/24")
    claimed = await engine.address(pool)
    other = await engine.pool("10.23.0.0/24")
    again = PluginEngine(await core.start())
    assert await again.address(pool) != claimed
    assert await again.pool("10.23.0.0/24") == other
    endpoint = secrets.token_hex(32)
    fields = {"NetworkID": network, "EndpointID": endpoint, "Interface": {"Address": claimed}}
    made = await again("NetworkDriver.CreateEndpoint", **fields)
    assert "Address" not in made["Interface"]


async def test_pool_that_a_crash_left_beside_its_network_is_forgotten(
    engine: PluginEngine, core: CoreInProcess
) -> None:
    network, pool = await engine.network(request="10.25.0.0/24")
    records = core.controller._context.engine_records
    await records.put_pool(pool, IPv4Network(pool))
    await core.start()
    assert not await core.store.list("engine/pool/")
    assert core.controller.networks.find(network)


async def test_range_is_where_addresses_come_from(engine: PluginEngine) -> None:
    request = {"Pool": "10.24.0.0/16", "SubPool": "10.24.7.0/24"}
    pool = (await engine("IpamDriver.RequestPool", **request))["PoolID"]
    await engine.network(pool)
    assert (await engine.address(pool)).startswith("10.24.7.")


@pytest.mark.parametrize("prefix", ["127.0.0.0/8", "224.0.0.0/24", "10.0.0.1/24", "x", "10.0.0.0/33"])
async def test_unfit_pool_is_refused(engine: PluginEngine, prefix: str) -> None:
    with pytest.raises(Refused):
        await engine.pool(prefix)


# Addresses.


async def test_claimed_address_is_no_one_elses(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network(request="10.30.0.0/24")
    claimed = (await engine.address(pool)).partition("/")[0]
    with pytest.raises(Error, match="taken"):
        await core.endpoint("web", network, address=IPv4Address(claimed))
    name = core.controller.networks.find(network).name
    made = await core.controller.endpoints.create(name, EndpointSpec(name="other"))
    assert made.address
    assert str(made.address.ip) != claimed


async def test_address_of_an_endpoint_is_refused_to_a_second_one(engine: PluginEngine) -> None:
    network, pool = await engine.network()
    _, address = await engine.endpoint(network, pool)
    with pytest.raises(Refused, match="taken"):
        await engine.address(pool, address.partition("/")[0])


async def test_replayed_ipam_requests_have_the_same_answers(engine: PluginEngine) -> None:
    network, pool = await engine.network()
    gateway = await engine.address(pool, **GATEWAY)
    claimed = [(await engine.endpoint(network, pool))[1] for _ in range(3)]
    assert await engine.pool(pool) == pool
    assert await engine.address(pool, gateway.partition("/")[0], **GATEWAY) == gateway
    for each in claimed:
        assert await engine.address(pool, each.partition("/")[0]) == each
    with pytest.raises(Refused, match="taken"):  # once only: then it is a second container's request
        await engine.address(pool, claimed[0].partition("/")[0])


async def test_released_address_is_free(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    endpoint, address = await engine.endpoint(network, pool)
    await engine("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)
    with pytest.raises(Error, match="taken"):  # the engine has not released it yet
        await core.endpoint("early", network, address=IPv4Address(address.partition("/")[0]))
    await engine("IpamDriver.ReleaseAddress", PoolID=pool, Address=address.partition("/")[0])
    await core.endpoint("late", network, address=IPv4Address(address.partition("/")[0]))


async def test_address_released_before_its_endpoint_stays_taken(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    endpoint, address = await engine.endpoint(network, pool)
    await engine("IpamDriver.ReleaseAddress", PoolID=pool, Address=address.partition("/")[0])
    with pytest.raises(Error, match="is held by endpoint"):
        await core.endpoint("early", network, address=IPv4Address(address.partition("/")[0]))
    await engine("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)
    await core.endpoint("late", network, address=IPv4Address(address.partition("/")[0]))


async def test_auxiliary_address_of_a_pool_is_never_given_away(engine: PluginEngine) -> None:
    pool = await engine.pool("10.31.0.0/29")
    assert await engine.address(pool, "10.31.0.2") == "10.31.0.2/29"
    network, _ = await engine.network(pool)
    assert [(await engine.endpoint(network, pool))[1] for _ in range(4)] == [f"10.31.0.{n}/29" for n in (3, 4, 5, 6)]
    with pytest.raises(Refused, match="no free address"):
        await engine.address(pool)


async def test_abandoned_pools_and_addresses_are_released(
    engine: PluginEngine, core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pool = await engine.network(request="10.32.0.0/24")
    endpoint, held = await engine.endpoint(network, pool)
    lost = await engine.address(pool)
    unused = await engine.pool("10.33.0.0/24")
    monkeypatch.setattr("sandnet.core.engine.ipam.ABANDONED", -1.0)
    await engine.pool()
    monkeypatch.undo()
    keys = {entry.key for entry in await core.store.list("engine/")}
    assert not keys & {f"engine/pool/{unused}", f"engine/claim/{lost.partition('/')[0]}"}
    assert f"engine/claim/{held.partition('/')[0]}" in keys
    await core.endpoint("web", network, address=IPv4Address(lost.partition("/")[0]))
    await engine("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)


# Networks.


async def test_network_has_the_engines_id_and_options(engine: PluginEngine, core: CoreInProcess) -> None:
    options: dict[str, Any] = {"com.docker.network.internal": True}
    generic = {"mtu": "1400", "com.docker.network.bridge.enable_icc": "false"}
    network, _ = await engine.network(request="10.40.0.0/24", generic=generic, **options)
    made = core.controller.networks.find(network)
    assert (made.options.mtu, made.options.icc, made.options.internal) == (1400, False, True)
    assert made.id == network


@pytest.mark.parametrize(
    ("generic", "words"),
    [
        ({"mtuu": "1400"}, "did you mean mtu"),
        ({"mtu": "many"}, "whole number"),
        ({"mtu": "10"}, "not between"),
        ({"internal": "true"}, "--internal"),
        ({"com.docker.network.nothing": "x"}, "unknown option"),
        ({"network": "absent"}, "no such network|network .*absent"),
        ({"network": "bridge", "mtu": "1400"}, "takes no options"),
        ({"network": "none"}, "has no link"),
    ],
)
async def test_wrong_option_is_refused_clearly(engine: PluginEngine, generic: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        await engine.network(generic=generic)


async def test_created_and_deleted_twice(engine: PluginEngine, core: CoreInProcess) -> None:
    before = set(await core.store.list(""))
    network, pool = await engine.network(request="10.41.0.0/24")
    data = [{"Pool": "10.41.0.0/24", "Gateway": "10.41.0.1/24"}]
    await engine("NetworkDriver.CreateNetwork", NetworkID=network, IPv4Data=data)
    for _ in range(2):
        await engine("NetworkDriver.DeleteNetwork", NetworkID=network)
        await engine("IpamDriver.ReleasePool", PoolID=pool)
    keys = {entry.key for entry in await core.store.list("")} - {entry.key for entry in before}
    assert not {key for key in keys if key.startswith(("engine/", "network/", "endpoint/"))}


async def test_pool_released_before_its_network_is_deleted(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    await engine("IpamDriver.ReleasePool", PoolID=pool)
    assert core.controller.networks.find(network)
    await engine("NetworkDriver.DeleteNetwork", NetworkID=network)
    assert not await core.store.list("engine/")


async def test_shared_network_gives_its_own_addresses(engine: PluginEngine, core: CoreInProcess) -> None:
    blue = await core.network("blue")
    assert blue.ipv4
    network, pool = await engine.network(generic={"network": "blue"})
    _, address = await engine.endpoint(network, pool)
    assert pool != str(blue.ipv4.prefix)
    assert address.partition("/")[2] == "24"
    other = await core.endpoint("web", "blue")
    assert other.address
    assert other.address.network == blue.ipv4.prefix
    same, pool = await engine.network(request=str(blue.ipv4.prefix), generic={"network": "blue"})
    assert pool == str(blue.ipv4.prefix)
    assert (await engine.endpoint(same, pool))[1].rpartition(".")[0] == str(blue.ipv4.prefix).rpartition(".")[0]
    with pytest.raises(Refused, match="-o network"):
        await engine.pool(network="blue")


async def test_deleting_a_shared_network_detaches_this_engine_only(engine: PluginEngine, core: CoreInProcess) -> None:
    blue = await core.network("blue")
    first, pool = await engine.network(generic={"network": "blue"})
    second, other = await engine.network(generic={"network": "blue"})
    endpoint, _ = await engine.endpoint(first, pool)
    await engine.join(first, endpoint)
    kept, _ = await engine.endpoint(second, other)
    mine = await core.endpoint("web", "blue")
    await engine("NetworkDriver.DeleteNetwork", NetworkID=first)
    left = {each.id for each in core.controller.endpoints.list(blue)}
    assert left == {kept, mine.id}
    await engine("NetworkDriver.DeleteNetwork", NetworkID=second)
    await engine("NetworkDriver.DeleteNetwork", NetworkID=second)
    assert {each.id for each in core.controller.endpoints.list(blue)} == {mine.id}


async def test_network_with_endpoints_of_others_is_not_deleted(engine: PluginEngine, core: CoreInProcess) -> None:
    network, _ = await engine.network()
    await core.endpoint("web", network)
    with pytest.raises(Refused, match="active endpoints"):
        await engine("NetworkDriver.DeleteNetwork", NetworkID=network)


async def test_other_ipam_drivers_addresses_are_taken_as_they_come(engine: PluginEngine, core: CoreInProcess) -> None:
    network = secrets.token_hex(32)
    data = [{"Pool": "10.42.0.0/24", "Gateway": "10.42.0.1/24"}]
    await engine("NetworkDriver.CreateNetwork", NetworkID=network, IPv4Data=data, IPv6Data=None, Options=None)
    fields = {"NetworkID": network, "EndpointID": secrets.token_hex(32), "Interface": {"Address": "10.42.0.7/24"}}
    assert (await engine("NetworkDriver.CreateEndpoint", **fields))["Interface"].keys() == {"MacAddress"}
    null = secrets.token_hex(32)
    await engine("NetworkDriver.CreateNetwork", NetworkID=null, IPv4Data=[{"Pool": "0.0.0.0/0"}])
    made = await engine("NetworkDriver.CreateEndpoint", NetworkID=null, EndpointID=secrets.token_hex(32), Interface={})
    assert made["Interface"].keys() == {"Address", "MacAddress"}


# Endpoints and joins.


async def test_join_leaves_the_inner_end_on_the_host(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network(request="10.50.0.0/24")
    endpoint, _ = await engine.endpoint(network, pool)
    joined = await engine.join(network, endpoint, KEY)
    assert joined["InterfaceName"]["SrcName"].startswith("sne")
    assert (joined["Gateway"], joined["DisableGatewayService"]) == ("10.50.0.1", True)
    assert await engine.join(network, endpoint, KEY) == joined
    assert len(core.veths()) == 1
    for _ in range(2):
        await engine("NetworkDriver.Leave", NetworkID=network, EndpointID=endpoint)
    assert len(core.veths()) == 1
    for _ in range(2):
        await engine("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)
    assert core.veths() == []
    assert not core.controller.sandboxes.list()


async def test_join_elsewhere_replaces_the_first(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    endpoint, _ = await engine.endpoint(network, pool)
    first = await engine.join(network, endpoint, KEY)
    second = await engine.join(network, endpoint, KEY[:-1] + "c")
    assert first["InterfaceName"] != second["InterfaceName"]
    assert len(core.veths()) == 1


async def test_join_after_the_link_was_lost_makes_another(engine: PluginEngine, core: CoreInProcess) -> None:
    core.unattended()
    network, pool = await engine.network()
    endpoint, _ = await engine.endpoint(network, pool)
    await engine.join(network, endpoint, KEY)
    core.kernel.links.delete(core.veths())
    await engine.join(network, endpoint, KEY)
    assert len(core.veths()) == 1


async def test_one_container_on_two_networks(engine: PluginEngine, core: CoreInProcess) -> None:
    joins = []
    for _ in range(2):
        network, pool = await engine.network()
        endpoint, _ = await engine.endpoint(network, pool)
        await engine.join(network, endpoint, KEY)
        joins.append((network, endpoint))
    (sandbox,) = core.controller.sandboxes.list()
    assert len(core.controller.sandboxes.attachments(sandbox)) == 2
    for network, endpoint in joins:
        await engine("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)
    assert not core.controller.sandboxes.list()


async def test_internal_network_has_no_gateway(engine: PluginEngine) -> None:
    options: dict[str, Any] = {"com.docker.network.internal": True}
    network, pool = await engine.network(**options)
    endpoint, _ = await engine.endpoint(network, pool)
    joined = await engine.join(network, endpoint)
    assert (joined["Gateway"], joined["DisableGatewayService"]) == ("", True)


async def test_container_and_link_are_as_they_were_after_a_restart(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    endpoint, _ = await engine.endpoint(network, pool)
    joined = await engine.join(network, endpoint, KEY)
    before = core.veths()
    again = PluginEngine(await core.start())
    assert core.veths() == before
    assert await again.join(network, endpoint, KEY) == joined


async def test_container_whose_link_is_gone_is_removed_at_a_start(engine: PluginEngine, core: CoreInProcess) -> None:
    core.unattended()
    network, pool = await engine.network()
    endpoint, address = await engine.endpoint(network, pool)
    await engine.join(network, endpoint, KEY)
    core.kernel.links.delete(core.veths())
    controller = await core.start()
    assert not controller.sandboxes.list()
    (left,) = controller.endpoints.list(controller.networks.find(network))
    assert (left.id, str(left.address)) == (endpoint, address)  # the engine deletes it


# Published ports.


async def test_ports_are_published_and_withdrawn_twice(engine: PluginEngine, core: CoreInProcess) -> None:
    network, pool = await engine.network()
    endpoint, _ = await engine.endpoint(network, pool)
    await engine.join(network, endpoint, KEY)
    ports = [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}]
    fields = {"NetworkID": network, "EndpointID": endpoint}
    for _ in range(2):
        await engine(
            "NetworkDriver.ProgramExternalConnectivity", **fields, Options={"com.docker.network.portmap": ports}
        )
    assert {port.host_port for port in core.controller.endpoints.get(endpoint).ports} == {8080}
    for _ in range(2):
        await engine("NetworkDriver.RevokeExternalConnectivity", **fields)
    assert core.controller.endpoints.get(endpoint).ports == ()
    await engine("NetworkDriver.ProgramExternalConnectivity", **fields, Options=None)
    assert core.controller.endpoints.get(endpoint).ports == ()


@pytest.mark.parametrize("ports", [[{"Proto": 6, "Port": 0}], [{"Port": 99999}], "x", [[]], [{"Proto": "tcp"}]])
async def test_wrong_port_map_is_refused(engine: PluginEngine, ports: object) -> None:
    network, pool = await engine.network()
    endpoint, _ = await engine.endpoint(network, pool)
    fields = {"NetworkID": network, "EndpointID": endpoint, "Options": {"com.docker.network.portmap": ports}}
    with pytest.raises(Refused, match="portmap"):
        await engine("NetworkDriver.ProgramExternalConnectivity", **fields)
