"""Services with several backends, and flows to them that go on while something changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from socket import socket
from typing import NamedTuple

from tests.support.daemon import JSON, RunningDaemon
from tests.support.traffic import TCP, UDP, Place, ask_again, ask_promptly

PORT = 80
NAMES = ("b1", "b2", "b3")
FLOWS = 90
"""New flows that show how a service spreads them: with three backends one of them gets fewer than a tenth in fewer
than one of 10,000 runs."""


class Service(NamedTuple):
    """A service with three backends, each serving at ``PORT`` under its container's id, and a client beside them."""

    daemon: RunningDaemon
    client: Place
    client_address: str
    client_address6: str
    address: str
    address6: str

    def reported(self) -> dict[str, JSON]:
        """The backends, by container."""
        found = self.daemon.api.get("/services/web/backend", verbose="true")
        return {backend["id"]: backend for backend in found}

    def attach(self, container: str, **join: JSON) -> Place:
        """One more backend, serving."""
        place = self.attach_idle(container, **join)
        serve(place, container)
        return place

    def attach_idle(self, container: str, **join: JSON) -> Place:
        """One more backend, which does not serve yet."""
        key = self.daemon.api.post("/services/web/backend", container_id=container, **join)
        return self.daemon.place(key)

    def detach(self, container: str) -> None:
        self.daemon.api.delete(f"/services/web/backend/{container}")

    def change(self, container: str, **how: JSON) -> None:
        self.daemon.api.patch(f"/services/web/backend/{container}", **how)

    def holder(self) -> str:
        """The container that answers for the service's address."""
        (name,) = (name for name, backend in self.reported().items() if backend["holder"])
        return name

    def spread(self, count: int = FLOWS, proto: int = TCP) -> Counter[str]:
        """Who answers that many new flows of the client."""
        return Counter(self.client.ask(self.address, PORT, proto).server for _ in range(count))


def serve(place: Place, name: str) -> None:
    """A server at ``PORT`` of all its addresses."""
    for address in ("0.0.0.0", "::"):
        place.serve(name, PORT, address=address)
        place.serve(name, PORT, UDP, address=address)


def published(daemon: RunningDaemon, *ports: JSON, **more: JSON) -> Service:
    """A service without backends."""
    daemon.api.network("foo", ipv6=True)
    daemon.api.post("/services", name="web", network_name="foo", port_mapping=list(ports), **more)
    client = daemon.sandbox("foo", "client")
    reported = daemon.api.reported("foo", "web")
    addresses = (reported[key].partition("/")[0] for key in ("address", "address_ipv6"))
    return Service(daemon, client, client.address, client.address6, *addresses)


class Talk(NamedTuple):
    """A flow that goes on."""

    socket: socket
    server: str


def talks(service: Service, place: Place, address: str, port: int, *protos: int) -> list[Talk]:
    """Flows that stay open, of both protocols unless reported, some with each backend."""
    made = []
    for proto in protos or (TCP, UDP):
        for _ in range(15):
            client = place.client(address, port, proto)
            made.append(Talk(client, ask_again(client).server))
    assert {talk.server for talk in made} == set(service.reported())
    return made


def keep_talking(done: Callable[[], bool], talk: Talk) -> int:
    """How many questions were answered by the same backend, none late."""
    asked = 0
    while not done():
        assert ask_promptly(talk.socket).server == talk.server
        asked += 1
        time.sleep(0.02)
    return asked


@contextmanager
def under_load(open_: list[Talk]) -> Iterator[None]:
    """The flows go on in the meantime, and none may pause or move."""
    with ThreadPoolExecutor(len(open_)) as pool:
        done: list[bool] = []
        talking: list[Future[int]] = [pool.submit(keep_talking, lambda: bool(done), talk) for talk in open_]
        try:
            yield
        finally:
            done.append(True)
        assert all(each.result() > 0 for each in talking)
