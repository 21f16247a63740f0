"""Every example of the reference document, sent as it is printed and answered as it is printed."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest

from tests.support.in_process import Served, served

NONE = "8e4e55c6863ef4241c548c1c6fc77289045e9e5d5b5e4875401a675326981898"
HOST = "062b6d9ea7913fde549e2d186ff0402770658f8c4e769958e1b943ff4e675011"
BRIDGE = "a87dd9a9d58f030962df1c15fb3fa142fbd9261339de458bc89be1895cef2c70"
FOO = "32fbf63200e2897f5de72cb2a4b653e4b1a523b15116e96e3d73f7849e583653"
OTHER = "0984d158bd8ae108e4d6bc8fcabedf51da9a174b32cc777026d4a29045654951"
PASTEUR = "7e0c116b882ee489a8a5345a2638c0129099aa47f4ba114edde34e75c1e4ae0d"
BAZ = "b18b795af8bad85cdd691ff24ffa2b08c02219d51992309dd120322689d2ab5a"
STALLMAN = "c826b26bf736fb4a77db33f83562e59f9a770724e259ab9c3d50d948f8233ae4"
BAR = "0aee0899e6c5e903cf3ef2bdc28a1c9aaf639c8c8c331fa4ae26344d9e32c1ff"

HEX64 = re.compile(r"[0-9a-f]{64}")

LIST_NETWORKS = (
    "GET /networks HTTP/1.1",
    f"""[
{{
"name": "none",
"id": "{NONE}",
"type": "null",
"endpoints": []
}},
{{
"name": "host",
"id": "{HOST}",
"type": "host",
"endpoints": []
}},
{{
"name": "bridge",
"id": "{BRIDGE}",
"type": "bridge",
"endpoints": []
}}
]""",
)
CREATE_NETWORK = (
    """POST /networks HTTP/1.1
Content-Type: application/json
{
"name": "foo",
"network_type": "",
"options": {}
}""",
    f'"{FOO}"',
)
GET_NETWORK = (
    f"GET /networks/{FOO} HTTP/1.1",
    f"""{{
"name": "foo",
"id": "{FOO}",
"type": "bridge",
"endpoints": []
}}""",
)
LIST_ENDPOINTS = (
    f"GET /networks/{FOO}/endpoints HTTP/1.1",
    f"""[
{{
"id": "{PASTEUR}",
"name": "/lonely_pasteur",
"network": "foo"
}}
]""",
)
CREATE_ENDPOINT = (
    f"""POST /networks/{FOO}/endpoints HTTP/1.1
Content-Type: application/json
{{
"name": "baz",
"exposed_ports": [
{{
"proto": 6,
"port": 8080
}}
],
"port_mapping": null
}}""",
    f'"{BAZ}"',
)
GET_ENDPOINT = (
    f"GET /networks/{FOO}/endpoints/{BAZ} HTTP/1.1",
    f"""{{
"id": "{BAZ}",
"name": "baz",
"network": "foo"
}}""",
)
JOIN = (
    f"""POST /networks/{FOO}//endpoints/{BAZ}/containers HTTP/1.1
Content-Type: application/json
{{
"container_id": "e76f406417031bd24c17aeb9bb2f5968b628b9fb6067da264b234544754bf857",
"host_name": null,
"domain_name": null,
"hosts_path": null,
"resolv_conf_path": null,
"dns": null,
"extra_hosts": null,
"parent_updates": null,
"use_default_sandbox": true
}}""",
    '"/var/run/docker/netns/e76f40641703"',
)
LEAVE = (
    f"DELETE /networks/{FOO}/endpoints/{BAZ}/containers/"
    """e76f406417031bd24c17aeb9bb2f5968b628b9fb6067da264b234544754bf857 HTTP/1.1
Content-Type: application/json""",
    "",
)
DELETE_ENDPOINT = (f"DELETE /networks/{FOO}/endpoints/{BAZ} HTTP/1.1", "")
DELETE_NETWORK = (f"DELETE /networks/{OTHER} HTTP/1.1", "")
PUBLISH = (
    """POST /services HTTP/1.1
Content-Type: application/json
{
"name": "bar",
"network_name": "foo",
"exposed_ports": null,
"port_mapping": null
}""",
    f'"{BAR}"',
)
GET_SERVICE = (
    f"GET /services/{BAR} HTTP/1.1",
    f"""{{
"name": "bar",
"id": "{BAR}",
"network": "foo"
}}""",
)
ATTACH = (
    f"""POST /services/{BAR}/backend HTTP/1.1
