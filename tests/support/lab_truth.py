"""What a lab's store, its hosts and their kernels hold, and where these differ."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from sandnet.core.cluster.shared_values import (
    ALIVE,
    ATTACHED,
    Alive,
    SharedAttachment,
    SharedEndpoint,
    attachment_key,
    decode,
)
from sandnet.core.state.schema import ENDPOINTS, NETWORKS
from sandnet.stores.base import Entry
from tests.support.daemon import PREDEFINED
from tests.support.lab import RunningLab
from tests.support.store_truth import claim_faults, duplicates

PREFIX = "/sandnet/"


def etcdctl(lab: RunningLab, *words: str) -> str:
    """The output of etcdctl, which asks the members that there are until one answers."""
    members = ",".join(f"{host.address}:2379" for host in lab.control.status().hosts if host.store in LIVING)
    number = next(host.number for host in lab.control.status().hosts if host.power)
    return lab.sh(number, "etcdctl", f"--endpoints={members}", "--command-timeout=10s", *words)


HEALED = "its peers are not those of the store"
"""In the log of a daemon whose driver has lost peers."""
DIGITS = 10
"""Of a network's id, in the names of its links."""
LIVING = ("leader", "follower")


class Truth:
    """The entries of the store at one revision."""

    def __init__(self, lab: RunningLab) -> None:
        found = json.loads(etcdctl(lab, "get", "--prefix", PREFIX, "--write-out=json"))
        self._lab = lab
        self.revision = found["header"]["revision"]
        self.entries = [
            Entry(
                base64.b64decode(each["key"]).decode().removeprefix(PREFIX),
                base64.b64decode(each.get("value", "")),
                each["mod_revision"],
            )
            for each in found.get("kvs", [])
        ]
        self.networks = {each.key.removeprefix(NETWORKS) for each in self._below(NETWORKS)}
        self.endpoints = {
            each.key.rpartition("/")[2]: decode(each.value, SharedEndpoint) for each in self._below(ENDPOINTS)
        }
        self.attached = {
            attachment_key(each.key): decode(each.value, SharedAttachment) for each in self._below(ATTACHED)
        }
        self.keys = self.networks | self.endpoints.keys() | {key.container_id for key in self.attached}
        self.leases = {
            int(each.key.removeprefix(f"{ALIVE}h")): decode(each.value, Alive).number for each in self._below(ALIVE)
        }
        """The numbers of the hosts' leases."""

    def _below(self, prefix: str) -> Iterator[Entry]:
        return (each for each in self.entries if each.key.startswith(prefix))

    def faults(self) -> list[str]:
        """Where the store contradicts itself, or a host differs from it, as texts."""
        found = [*claim_faults(self.entries), *duplicates(self.entries)]
        for number in self._lab.hosts:
            found += [f"host {number}: {fault}" for fault in self._of_host(number)]
        return found

    def _of_host(self, number: int) -> Iterator[str]:
        if number not in self.leases:
            yield "it has no lease"
            return
        api = self._lab.client(number)
        networks = {each["id"]: each for each in api.get("/networks") if each["name"] not in PREDEFINED}
        yield from _difference("networks", set(networks), self.networks)
        listed = [each for net in networks for each in api.get(f"/networks/{net}/endpoints", verbose="true")]
        yield from _difference("endpoints", {each["id"] for each in listed}, set(self.endpoints))
        own = f"h{number}"
        backends = {
            (each["id"], backend.get("host") or own, backend["id"]) for each in listed for backend in each["backends"]
        }
        yield from _difference("attachments", backends, {tuple(key) for key in self.attached})
        for each in listed:
            shared = self.endpoints.get(each["id"])
            if shared and str(shared.endpoint.address) != str(each.get("address")):
                yield f"endpoint {each['id']} has {each.get('address')}, in the store {shared.endpoint.address}"
        yield from self._of_kernel(number)

    def _of_kernel(self, number: int) -> Iterator[str]:
        lab, own = self._lab, f"h{number}"
        entries: list[dict[str, Any]] = json.loads(lab.sh(number, "bridge", "-j", "fdb", "show"))
        peers = {(each["mac"], each["dst"]) for each in entries if "dst" in each}
        hosts = {host.name: host.address for host in lab.control.status().hosts}
        wanted = {(each.mac, hosts[each.host]) for each in self.attached.values() if each.host != own}
        yield from _difference("forwarding entries", peers, wanted)
        links: list[dict[str, Any]] = json.loads(lab.sh(number, "ip", "-j", "link", "show"))
        ports = [each["ifname"] for each in links if each["ifname"].startswith("snv") and "master" in each]
        tunnels = [name for name in ports if name.startswith("snvx")]
        bridges = {each["ifname"].removeprefix("snb") for each in links if each["ifname"].startswith("snb")}
        listed = lab.client(number).get("/networks")
        default = {each["id"][:DIGITS] for each in listed if each["name"] == "bridge"}
        shared = {key[:DIGITS] for key in self.networks}
        yield from _difference("bridges", bridges, shared | default)
        yield from _difference("VXLAN links", {name.removeprefix("snvx") for name in tunnels}, shared)
        attached = sum(each.host == own for each in self.attached.values())
        if len(ports) - len(tunnels) != attached:
            yield f"it has ports {ports} for {attached} attachments"


def _difference(what: str, found: set[Any], wanted: set[Any]) -> Iterator[str]:
    if found - wanted:
        yield f"{what} that the store has not: {sorted(found - wanted)}"
    if wanted - found:
        yield f"{what} of the store that are missing: {sorted(wanted - found)}"
