"""Everything that stands on a host, as text in which what is chosen at random has the name of what it belongs to.

So the facts of two runs of one scenario can be compared, whatever ids, addresses and MACs they were given.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import sqlite3
import stat
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from sandnet.firewall.balancing.service_elements import network_number
from sandnet.kernel.source_policy import TABLES
from sandnet.kernel.types import PREPARED
from sandnet.model.link_names import PORT_PREFIX, link_mac, shaper_name
from tests.crash.daemon_case import CrashDaemon
from tests.support.daemon import JSON, LEARNED, unseeded
from tests.support.nft_listing import ruleset

Facts = dict[str, tuple[str, ...]]
"""By section, sorted lines."""

_BATCH: Final = "link show\naddress show\nroute show table all\nneighbour show nud permanent\nrule show\n"
_ELEMENTS: Final = re.compile(r"elements = \{([^}]*)\}")
_BUCKET: Final = re.compile(r"(?<= \. )\d+ : |^\d+ : ")
_MANY: Final = 40
"""A set with more elements than this spreads flows over backends by their MACs, which are chosen at random."""
_ASKED: Final = ("web", "www", "peer", "c1", "c2", "neighbour")
_CHANGING: Final = {"created", "pid", "obtained", "ends"}
_LINK_FIELDS: Final = ("ifname", "mtu", "master", "group", "address", "link_type")
_FLAGS: Final = {"UP", "NOARP", "PROMISC", "ALLMULTI"}
_SYSCTLS: Final = ("forwarding", "route_localnet", "accept_ra", "disable_ipv6")
_INHERITED: Final = ("accept_ra", PORT_PREFIX)
"""A parameter, and the links that have the value of ``default`` at the time when they were prepared: a port of a bridge
processes no advertisements."""


class Aliases:
    """Readable names for what was chosen at random, from the records in the store."""

    def __init__(self, records: dict[str, JSON]) -> None:
        self._names: dict[str, str] = {}
        by_id = {value["id"]: value for key, value in records.items() if key.startswith(("network/", "endpoint/"))}
        for ident, value in by_id.items():
            kind = "net" if "driver" in value else "ep"
            self._add(value["name"], {kind: ident, "short": ident[:12], "link": f"snb{ident[:10]}", "part": ident[:10]})
            self._add(value["name"], {"plugin's bridge": f"bp{ident[:10]}", "plugin's end": f"bo{ident[:10]}"})
            if kind == "ep":
                self._add_addresses(value["name"], value)
                continue
            self._add(value["name"], {"number": f"0x{network_number(ident):08x}"})
            if value.get("link"):
                self._add(value["name"], {"bridge mac": link_mac(value["link"])})
        for key, value in records.items():
            if key.startswith("attachment/"):
                name = f"{value['container_id']}@{by_id[value['endpoint_id']]['name']}"
                self._add(name, {"veth": value.get("host_link", "")})
                self._add(name, {"shaper": shaper_name(value["host_link"]) if value.get("host_link") else ""})
                self._add(name, {"tap mac": link_mac(value["host_link"]) if value.get("tap") else ""})
                if value.get("interface", "").startswith("sne"):
                    self._add(name, {"inner end": value["interface"]})
                self._add_addresses(name, value)
        longest = sorted(self._names, key=len, reverse=True)
        words = "|".join(map(re.escape, longest)) or r"(?!)"
        self._pattern = re.compile(rf"(?<![0-9A-Za-z.:])(?:{words})(?![0-9A-Za-z]|[.:][0-9a-fA-F])")

    def _add(self, name: str, texts: dict[str, str]) -> None:
        for what, text in texts.items():
            if text:
                self._names.setdefault(text, f"<{what} {name}>")

    def _add_addresses(self, name: str, value: JSON) -> None:
        for field, what in (("address", "ip4"), ("address_ipv6", "ip6"), ("mac", "mac")):
            text = (value.get(field) or "").partition("/")[0]
            for form, spelled in _spellings(text).items():
                self._add(name, {f"{what}{form}": spelled})

    def reported(self, text: str) -> str:
        """The text with names in it."""
        return self._pattern.sub(lambda found: self._names[found[0]], text)


def _spellings(text: str) -> dict[str, str]:
    """An address or a MAC in all the ways in which the packet filter may tell it."""
    if not text:
        return {}
    if text.count(":") != 5 or "::" in text:
        return {"": text, " in hex": f"{int(ip_address(text)):#x}"}
    mac = bytes.fromhex(text.replace(":", ""))
    local = IPv6Address(bytes([0xFE, 0x80, *bytes(6), mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]]))  # RFC 4291, 2.5.1
    return {"": text, " in hex": f"{int.from_bytes(mac):#x}", " local": str(local), " local in hex": f"{int(local):#x}"}


def facts(daemon: CrashDaemon, *, theirs: Sequence[str] = (), ports: Sequence[tuple[int, int]] = ()) -> Facts:
    """All of it.

    Args:
        daemon: a daemon and its host.
        theirs: paths of namespaces that are not ours and may be joined.
        ports: (socket type, port) pairs of which is reported whether another program holds them.
    """
    held = entries(daemon)
    aliases = Aliases({key: json.loads(value) for key, value in held.items() if _is_record(key)})
    found: dict[str, Iterator[str] | list[str]] = {
        "store": _reported_store(held),
        "rules": _rules(daemon.host.run(ruleset), aliases),
        "mounts": daemon.host.run(_mounts),
        "files": daemon.host.run(
            _files, aliases, [daemon.state, daemon.run, daemon.files, Path("/run"), Path("/var/lib")]
        ),
        "sysctls": daemon.host.run(_sysctls, {"all", "default", *daemon.links()}),
        "ports": daemon.host.run(_held, ports),
        "api": _reported_api(daemon),
    }
    for name, path in {"host": "", **{path: path for path in daemon.pinned()}, **_numbered(theirs)}.items():
        found[f"namespace {name}"] = _network(daemon, path, aliases)
    return {name: tuple(sorted(aliases.reported(line) for line in lines)) for name, lines in found.items()}


def difference(now: Facts, wanted: Facts) -> str:
    """What is there and should not be (``+``), and the other way round (``-``); empty when they are equal."""
    lines: list[str] = []
    for name in sorted({*now, *wanted}):
        pair = wanted.get(name, ("(absent)",)), now.get(name, ("(absent)",))
        changes = [line for line in difflib.ndiff(*pair) if line[0] in "+-"]
        lines += [f"  [{name}] {change[:400]}" for change in changes]
    return "\n".join(lines)


def _is_record(key: str) -> bool:
    return key.partition("/")[0] in ("network", "endpoint", "sandbox", "attachment")


def entries(daemon: CrashDaemon) -> dict[str, str]:
    """What is in the store."""
    path = daemon.state / "sandnet.db"
    if not path.exists():
        return {}
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as store:
        rows = store.execute("select key, value from entries").fetchall()
    store.close()
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in rows}


def _reported_store(held: dict[str, str]) -> list[str]:
    """Keys, and what phase records are in; not the cursors, which say only where to go on."""
    phases = {key: json.loads(value)["phase"] for key, value in held.items() if _is_record(key)}
    return [f"{key} {phases.get(key, '')}" for key in held if not key.startswith("cursor/")]


def _rules(text: str, aliases: Aliases) -> list[str]:
    text = unseeded(text)
    return _ELEMENTS.sub(lambda found: _sorted_elements(found[1], aliases), LEARNED.sub("", text)).splitlines()


def _sorted_elements(text: str, aliases: Aliases) -> str:
    elements = [" ".join(aliases.reported(element).split()) for element in text.split(",")]
    if len(elements) > _MANY:
        elements = [*{_BUCKET.sub("# : ", element) for element in elements}]
    return "\n".join(["elements:", *sorted(elements)])


def _mounts() -> list[str]:
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return [re.sub(r"net:\[\d+\]", "net", " ".join(line.split()[3:5])) for line in lines]


def _files(aliases: Aliases, folders: Sequence[Path]) -> list[str]:
    return [line for folder in folders if folder.exists() for line in _files_below(folder, aliases)]


def _files_below(folder: Path, aliases: Aliases) -> Iterator[str]:
    for path in [folder, *folder.rglob("*")]:
        mode = path.lstat().st_mode
        text = ""
        if (path.parent.parent.name == "sandboxes" or path.parent.name == "engine") and stat.S_ISREG(mode):
            text = " / ".join(sorted(aliases.reported(path.read_text()).splitlines()))
        if not path.name.startswith("sandnet.db"):  # the store's own files come and go
            yield f"{path} {stat.filemode(mode)} {text}"


def _sysctls(of: Collection[str]) -> list[str]:
    root = Path("/proc/sys/net")
    paths = [root / "ipv4/ip_forward"]
    for family in ("ipv4", "ipv6"):
        paths += [
            root / family / "conf" / link / name
            for link in os.listdir(root / family / "conf")
            if link in of
            for name in _SYSCTLS
            if (name, link[: len(PORT_PREFIX)]) != _INHERITED
        ]
    found = {path.relative_to(root): _read(path) for path in paths}
    return [f"{name} = {value}" for name, value in found.items() if value]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # no such parameter, or its link went while we looked
        return ""


def _held(ports: Sequence[tuple[int, int]]) -> list[str]:
    return [f"{socket.SocketKind(kind).name} {port}" for kind, port in ports if _is_held(kind, port)]


def _is_held(kind: int, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
    return False


def _reported_api(daemon: CrashDaemon) -> list[str]:
    if not daemon.is_running():
        return ["(no daemon)"]
    health = daemon.api.get("/healthz")
    # the harness breaks the same thing again and again, which is reported for a minute
    problems = [each for each in health["problems"] if "times in the last minute" not in each]
    lines = [f"healthz {health['status'] if problems else 'ok'} {problems}"]
    if daemon.dns:
        lines += _answers(daemon)
    lines += [f"drift {each}" for each in daemon.api.post("/reconcile", fix=False)["drift"]]
    for what in ("networks", "services", "sandboxes"):
        for each in daemon.api.get(f"/{what}", verbose="true"):
            lines += [f"{what} {each.get('name') or each['id']}{line}" for line in _flat(each)]
    return lines


def _answers(daemon: CrashDaemon) -> list[str]:
    """What every sandbox would be answered to every name."""
    lines = []
    for sandbox in daemon.api.get("/sandboxes"):
        for name in _ASKED:
            reported = daemon.api.get("/dns/explain", **{"name": name, "from": sandbox["id"]})
            lines += [f"names {sandbox['id']} {name}{line}" for line in _flat(reported)]
    return lines


def _flat(value: JSON) -> Iterator[str]:
    """A line for each leaf of a decoded answer."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not inner:
        yield f": {json.dumps(value)}"
    for key, each in inner or ():
        if key not in _CHANGING:
            yield from (f".{key}{line}" for line in _flat(each))