Content-Type: application/json
{{
"container_id": "98c5241f9475e9efc17e7198e931fb48166010b80f96d48df204e251378ca547",
"host_name": "",
"domain_name": "",
"hosts_path": "",
"resolv_conf_path": "",
"dns": null,
"extra_hosts": null,
"parent_updates": null,
"use_default_sandbox": false
}}""",
    '"/var/run/docker/netns/98c5241f9475"',
)
GET_BACKENDS = (
    f"GET /services/{BAR}/backend HTTP/1.1",
    """[
{
"id": "98c5241f9475e9efc17e7198e931fb48166010b80f96d48df204e251378ca547"
}
]""",
)
LIST_SERVICES = (
    "GET /services HTTP/1.1",
    f"""[
{{
"name": "/stupefied_stallman",
"id": "{STALLMAN}",
"network": "bridge"
}},
{{
"name": "bar",
"id": "{BAR}",
"network": "foo"
}}
]""",
)
DETACH = (
    f"DELETE /services/{BAR}/backend/98c5241f9475e9efc17e7198e931fb48166010b80f96d48df204e251378ca547 HTTP/1.1",
    "",
)
UNPUBLISH = (f"DELETE /services/{BAR} HTTP/1.1", "")

CONTAINERS = {
    "e76f406417031bd24c17aeb9bb2f5968b628b9fb6067da264b234544754bf857",
    "98c5241f9475e9efc17e7198e931fb48166010b80f96d48df204e251378ca547",
}


class Walk:
    """Sends printed requests with the printed ids replaced by the live ones, which it learns from answers."""

    def __init__(self, client: httpx.AsyncClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._ids = {container: container for container in CONTAINERS}

    async def example(self, example: tuple[str, str]) -> None:
        """Send it; status, headers, values and the order of keys must be the printed ones."""
        request, printed = example
        response = await self._send(request)
        assert response.status_code == 200, response.text
        if not printed:
            assert response.content == b""
            assert "content-type" not in response.headers
            return
        assert response.headers["content-type"] == "application/json"
        self._match(json.loads(printed, object_pairs_hook=_pairs), response.json(object_pairs_hook=_pairs))

    async def prepare(self, printed_id: str, path: str, body: dict[str, object]) -> None:
        """Make what an example takes for granted."""
        response = await self._client.post(self._live(path), json=body)
        self._match(printed_id, response.json())

    async def remove(self, path: str) -> None:
        """Remove what a later example does not expect."""
        assert (await self._client.delete(self._live(path))).status_code == 200

    async def _send(self, request: str) -> httpx.Response:
        line, *rest = self._live(request).split("\n")
        method, target, _ = line.split(" ")
        headers = dict(row.split(": ") for row in rest if re.fullmatch(r"[A-Za-z-]+: [a-z/]+", row))
        body = "\n".join(rest[len(headers) :])
        return await self._client.request(method, self._prefix + target, headers=headers, content=body or None)

    def _live(self, text: str) -> str:
        return HEX64.sub(lambda found: self._ids.get(found[0], found[0]), text)

    def _match(self, printed: object, live: object) -> None:
        if isinstance(printed, list) and isinstance(live, list):
            assert len(printed) == len(live)
            for one, other in zip(printed, live, strict=True):
                self._match(one, other)
        elif isinstance(printed, tuple) and isinstance(live, tuple):
            assert printed[0] == live[0]
            self._match(printed[1], live[1])
        elif isinstance(printed, str) and HEX64.fullmatch(printed):
            assert isinstance(live, str)
            assert HEX64.fullmatch(live)
            assert self._ids.setdefault(printed, live) == live
        else:
            assert printed == live


def _pairs(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return list(pairs)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as running:
        yield running


@pytest.mark.parametrize("prefix", ["", "/v1.0", "/v1.19", "/v1.20"])
async def test_reference_examples_are_answered_as_printed(daemon: Served, prefix: str) -> None:
    walk = Walk(daemon.client, prefix)
    await walk.example(LIST_NETWORKS)
    await walk.example(CREATE_NETWORK)
    await walk.example(GET_NETWORK)
    await walk.prepare(PASTEUR, f"/networks/{FOO}/endpoints", {"name": "/lonely_pasteur"})
    await walk.example(LIST_ENDPOINTS)
    await walk.remove(f"/networks/{FOO}/endpoints/{PASTEUR}")
    await walk.example(CREATE_ENDPOINT)
    await walk.example(GET_ENDPOINT)
    await walk.example(JOIN)
    await walk.example(LEAVE)
    await walk.example(DELETE_ENDPOINT)
    await walk.prepare(OTHER, "/networks", {"name": "other"})
    await walk.example(DELETE_NETWORK)
    await walk.prepare(STALLMAN, "/services", {"name": "/stupefied_stallman"})
    await walk.example(PUBLISH)
    await walk.example(GET_SERVICE)
    await walk.example(ATTACH)
    await walk.example(GET_BACKENDS)
    await walk.example(LIST_SERVICES)
    await walk.example(DETACH)
    await walk.example(UNPUBLISH)


async def test_double_slashes_in_a_url_are_not_redirected(daemon: Served) -> None:
    response = await daemon.client.get("http://localhost//networks///bridge")
    assert (response.status_code, response.json()["name"]) == (200, "bridge")


async def test_empty_lists_are_empty_json_arrays(daemon: Served) -> None:
    for path in ("/services", "/networks/bridge/endpoints", "/sandboxes", "/networks?name=nobody"):
        assert (await daemon.client.get(path)).content == b"[]"
