"""Docker's Engine API over a whole daemon in memory: paths, statuses, bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandnet.api.middleware.browser_protection import BrowserProtection
from sandnet.core.engine.remote_driver import EngineNetworkSpec
from sandnet.model import Endpoint, EndpointSpec, NetworkOptions
from tests.support.in_process import Served, exchange, make, served

RESERVED = {"a": "10.9.0.1"}
BASE = "/v1.55/networks"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


async def create(daemon: Served, name: str = "blue", **body: Any) -> httpx.Response:
    return await daemon.client.post(f"{BASE}/create", json={"Name": name, **body})


async def connect(daemon: Served, container: str, network: str = "blue", **settings: Any) -> httpx.Response:
    body = {"Container": container, "EndpointConfig": settings or None}
    return await daemon.client.post(f"{BASE}/{network}/connect", json=body)


async def disconnect(daemon: Served, container: str, *, force: bool = False) -> httpx.Response:
    return await daemon.client.post(f"{BASE}/blue/disconnect", json={"Container": container, "Force": force})


async def sandbox(daemon: Served, container: str, name: str = "web", network: str = "red") -> None:
    if network not in [each.name for each in daemon.controller.networks.list()]:
        await make(daemon.client, "/networks", name=network)
    await make(daemon.client, f"/networks/{network}/endpoints", name=name)
    await make(daemon.client, f"/networks/{network}/endpoints/{name}/containers", container_id=container)


def endpoints(daemon: Served) -> list[str]:
    return [each.name for each in daemon.controller.endpoints.list(daemon.controller.networks.find("blue"))]


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    """A failure in Docker's one shape."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["message"]
    for word in words:
        assert word in response.json()["message"]


# Paths.


@pytest.mark.parametrize("path", ["/_ping", "/v1.40/_ping", "/v1.55/_ping"])
async def test_ping_reports_the_version(daemon: Served, path: str) -> None:
    for method in ("GET", "HEAD"):
        response = await daemon.client.request(method, path)
        assert response.status_code == 200
        assert response.headers["api-version"] == "1.55"
        assert response.text == ("OK" if method == "GET" else "")


async def test_daemon_describes_itself_to_clients_of_docker(daemon: Served) -> None:
    version = (await daemon.client.get("/v1.41/version")).json()
    assert (version["Version"], version["ApiVersion"], version["MinAPIVersion"]) == ("1.2.3", "1.55", "1.40")
    assert (await daemon.client.get("/version")).json()["ApiVersion"] == "1.55"
    info = (await daemon.client.get("/info")).json()
    assert {"bridge", "host", "null"} <= set(info["Plugins"]["Network"])
    assert info == (await daemon.client.get("/v1.44/info")).json()


@pytest.mark.parametrize("prefix", ["/v1.40", "/v1.47", "/v1.55"])
async def test_versions_of_the_engine_api(daemon: Served, prefix: str) -> None:
    found = (await daemon.client.get(f"{prefix}/networks")).json()
    assert [each["Name"] for each in found] == ["none", "host", "bridge"]
    assert set(found[0]) >= {"Id", "Scope", "IPAM", "Containers", "EnableIPv4"}


@pytest.mark.parametrize("prefix", ["", "/v1.19", "/v1.20"])
async def test_other_versions_are_of_libnetwork(daemon: Served, prefix: str) -> None:
    assert [each["name"] for each in (await daemon.client.get(f"{prefix}/networks")).json()] == [
        "none",
        "host",
        "bridge",
    ]
    if prefix:
        assert (await daemon.client.get(f"{prefix}/_ping")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/containers/json", 501),
        ("POST", "/containers/create", 501),
        ("GET", "/images/json", 501),
        ("POST", "/build", 501),
        ("GET", "/events", 501),
        ("GET", "/nope", 404),
        ("GET", "/", 404),
        ("GET", "/networks/", 404),
        ("GET", "/networks/a/b", 404),
        ("PUT", "/networks/bridge", 405),
        ("DELETE", "/_ping", 405),
        ("GET", "/networks/bridge/connect", 405),
        ("GET", "/v1.41/networks", 404),
    ],
)
async def test_what_is_not_served_has_a_message(daemon: Served, method: str, path: str, status: int) -> None:
    response = await daemon.client.request(method, f"/v1.41{path}")
    assert response.status_code == status
    assert response.json()["message"]