def _numbered(paths: Sequence[str]) -> dict[str, str]:
    return {f"of somebody else {number}": path for number, path in enumerate(paths)}


def _network(daemon: CrashDaemon, path: str, aliases: Aliases) -> list[str]:
    batch = daemon.folder / "batch"
    if not batch.exists():
        batch.write_text(_BATCH)
    try:
        reported = daemon.host.sh("ip", "-d", "-j", "-b", str(batch), namespace=path)
    except FileNotFoundError:
        return ["(gone)"]
    decoder, documents, at = json.JSONDecoder(), [], 0
    while at < len(reported.rstrip()):
        document, at = decoder.raw_decode(reported, at)
        documents.append(document)
        while at < len(reported) and reported[at].isspace():
            at += 1
    links, addresses, routes, neighbours, rules = documents
    if daemon.is_running():  # its pool comes and goes; nothing of it may be left when the daemon is dead
        prepared = {link["ifname"] for link in links if link and link["group"] == str(PREPARED)}
        links = [link for link in links if link.get("ifname") not in prepared]
        addresses = [link for link in addresses if link.get("ifname") not in prepared]
    lines = [_link(link, aliases) for link in links if link]
    lines += [
        f"address {link['ifname']} {a['local']}/{a['prefixlen']} {a['scope']}"
        for link in addresses
        for a in link.get("addr_info", ())
        if not a["local"].startswith("fe80:") or a["local"] == "fe80::1"
    ]
    lines += [_route(route) for route in routes if not route.get("dst", "").startswith(("fe80:", "ff00:", "multicast"))]
    lines += [f"rule {json.dumps(_with_table(rule))}" for rule in rules]
    # the state of entries that the kernel resolves by itself changes with time
    fixed = [each for each in neighbours if "extern_learn" not in each]
    return lines + [f"neighbour {json.dumps(each)}" for each in fixed]


def _link(link: dict[str, Any], aliases: Aliases) -> str:
    reported = {field: link.get(field) for field in _LINK_FIELDS}
    reported["flags"] = sorted(_FLAGS & set(link["flags"]))
    info = link.get("linkinfo", {})
    reported["kind"] = info.get("info_kind")
    port = info.get("info_slave_data", {})
    reported["port"] = {
        key: port.get(key) for key in ("hairpin", "isolated", "learning", "neigh_suppress") if key in port
    }
    if reported["address"] and aliases.reported(str(reported["address"])) == reported["address"]:
        reported["address"] = "(any)"
    return f"link {json.dumps(reported)}"


def _route(route: dict[str, Any]) -> str:
    fields = ("type", "dst", "gateway", "dev", "protocol", "scope", "prefsrc", "metric", "table")
    return f"route {json.dumps(_with_table({field: route[field] for field in fields if field in route}))}"


def _with_table(reported: dict[str, Any]) -> dict[str, Any]:
    """Tables of ours are numbered by the index of an interface, which is another one after each join."""
    ours = str(reported.get("table", "")).isdecimal() and int(reported["table"]) >= TABLES
    return reported | ({"table": "of ours"} if ours else {})
