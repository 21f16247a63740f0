"""The things that clients under pressure make and unmake, and the requests for that, chosen at random.

A thing is named by its path: the network ``n1``, its endpoint ``n1/p2``, the container ``n1/p2/k3`` attached to that.
No name could be the beginning of an id (hexadecimal digits), which finds things too. What a thing is made with follows
from its name, so a refusal can be judged without knowing who asked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from tests.stress.history import Operation
from tests.support.traffic import TCP, UDP

Body = dict[str, object]

ROOM: Final = 5
"""Addresses that sandboxes may have on ``n5``."""
NETWORKS: Final[Mapping[str, Body]] = {
    "n0": {},
    "n1": {"ipv6": True},
    "n2": {"internal": True},
    "n3": {"subnet": "10.77.0.0/24"},
    "n4": {"subnet": "10.77.0.0/24"},
    "n5": {"subnet": "10.78.0.0/29"},
    "n6": {"icc": False},
}
TWINS: Final = {"n3": ("n4",), "n4": ("n3",)}
"""Networks that ask for one subnet."""
ENDPOINTS: Final = ("p0", "p1", "p2", "p3", "p4", "s0", "s1")
"""The last two are services: asked for by the other URLs, with any number of containers."""
CONTAINERS: Final = tuple(f"k{i}" for i in range(12))
FOUND: Final = tuple(f"j{i}" for i in range(4))
"""Containers whose namespace another program made."""
FIXED_PORTS: Final = {"p3": 18003, "p4": 18004, "s1": 18011}
GUIDED: Final = 0.75
"""How often a request is for something that makes sense, as far as known."""

_ACTIONS: Final = {
    "make network": 6,
    "unmake network": 4,
    "make endpoint": 16,
    "unmake endpoint": 9,
    "join": 24,
    "leave": 17,
    "change": 6,
    "look": 8,
}


class PORTS:
    """Who wants which host port."""

    @staticmethod
    def of(endpoint: str) -> list[Body]:
        """The port mappings that an endpoint asks for."""
        network, name = endpoint.split("/")
        if network == "n2":
            return []
        if name[:2] in FIXED_PORTS:
            return [{"proto": TCP, "port": 80, "host_port": FIXED_PORTS[name[:2]]}]
        return [{"proto": UDP, "port": 53, "host_port": 0}] if name == "p2" else []

    @staticmethod
    def rivals(endpoint: str) -> list[str]:
        """Endpoints that ask for the same, itself among them: a request may have been sent twice."""
        _, name = endpoint.split("/")
        short = name[:2]
        if short not in FIXED_PORTS:
            return []
        return [called(each, short) for each in NETWORKS if each != "n2"]


def called(network: str, short: str) -> str:
    """The endpoint's path; a service bears the network in its name, since services are found by name alone."""
    return f"{network}/{short}{network}" if short.startswith("s") else f"{network}/{short}"


def parent(thing: str) -> str:
    """What it is in; empty for a network."""
    return thing.rpartition("/")[0]


def network_of(thing: str) -> str:
    """The network it is on."""
    return thing.partition("/")[0]