async def test_body_of_wrong_type_or_size_is_refused(daemon: Served) -> None:
    for content in (b"{", b"[]", b'{"Name": 1}', b'{"Labels": {"a": 1}}', b"\xff", b"[" * 5000):
        response = await daemon.client.post(f"{BASE}/create", content=content)
        assert_refused(response, 400, "invalid body")
    assert_refused(await daemon.client.post(f"{BASE}/create", content=b" " * (1 << 21)), 413)
    assert_refused(await daemon.client.post(f"{BASE}/create"), 400, "name")
    sent = await exchange(daemon.app, "POST", f"{BASE}/create".encode(), [{"type": "http.disconnect"}])
    assert sent[0]["status"] == 400


# Networks.


async def test_network_has_all_that_was_requested(daemon: Served) -> None:
    pools = [
        {"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25", "Gateway": "10.9.0.254", "AuxiliaryAddresses": RESERVED},
        {"Subnet": "fd00:9::/64", "AuxiliaryAddresses": {"b": "fd00:9::1"}},
    ]  # fmt: skip
    options = {"com.docker.network.bridge.enable_icc": "false", "max_flows": "99", "dns_search": "a.example,b.example"}
    options |= {"host_access": "53/udp,80/tcp"}
    body: dict[str, Any] = {
        "IPAM": {"Driver": "default", "Config": pools},
        "Options": options,
        "Labels": {"x": "y"},
        "Internal": True,
    }
    made = await create(daemon, EnableIPv6=True, CheckDuplicate=True, Driver="default", **body)
    assert made.status_code == 201
    shown = (await daemon.client.get(f"{BASE}/{made.json()['Id'][:12]}")).json()
    assert shown["IPAM"]["Config"][0] == {key: value for key, value in pools[0].items() if key != "Gateway"}
    assert shown["IPAM"]["Config"][1] == pools[1]
    assert (shown["Options"], shown["Labels"], shown["Internal"], shown["EnableIPv6"]) == (
        options,
        {"x": "y"},
        True,
        True,
    )
    assert shown["Status"]["IPAM"]["Subnets"]["10.9.0.0/24"] == {"IPsInUse": 4, "DynamicIPsAvailable": 125}
    again = await create(daemon, "copy", Options={**shown["Options"]})
    assert again.status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"Name": "bridge"}, 409, "already exists"),
        ({"Name": "a.b"}, 400, "invalid network name"),
        ({"Driver": "overnet"}, 404, "no such driver"),
        ({"Driver": "../x"}, 404, "no such driver"),
        ({"Scope": "swarm"}, 503, "swarm"),
        ({"Ingress": True}, 503, "swarm"),
        ({"ConfigOnly": True}, 501, "configuration"),
        ({"ConfigFrom": {"Network": "x"}}, 501, "configuration"),
        ({"EnableIPv4": False}, 501, "IPv4"),
        ({"IPAM": {"Driver": "other"}}, 404, "IPAM driver"),
        ({"IPAM": {"Options": {"a": "b"}}}, 400, "IPAM driver"),
        ({"IPAM": {"Config": [{"IPRange": "10.9.0.0/25"}]}}, 400, "Subnet"),
        ({"IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}, {"Subnet": "10.8.0.0/24"}]}}, 400, "one subnet"),
        ({"IPAM": {"Config": [{"Subnet": "fd00:9::/64"}]}}, 400, "EnableIPv6"),
        (
            {"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd00::/64", "IPRange": "fd00::/80"}]}},
            501,
            "whole subnet",
        ),
        ({"IPAM": {"Config": [{"Subnet": "x"}]}}, 400, "CIDR"),
        ({"IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"a": "10.8.0.1"}}]}}, 400, "not inside"),
        ({"IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"a": "x"}}]}}, 400, "IP address"),
        (
            {
                "IPAM": {
                    "Config": [
                        {"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1", "AuxiliaryAddresses": {"a": "10.9.0.1"}}
                    ]
                }
            },
            400,
            "gateway",
        ),
        (
            {"IPAM": {"Config": [{"Subnet": "10.9.0.0/30", "AuxiliaryAddresses": {"a": "10.9.0.1", "b": "10.9.0.2"}}]}},
            400,
            "all addresses",
        ),
        ({"Options": {"subnet": "10.9.0.0/24"}}, 400, "--subnet"),
        ({"Options": {"mtuu": "1400"}}, 400, "mtu"),
        ({"Labels": {str(number): "" for number in range(300)}}, 400, "labels"),
    ],
)
async def test_invalid_network_is_refused(daemon: Served, body: dict[str, Any], status: int, word: str) -> None:
    assert_refused(await create(daemon, **body), status, word)
    assert len(daemon.controller.networks.list()) == 3


async def test_driver_of_our_plugin_is_bridge(daemon: Served) -> None:
    made = await create(daemon, Driver="sandnet", IPAM={"Driver": "sandnet"})
    assert (await daemon.client.get(f"{BASE}/{made.json()['Id']}")).json()["Driver"] == "bridge"


async def test_ignored_parts_are_warned_of(daemon: Served) -> None:
    made = await create(daemon, Attachable=True, Options={"com.docker.network.bridge.other": "1"})
    assert "com.docker.network.bridge.other has no effect" in made.json()["Warning"]
    assert "attachable has no effect" in made.json()["Warning"]


async def test_network_is_listed_and_removed(daemon: Served) -> None:
    await create(daemon)
    filters = {"filters": json.dumps({"name": {"^blue$": True}})}
    assert [each["Name"] for each in (await daemon.client.get(BASE, params=filters)).json()] == ["blue"]
    assert_refused(await daemon.client.get(BASE, params={"filters": '{"x":["y"]}'}), 400, "invalid filter")
    assert (await daemon.client.get(f"{BASE}/blue", params={"verbose": "true", "scope": "local"})).status_code == 200
    assert_refused(await daemon.client.get(f"{BASE}/blue", params={"scope": "swarm"}), 404)
    assert_refused(await daemon.client.delete(f"{BASE}/host"), 403, "predefined")
    removed = await daemon.client.delete(f"{BASE}/blue")
    assert (removed.status_code, removed.content) == (204, b"")
    assert_refused(await daemon.client.delete(f"{BASE}/blue"), 404)


async def test_prune_leaves_networks_in_use(daemon: Served) -> None:
    await create(daemon, "idle")
    await create(daemon)
    await make(daemon.client, "/networks/blue/endpoints", name="a")
    pruned = (await daemon.client.post(f"{BASE}/prune")).json()
    assert pruned == {"NetworksDeleted": ["idle"]}
    assert "blue" in [each.name for each in daemon.controller.networks.list()]


# Containers.


async def test_container_is_connected_with_an_endpoint_of_its_name(daemon: Served) -> None:
    await create(daemon)
    await sandbox(daemon, "c1")
    mac = "02:42:ac:00:00:09"
    settings: dict[str, Any] = {"Aliases": ["Shop"], "MacAddress": mac, "GwPriority": 5}
    settings["DriverOpts"] = {"com.docker.network.endpoint.ifname": "lan0"}
    assert (await connect(daemon, "web", **settings)).status_code == 200
    (found,) = daemon.controller.endpoints.list(daemon.controller.networks.find("blue"))
    assert (found.name, found.aliases, found.mac) == ("web", ("shop",), mac)
    (backend,) = daemon.controller.services.backends(found)
    assert (backend.interface, backend.gateway_priority) == ("lan0", 5)
    shown = (await daemon.client.get(f"{BASE}/blue")).json()["Containers"]
    assert shown["c1"]["EndpointID"] == found.id
    assert_refused(await connect(daemon, "/c1"), 403, "already connected")
    assert_refused(await daemon.client.delete(f"{BASE}/blue"), 403, "active endpoints")
    assert (await disconnect(daemon, "c1")).status_code == 200
    assert endpoints(daemon) == []
    assert_refused(await disconnect(daemon, "c1"), 404, "not connected")
    assert [each.container_id for each in daemon.controller.sandboxes.list()] == ["c1"]


async def test_endpoint_gets_another_name_where_it_is_taken(daemon: Served) -> None:
    await create(daemon)
    await make(daemon.client, "/networks/blue/endpoints", name="web")
    await sandbox(daemon, "c1")
    assert (await connect(daemon, "c1")).status_code == 200
    assert endpoints(daemon) == ["web", "c1"]


async def test_running_container_and_process_are_connected(daemon: Served) -> None:
    await create(daemon)
    identifier = "5a" * 32
    for pid in (4711, 4712):
        daemon.kernel.processes.begin(pid)
        daemon.kernel.namespaces.add_foreign(pid)
    daemon.kernel.processes.containers[identifier] = 4711
    assert (await connect(daemon, identifier[:12])).status_code == 200
    assert_refused(await connect(daemon, identifier), 403, "already connected")
    assert (await connect(daemon, "4712")).status_code == 200
    assert sorted(endpoints(daemon)) == [identifier[:12], "pid-4712"]
    assert (await disconnect(daemon, identifier)).status_code == 200
    assert (await disconnect(daemon, "4712")).status_code == 200
    assert daemon.controller.sandboxes.list() == []


async def test_same_connection_at_once_is_made_once(daemon: Served) -> None:
    await create(daemon)
    await sandbox(daemon, "c1")
    answers = await asyncio.gather(*(connect(daemon, each) for each in ("c1", "web", "c1", "web", "c1")))
    assert sorted(each.status_code for each in answers) == [200, 403, 403, 403, 403]
    assert endpoints(daemon) == ["web"]
    answers = await asyncio.gather(*(disconnect(daemon, "c1") for _ in range(3)))
    assert sorted(each.status_code for each in answers) == [200, 404, 404]
    assert endpoints(daemon) == []


async def test_containers_of_one_name_are_connected_at_once(daemon: Served) -> None:
    await create(daemon)
    for number in range(5):
        await sandbox(daemon, f"c{number}", network=f"red-{number}")
    answers = await asyncio.gather(*(connect(daemon, f"c{number}") for number in range(5)))
    assert [each.status_code for each in answers] == [200] * 5
    names = endpoints(daemon)
    assert "web" in names
    assert len(set(names)) == 5


@pytest.mark.parametrize(
    ("container", "settings", "status", "word"),
    [
        ("nope", {}, 404, "no such container"),
        ("99999", {}, 404, "no such container"),
        ("", {}, 400, "missing"),
        ("ab" * 32, {}, 404, ""),
        ("c1", {"Links": ["a:b"]}, 501, "links"),
        ("c1", {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}, 501, "link-local"),
        ("c1", {"IPAMConfig": {"IPv4Address": "10.200.0.1"}}, 400, "outside"),
        ("c1", {"IPAMConfig": {"IPv6Address": "x"}}, 400, "IPv6"),
        ("c1", {"MacAddress": "x"}, 400, "MAC"),
        ("c1", {"DriverOpts": {"x": "y"}}, 400, "driver option"),
        ("c1", {"DriverOpts": {"com.docker.network.endpoint.ifname": "a/b"}}, 400, "link"),
        ("c1", {"DriverOpts": {"com.docker.network.endpoint.ifname": "eth0"}}, 409, "eth0"),
        ("c1", {"Aliases": ["a b"]}, 400, "alias"),
        ("c1", {"GwPriority": 2**40}, 400, "GwPriority"),
        ("web", {}, 400, "more than one"),
    ],
)
async def test_invalid_connection_leaves_nothing(
    daemon: Served, container: str, settings: dict[str, Any], status: int, word: str
) -> None:
    await create(daemon)
    await sandbox(daemon, "c1")
    await sandbox(daemon, "c2", network="green")
    assert_refused(await connect(daemon, container, **settings), status, word)
    assert endpoints(daemon) == []


async def test_disconnect_keeps_an_endpoint_of_another_client(daemon: Served) -> None:
    await create(daemon)
    await sandbox(daemon, "c1", network="blue")
    assert (await disconnect(daemon, "c1")).status_code == 200
    assert endpoints(daemon) == ["web"]
    shown = (await daemon.client.get(f"{BASE}/blue")).json()["Containers"]
    assert [name[:3] for name in shown] == ["ep-"]
    assert_refused(await disconnect(daemon, "web"), 404)
    assert (await disconnect(daemon, "web", force=True)).status_code == 200
    assert endpoints(daemon) == []


async def test_container_that_ends_during_a_connect_is_not_created(
    daemon: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(daemon)
    await sandbox(daemon, "c1")
    create_within = daemon.controller.endpoints.create_within

    async def late(*given: Any) -> Endpoint:
        await daemon.controller.sandboxes.leave("red", "web", "c1")
        return await create_within(*given)

    monkeypatch.setattr(daemon.controller.endpoints, "create_within", late)
    assert_refused(await connect(daemon, "c1"), 404, "no such container")
    assert endpoints(daemon) == []
    assert daemon.controller.sandboxes.list() == []


async def test_container_of_an_engine_is_left_to_it(daemon: Served) -> None:
    await create(daemon)
    spec = EngineNetworkSpec("1a" * 32, NetworkOptions(), "blue")
    await daemon.controller.engine_networks.create(spec)
    await make(daemon.client, "/networks/blue/endpoints", name="a")
    joined = EndpointSpec(name="", id="2b" * 32)
    await daemon.controller.engine_networks.create_endpoint(spec.id, joined)
    await daemon.controller.engine_networks.join(spec.id, joined.id, "/run/docker/netns/5c5c5c5c5c5c")
    await create(daemon, "green")
    assert_refused(await connect(daemon, "5c5c5c5c5c5c", "green"), 400, "engine's own command")


async def test_prune_leaves_networks_of_container_engines(daemon: Served) -> None:
    await create(daemon)
    await daemon.controller.engine_networks.create(EngineNetworkSpec("1a" * 32, NetworkOptions(), "blue"))
    await daemon.controller.engine_networks.create(EngineNetworkSpec("2b" * 32, NetworkOptions()))
    dangling = {"filters": '{"dangling":["true"]}'}
    assert (await daemon.client.get(BASE, params=dangling)).json() == []
    assert (await daemon.client.post(f"{BASE}/prune")).json() == {"NetworksDeleted": []}
    await daemon.controller.engine_networks.delete("1a" * 32)
    assert (await daemon.client.post(f"{BASE}/prune")).json() == {"NetworksDeleted": ["blue"]}


async def test_web_pages_are_refused_over_tcp(daemon: Served) -> None:
    transport = httpx.ASGITransport(app=BrowserProtection(daemon.app, names=[]))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        plain = {"content-type": "text/plain"}
        refused = await client.post(f"{BASE}/create", content=b'{"Name": "blue"}', headers=plain)
        assert_refused(refused, 415, "application/json")
        assert (await client.post(f"{BASE}/create", json={"Name": "blue"})).status_code == 201
        foreign = await client.post(f"{BASE}/prune", headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert (await client.post(f"{BASE}/prune", headers=plain)).json() == {"NetworksDeleted": ["blue"]}


CREATE: dict[str, Any] = {
    "Name": "blue",
    "Driver": "bridge",
    "Scope": "local",
    "EnableIPv4": True,
    "EnableIPv6": True,
    "Internal": False,
    "IPAM": {
        "Driver": "",
        "Options": {},
        "Config": [
            {
                "Subnet": "10.9.0.0/24",
                "IPRange": "10.9.0.0/25",
                "Gateway": "10.9.0.9",
                "AuxiliaryAddresses": {"a": "10.9.0.5"},
            }
        ],
    },
    "Options": {"mtu": "1400"},
    "Labels": {"a": "b"},
    "ConfigFrom": {"Network": ""},
}
CONNECT: dict[str, Any] = {
    "Container": "c1",
    "EndpointConfig": {
        "IPAMConfig": {"IPv4Address": "10.9.0.7", "IPv6Address": "", "LinkLocalIPs": []},
        "Links": [],
        "Aliases": ["a"],
        "MacAddress": "",
        "DriverOpts": {},
        "GwPriority": 1,
    },
}
STRANGE: list[Any] = [
    None,
    0,
    -1,
    2**70,
    1.5,
    True,
    "",
    "x",
    "/",
    "..",
    "\0",
    "é" * 300,
    "0.0.0.0/0",
    "::/0",
    "10.9.0.1/33",
    "1" * 9,
    [],
    [None],
    ["x"],
    {},
    {"": ""},
    {"x": None},
    {"\0": "\0"},
]


def damaged(body: Any) -> Iterator[Any]:
    """Yield copies of a body, each with one strange value in one place."""
    if not isinstance(body, dict | list):
        return
    for key in body if isinstance(body, dict) else range(len(body)):
        for value in (*STRANGE, *damaged(body[key])):
            other = copy(body)
            other[key] = value
            yield other


@pytest.mark.parametrize(
    ("path", "body"), [("create", CREATE), ("bridge/connect", CONNECT), ("bridge/disconnect", CONNECT)]
)
async def test_no_body_makes_the_daemon_fail(daemon: Served, path: str, body: dict[str, Any]) -> None:
    await sandbox(daemon, "c1")
    for each in damaged(body):
        response = await daemon.client.post(f"{BASE}/{path}", json=each)
        assert response.status_code in (200, 201, 400, 403, 404, 409, 501, 503), (each, response.text)
        if response.status_code == 201:
            assert (await daemon.client.delete(f"{BASE}/{response.json()['Id']}")).status_code == 204
        elif response.status_code == 200:
            await daemon.client.post(f"{BASE}/bridge/disconnect", json={"Container": "c1"})
    assert "red" in [each.name for each in daemon.controller.networks.list()]
