"""The state as a document: read back it is the same state, and nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandnet.core.state.export import dump, imported
from sandnet.errors import Error, Kind
from sandnet.stores.base import Entry
from sandnet.stores.memory import MemoryStore
from tests.support.core_in_process import CoreInProcess, MoodyStore, mapping


async def entries(store: MemoryStore) -> dict[str, bytes]:
    return {key: value for key, value, _ in await store.list("") if key not in ("event/last", "boot")}


async def a_document(core: CoreInProcess) -> Any:
    await core.network("foo", ipv6=True)
    await core.endpoint("web", port_mapping=(mapping(8080),), labels={"tier": "front"}, aliases=("www",))
    await core.join("c1", "web")
    return json.loads(dump(await core.store.list("")))


def refusal(document: Any) -> Error:
    with pytest.raises(Error) as caught:
        imported(json.dumps(document).encode())
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_document")
    return caught.value


async def test_export_and_import_round_trip_every_entry(core: CoreInProcess) -> None:
    await a_document(core)
    puts = imported(dump(await core.store.list("")))
    assert {put.key: put.value for put in puts} == await entries(core.store)
    store = MoodyStore()
    await store.commit(*puts)
    before = core.controller.services.find("web")
    core.kernel.host.held.clear()
    core.store = store
    await core.start()
    assert core.controller.services.find("web") == before
    assert core.controller.health().status == "ok"


async def test_inconsistent_document_is_refused(core: CoreInProcess) -> None:
    whole = await a_document(core)
    twin = {**whole["endpoints"][0], "id": "0" * 64}
    assert "twice" in refusal({**whole, "endpoints": [*whole["endpoints"], twin]}).message
    assert "no network" in refusal({**whole, "networks": []}).message
    assert "sandbox" in refusal({**whole, "sandboxes": []}).message
    assert "unknown key" in refusal({**whole, "texts": {"claim/name/x": "y"}}).message


@pytest.mark.parametrize(
    ("kind", "field", "text"),
    [
        ("networks", "link", 'x" }; flush ruleset; #'),
        ("networks", "name", "../x"),
        ("endpoints", "mac", "zz"),
        ("sandboxes", "container_id", "../../etc"),
        ("attachments", "host_link", "eth0"),
        ("attachments", "interface", "a/b"),
        ("texts", "sysctl/kernel/core_pattern", "|/bin/sh"),
    ],
)
async def test_document_with_values_no_request_allows_is_refused(
    core: CoreInProcess, kind: str, field: str, text: str
) -> None:
    whole = await a_document(core)
    place = whole[kind] if kind == "texts" else whole[kind][0]
    place[field] = text
    if field == "container_id":
        whole["attachments"][0][field] = text
    assert "strange" in refusal(whole).message


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"format": "sandnet"}, {"format": "sandnet", "version": 2}, {"format": "x", "version": 1}],
)
def test_foreign_document_is_refused(document: object) -> None:
    refusal(document)


def test_wrong_field_type_is_refused_with_its_location() -> None:
    assert "networks[0]" in refusal({"format": "sandnet", "version": 1, "networks": [{"id": 5}]}).message


def test_export_of_an_empty_store_can_be_imported() -> None:
    assert imported(dump([])) == []
    assert imported(dump([Entry("event/last", b"3", 1)])) == []
