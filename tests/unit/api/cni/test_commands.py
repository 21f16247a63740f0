"""The routes of the CNI dialect over a whole daemon in memory: results, codes, and what is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandnet.api.cni.errors import MEDIA_TYPE
from sandnet.errors import Error, Kind
from sandnet.model import Phase
from tests.support.in_process import Served, served

NETNS = "/run/netns/blue"
CONFIGURATION = {"cniVersion": "1.0.0", "name": "web", "ipam": {"subnet": "10.88.1.0/24"}}
NONE_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        made.kernel.namespaces.add_foreign(NETNS)
        yield made


async def call(
    daemon: Served, command: str, container: str = "c1", netns: str = NETNS, ifname: str = "eth0", **more: Any
) -> httpx.Response:
    query = {"container": container, "netns": netns, "ifname": ifname, "args": more.pop("arguments", "")}
    response = await daemon.client.post(f"/cni/{command}", params=query, json={**CONFIGURATION, **more})
    assert response.headers["content-type"] == MEDIA_TYPE
    return response


def code_of(response: httpx.Response) -> int:
    assert response.status_code != 200
    return int(response.json()["code"])


def endpoints(daemon: Served) -> list[str]:
    return [each.name for each in daemon.controller.services.list()]


async def test_add_and_del_are_each_one_request(daemon: Served) -> None:
    added = (await call(daemon, "add")).json()
    assert [each["address"] for each in added["ips"]] == ["10.88.1.2/24"]
    assert added["interfaces"][2]["sandbox"] == NETNS
    assert endpoints(daemon) == ["c1"]
    assert (await call(daemon, "del")).content == b""
    assert endpoints(daemon) == []
    assert daemon.controller.sandboxes.list() == []


async def test_failed_add_removes_the_network_that_it_made(daemon: Served) -> None:
    daemon.kernel.fail_on("links.plug", Error(Kind.UNAVAILABLE, "the kernel refuses", code="kernel_busy"))
    assert code_of(await call(daemon, "add")) == 11
    assert endpoints(daemon) == []
    assert [each.name for each in daemon.controller.networks.list()] == ["none", "host", "bridge"]


async def test_failed_add_keeps_a_network_that_was_there(daemon: Served) -> None:
    await call(daemon, "add")
    await call(daemon, "del")
    daemon.kernel.fail_on("links.plug", Error(Kind.UNAVAILABLE, "the kernel refuses"))
    assert code_of(await call(daemon, "add")) == 11
    assert "web" in [each.name for each in daemon.controller.networks.list()]


@pytest.mark.parametrize("field", [{"ipam": {"subnet": "10.88.2.0/24"}}, {"mtu": 1400}, {"internal": True}])
async def test_configuration_that_contradicts_the_network_is_refused(daemon: Served, field: dict[str, Any]) -> None:
    await call(daemon, "add", "c0")
    assert code_of(await call(daemon, "add", **field)) == 7


async def test_garbage_collection_goes_on_after_an_error(daemon: Served) -> None:
    for name in ("a", "b", "c"):
        daemon.kernel.namespaces.add_foreign(f"/run/netns/{name}")
        await call(daemon, "add", name, f"/run/netns/{name}")
    daemon.kernel.fail_on("namespaces.release", Error(Kind.UNAVAILABLE, "the kernel refuses"))
    failed = await call(daemon, "gc", **NONE_VALID)
    assert code_of(failed) == 100
    assert len(endpoints(daemon)) <= 1
    assert (await call(daemon, "gc", **NONE_VALID)).status_code == 200
    assert not [each for each in daemon.controller.services.list() if each.phase is Phase.READY]


async def test_check_without_an_attachment_fails(daemon: Served) -> None:
    assert code_of(await call(daemon, "check")) == 101


async def test_check_finds_a_link_that_is_gone(daemon: Served) -> None:
    added = (await call(daemon, "add")).json()
    assert (await call(daemon, "check", prevResult=added)).status_code == 200
    daemon.kernel.links.delete([added["interfaces"][1]["name"]])
    failed = await call(daemon, "check", prevResult=added)
    assert code_of(failed) == 101
    assert "eth0" in failed.json()["msg"]


async def test_body_over_tcp_must_be_json(daemon: Served) -> None:
    response = await daemon.client.get("/cni/add")
    assert response.status_code == 405
