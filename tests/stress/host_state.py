"""Whether the kernel, the files and the store are what the API reports, when nothing is under way."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

import httpx

from tests.stress.names import misspoken
from tests.support.daemon import JSON, RunningDaemon

_QUOTED = re.compile(r'"(snb[0-9a-f]{10})"')
FILES = ("hosts", "resolv.conf")


def records(daemon: RunningDaemon) -> dict[str, JSON]:
    """What the store holds, by key."""
    with closing(sqlite3.connect(f"file:{daemon.state}/sandnet.db?mode=ro", uri=True, timeout=5)) as store:
        rows = store.execute("SELECT key, value FROM entries").fetchall()
    kinds = ("network/", "endpoint/", "sandbox/", "attachment/")
    return {key: json.loads(value) for key, value in rows if key.startswith(kinds)}


def unfinished(daemon: RunningDaemon) -> list[str]:
    """Records that tell of something half done."""
    return [f"{key} is {record['phase']}" for key, record in records(daemon).items() if record["phase"] != "ready"]


def disagreements(daemon: RunningDaemon, networks: Sequence[JSON], sandboxes: Sequence[JSON]) -> list[str]:
    """Where what stands is not what is reported, in words."""
    return [
        *_stored(daemon, networks, sandboxes),
        *_linked(daemon),
        *_programmed(daemon, networks),
        *_pinned(daemon, sandboxes),
        *misspoken(daemon, networks, sandboxes),
        *_drifted(daemon),
    ]


def _differ(what: str, stands: set[str], reported: set[str]) -> Iterator[str]:
    if stands != reported:
        yield f"{what}: too many {sorted(stands - reported)}, missing {sorted(reported - stands)}"


def _stored(daemon: RunningDaemon, networks: Sequence[JSON], sandboxes: Sequence[JSON]) -> Iterator[str]:
    stored = {
        key.rpartition("/")[2] for key in records(daemon) if key.startswith(("network/", "endpoint/", "sandbox/"))
    }
    reported = {each["id"] for net in networks for each in [net, *net["endpoints"]]} | {
        sandbox["id"] for sandbox in sandboxes
    }
    yield from _differ("records", stored, reported)


def _linked(daemon: RunningDaemon) -> Iterator[str]:
    kept = records(daemon)
    wanted = {record["host_link"] for key, record in kept.items() if key.startswith("attachment/")} - {""}
    wanted |= {record["link"] for key, record in kept.items() if key.startswith("network/")} - {""}
    yield from _differ("links", set(daemon.our_links()), wanted)


def _programmed(daemon: RunningDaemon, networks: Sequence[JSON]) -> Iterator[str]:
    ruleset = json.loads(daemon.host.sh("nft", "-j", "list", "ruleset"))["nftables"]
    found = {each[kind]["name"]: each[kind] for each in ruleset for kind in ("set", "map") if kind in each}
    bridges = {key["link"] for name, key in records(daemon).items() if name.startswith("network/")} - {""}
    yield from _differ("bridges in the firewall", {str(each) for each in found["bridges"].get("elem", ())}, bridges)
    ports = {
        f"{port['proto']} {port['host_port']}"
        for net in networks for endpoint in net["endpoints"] for port in endpoint["port_mapping"]
    }  # fmt: skip
    yield from _differ("published ports", _published(found), ports)
    services = _balanced(records(daemon))
    balanced = {each["concat"][-1] for each in found["services4"].get("elem", ())}  # number of the network, address
    yield from _differ("balanced services", balanced, services)


def _balanced(kept: dict[str, JSON]) -> set[str]:
    """Addresses of services whose only backend is not simply the one at that address."""
    own: dict[str, list[JSON]] = {}
    for key, record in kept.items():
        if key.startswith("attachment/") and record["address"]:
            own.setdefault(record["endpoint_id"], []).append(record["address"])
    endpoints = {record["id"]: record["address"] for key, record in kept.items() if key.startswith("endpoint/")}
    return {endpoints[each].partition("/")[0] for each, held in own.items() if held != [endpoints[each]]}


def _published(found: dict[str, JSON]) -> set[str]:
    numbers = {"tcp": 6, "udp": 17}
    keys = [each[0]["concat"] for name in ("any4", "any6") for each in found[name].get("elem", ())]
    keys += [each[0]["concat"] for name in ("any4_flow", "any6_flow") for each in found[name].get("elem", ())]
    return {f"{numbers[key[0]]} {key[1]}" for key in keys}


def _pinned(daemon: RunningDaemon, sandboxes: Sequence[JSON]) -> Iterator[str]:
    yield from _differ("namespaces", set(daemon.pinned()), {sandbox["sandbox_key"] for sandbox in sandboxes})
    folders = list((daemon.run / "sandboxes").glob("*"))
    yield from _differ("folders", {folder.name for folder in folders}, {sandbox["id"] for sandbox in sandboxes})
    for folder in folders:
        yield from _differ(f"files of {folder.name}", {file.name for file in folder.iterdir()}, set(FILES))


def _drifted(daemon: RunningDaemon) -> Iterator[str]:
    """What the daemon itself finds, and reports of itself."""
    health = daemon.api.get("/healthz")
    if health["status"] != "ok":
        yield f"health: {health['problems']}"
    try:
        answer = daemon.api.http.post("/reconcile", json={"fix": False})
    except httpx.HTTPError as error:
        yield f"no reconciliation: {error}"
        return
    if answer.status_code != 404:
        drift = answer.json()["drift"] if answer.status_code == 200 else answer.text
        yield from [f"drift: {drift}"] if drift else []