class Workload:
    """All requests there are.

    Args:
        found: paths of the namespaces that another program made, by container.
    """

    def __init__(self, found: Mapping[str, str]) -> None:
        self._found = found
        self._endpoints = [called(net, short) for net in NETWORKS for short in ENDPOINTS]
        self._containers = (*CONTAINERS, *found)

    def choose(self, client: int, random: Random, there: set[str]) -> Operation:
        """The next request of a client, given what is there by all appearances."""
        action = random.choices([*_ACTIONS], [*_ACTIONS.values()])[0]
        if action == "look":
            kind = random.choice(["networks", "services", "sandboxes"])
            return Operation(client, "GET", f"/{kind}?verbose=true")
        fitting = self._fitting(action, there) if random.random() < GUIDED else self._any(action)
        if not fitting:
            return self.make_network(client, random.choice([*NETWORKS]))
        return self._request(client, action, random.choice(fitting), random)

    def _fitting(self, action: str, there: set[str]) -> list[str]:
        """What makes sense, as far as known."""
        match action:
            case "make network":
                return [each for each in NETWORKS if each not in there]
            case "make endpoint":
                return [each for each in self._endpoints if parent(each) in there and each not in there]
            case "unmake network":
                return sorted(each for each in there if "/" not in each)
            case "unmake endpoint" | "join":
                return sorted(each for each in there if each.count("/") == 1)
        return sorted(each for each in there if each.count("/") == 2)

    def _any(self, action: str) -> list[str]:
        if action.endswith("network"):
            return [*NETWORKS]
        if action in ("leave", "change"):
            return [f"{endpoint}/{container}" for endpoint in self._endpoints for container in self._containers]
        return self._endpoints

    def _request(self, client: int, action: str, thing: str, random: Random) -> Operation:
        match action:
            case "make network":
                return self.make_network(client, thing)
            case "make endpoint":
                return self.make_endpoint(client, thing)
            case "join":
                return self.join(client, thing, random.choice(self._containers))
            case "change":
                return self.change(client, thing, random)
        return self.unmake(client, thing)

    @staticmethod
    def make_network(client: int, network: str) -> Operation:
        """``POST /networks``."""
        return Operation(client, "POST", "/networks", {"name": network, "options": NETWORKS[network]}, makes=network)

    @staticmethod
    def make_endpoint(client: int, endpoint: str) -> Operation:
        """Create an endpoint, or publish a service."""
        network, name = endpoint.split("/")
        body: Body = {"name": name, "port_mapping": PORTS.of(endpoint)}
        if name.startswith("s"):
            return Operation(client, "POST", "/services", body | {"network_name": network}, makes=endpoint)
        return Operation(client, "POST", f"/networks/{network}/endpoints", body, makes=endpoint)

    def join(self, client: int, endpoint: str, container: str) -> Operation:
        """Join a container, or attach it to a service."""
        body: Body = {"container_id": container}
        if container in self._found:
            body["netns"] = self._found[container]
        tail = "backend" if _is_service(endpoint) else "containers"
        return Operation(client, "POST", f"{url(endpoint)}/{tail}", body, makes=f"{endpoint}/{container}")

    @staticmethod
    def unmake(client: int, thing: str) -> Operation:
        """Delete a network or an endpoint, or let a container leave."""
        return Operation(client, "DELETE", url(thing), unmakes=thing)

    @staticmethod
    def change(client: int, attachment: str, random: Random) -> Operation:
        """Drain a backend, take it in again, or give it another weight."""
        body: Body = random.choice([{"state": "drained"}, {"state": "active"}, {"weight": random.randint(1, 5)}])
        endpoint, _, container = attachment.rpartition("/")
        path = f"/services/{endpoint.partition('/')[2]}/backend/{container}"
        if not _is_service(endpoint):
            return Operation(client, "GET", f"{url(endpoint)}?verbose=true", wants=endpoint)
        return Operation(client, "PATCH", path, body, wants=attachment)


def url(thing: str) -> str:
    """Where a thing is found."""
    network, endpoint, container = [*thing.split("/"), "", ""][:3]
    if _is_service(thing):
        return f"/services/{endpoint}" + (f"/backend/{container}" if container else "")
    path = f"/networks/{network}"
    return path + (f"/endpoints/{endpoint}" if endpoint else "") + (f"/containers/{container}" if container else "")


def _is_service(thing: str) -> bool:
    return thing.partition("/")[2].startswith("s")


def every_double(listing: object) -> Iterator[str]:
    """What two objects of an answer share and must not: ids, addresses, MACs, host ports."""
    seen: set[tuple[object, ...]] = set()
    for mark in _marks(listing):
        if mark in seen:
            yield " ".join(map(str, mark))
        seen.add(mark)


def _marks(listing: object) -> Iterator[tuple[object, ...]]:
    for each in listing if isinstance(listing, list) else []:
        yield "id", each["id"]
        if "sandbox_key" in each:
            yield "sandbox key", each["sandbox_key"]
            continue
        for subnet in each.get("subnets", ()):
            yield "subnet", subnet
        for endpoint in each.get("endpoints", [each]):
            yield from _endpoint_marks(endpoint)


def _endpoint_marks(endpoint: dict[str, object]) -> Iterator[tuple[object, ...]]:
    network = endpoint["network"]
    yield "endpoint", network, endpoint["name"]
    for key in ("address", "address_ipv6", "mac"):
        if endpoint.get(key):
            yield key, network, endpoint[key]
    ports = endpoint.get("port_mapping")
    for port in ports if isinstance(ports, list) else []:
        yield "host port", port["proto"], port["host_ip"], port["host_port"]
    backends = endpoint.get("backends")
    for backend in backends if isinstance(backends, list) else []:
        if backend["address"] and not backend["holder"]:
            yield "address", network, backend["address"]
