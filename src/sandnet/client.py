"""A small synchronous client of the daemon's REST interface.

It opens a connection for each request: that costs about 0.1 ms on a unix socket, and no idle connection can be lost
between two requests. An error of the daemon is raised here as the same :class:`sandnet.errors.Error`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from sandnet.errors import Error, Kind
from sandnet.http_exchange import Answer, request
from sandnet.transport import Location, Tls, unreachable
from sandnet.wire.bandwidth import EndpointChange
from sandnet.wire.daemon_version import Version
from sandnet.wire.explain import Explanation
from sandnet.wire.health import Health
from sandnet.wire.libnetwork import (
    Backend,
    BackendChange,
    Endpoint,
    EndpointCreate,
    ErrorBody,
    Event,
    Join,
    Network,
    NetworkChange,
    NetworkCreate,
    Sandbox,
    Service,
    ServicePublish,
)
from sandnet.wire.nodes import Node, NodeReachability
from sandnet.wire.reconcile import Drift, Reconcile, Reconciliation
from sandnet.wire.sandbox_interfaces import Tap

DEFAULT_URL = "unix:///run/sandnet/sandnet.sock"
DEFAULT_TIMEOUT = 60.0
"""Timeout in seconds. It is longer than any single operation of the daemon, plugins' retries (15 s) included."""
SILENCE = 45.0
"""Timeout in seconds of a stream of events without data: the daemon sends a keep-alive every 15 s."""

T = TypeVar("T")

_KINDS_OF_STATUS = {
    400: Kind.INVALID,
    403: Kind.IN_USE,
    404: Kind.NOT_FOUND,
    405: Kind.INVALID,
    409: Kind.CONFLICT,
    413: Kind.INVALID,
    503: Kind.UNAVAILABLE,
}


class Client:
    """A client with one method for each operation of the daemon; each may raise :class:`sandnet.errors.Error`.

    ``network``, ``endpoint`` and ``service`` arguments are names, ids or unique id prefixes.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = DEFAULT_TIMEOUT, tls: Tls | None = None) -> None:
        """Store the address of the daemon; no connection is opened.

        Args:
            url: ``unix:///path`` or ``tcp://host:port``.
            timeout: seconds that any single step of a request may take.
            tls: TLS files for TCP; ``None``: plain TCP, which a daemon allows on loopback only.
        """
        self.url = url
        self._location = Location.parse(url)
        self._timeout = timeout
        self._tls = tls

    def networks(self, *, name: str | None = None, verbose: bool = False) -> list[Network]:
        """Return all networks, or the one named ``name`` (``""``: the default network), in creation order."""
        return decode(self.get("/networks", name=name, verbose=verbose), list[Network])

    def network(self, network: str, *, verbose: bool = False) -> Network:
        """Return one network."""
        return decode(self.get(path("networks", network), verbose=verbose), Network)

    def create_network(self, spec: NetworkCreate) -> str:
        """Create a network, and return its id."""
        return decode(self._request("POST", "/networks", spec), str)

    def change_network(self, network: str, change: NetworkChange) -> None:
        """Change labels and options of a network, also while containers use it."""
        self._request("PATCH", path("networks", network), change)

    def delete_network(self, network: str, *, force: bool = False) -> None:
        """Delete a network without endpoints, apart from orphaned ones; with ``force``, also delete its endpoints."""
        self._request("DELETE", path("networks", network) + _forced(force))

    def endpoints(self, network: str, *, name: str | None = None, verbose: bool = False) -> list[Endpoint]:
        """Return the endpoints of a network, or the one named ``name``."""
        return decode(self.get(path("networks", network, "endpoints"), name=name, verbose=verbose), list[Endpoint])

    def endpoint(self, network: str, endpoint: str, *, verbose: bool = False) -> Endpoint:
        """Return one endpoint."""
        return decode(self.get(path("networks", network, "endpoints", endpoint), verbose=verbose), Endpoint)

    def create_endpoint(self, network: str, spec: EndpointCreate) -> str:
        """Create an endpoint on a network, and return its id."""
        return decode(self._request("POST", path("networks", network, "endpoints"), spec), str)

    def delete_endpoint(self, network: str, endpoint: str, *, force: bool = False) -> None:
        """Delete an endpoint that no running container has joined; with ``force``, detach its containers first."""
        self._request("DELETE", path("networks", network, "endpoints", endpoint) + _forced(force))

    def join(self, network: str, endpoint: str, spec: Join) -> str:
        """Join a container to an endpoint, and return the path of its sandbox."""
        return decode(self._request("POST", path("networks", network, "endpoints", endpoint, "containers"), spec), str)

    def join_tap(self, network: str, endpoint: str, spec: Join) -> Tap:
        """Join a virtual machine (``spec.type`` is ``tap``) to an endpoint, and return its tap."""
        return decode(self._request("POST", path("networks", network, "endpoints", endpoint, "containers"), spec), Tap)

    def leave(self, network: str, endpoint: str, container: str) -> None:
        """Detach a container from an endpoint."""
        self._request("DELETE", path("networks", network, "endpoints", endpoint, "containers", container))

    def services(self, *, network: str | None = None, name: str | None = None, verbose: bool = False) -> list[Service]:
        """Return all services, those of one network, or those named ``name`` (not both), in creation order."""
        return decode(self.get("/services", network=network, name=name, verbose=verbose), list[Service])

    def service(self, service: str, *, verbose: bool = False) -> Service:
        """Return one service."""
        return decode(self.get(path("services", service), verbose=verbose), Service)

    def publish(self, spec: ServicePublish) -> str:
        """Publish a service, and return its id."""
        return decode(self._request("POST", "/services", spec), str)

    def change_service(self, service: str, change: EndpointChange) -> None:
        """Change the limits of a service's traffic, also while containers use it."""
        self._request("PATCH", path("services", service), change)

    def unpublish(self, service: str, *, force: bool = False) -> None:
        """Unpublish a service without running backends; with ``force``, detach its backends first."""
        self._request("DELETE", path("services", service) + _forced(force))

    def backends(self, service: str, *, verbose: bool = False) -> list[Backend]:
        """Return the backends of a service."""
        return decode(self.get(path("services", service, "backend"), verbose=verbose), list[Backend])

    def attach(self, service: str, spec: Join) -> str:
        """Attach a container to a service as a backend, and return the path of its sandbox."""
        return decode(self._request("POST", path("services", service, "backend"), spec), str)

    def attach_tap(self, service: str, spec: Join) -> Tap:
        """Attach a virtual machine (``spec.type`` is ``tap``) to a service, and return its tap."""
        return decode(self._request("POST", path("services", service, "backend"), spec), Tap)

    def detach(self, service: str, container: str) -> None:
        """Detach a backend from a service."""
        self._request("DELETE", path("services", service, "backend", container))

    def change_backend(self, service: str, container: str, change: BackendChange) -> None:
        """Drain a backend, return it to the rotation, or change its weight."""
        self._request("PATCH", path("services", service, "backend", container), change)

    def sandboxes(self, *, verbose: bool = False) -> list[Sandbox]:
        """Return all sandboxes, in creation order."""
        return decode(self.get("/sandboxes", verbose=verbose), list[Sandbox])

    def sandbox(self, container: str, *, verbose: bool = False) -> Sandbox:
        """Return the sandbox of a container."""
        return decode(self.get(path("sandboxes", container), verbose=verbose), Sandbox)

    def explain(self, container: str, name: str) -> Explanation:
        """Return the answer that a DNS question of the container for a name or an address would get."""
        return decode(self.get(question(container, name)), Explanation)

    def reconcile(self, *, fix: bool) -> tuple[bytes, list[Drift]]:
        """Reconcile the actual state with the records; return the drift as raw JSON and decoded.

        Args:
            fix: whether drift is repaired; otherwise it is only reported.
        """
        answer = self._request("POST", "/reconcile", Reconcile(fix=fix))
        return answer, decode(answer, Reconciliation).drift

    def follow(self, since: int | None = None) -> Follower:
        """Return a reader of the events after number ``since``; ``None``: of future events."""
        return Follower(self, since)

    def nodes(self) -> list[Node]:
        """Return the hosts that share a store with the daemon."""
        return decode(self.get("/nodes"), list[Node])

    def reachability(self, node: str = "") -> tuple[bytes, list[NodeReachability]]:
        """Return how the daemon's host reaches another one, or all, as raw JSON and decoded."""
        answer = self.get("/reachability", node=node or None)
        return answer, decode(answer, list[NodeReachability])

    def delete_node(self, node: str) -> None:
        """Remove a host that does not come back."""
        self._request("DELETE", path("nodes", node))

    def health(self) -> Health:
        """Return the daemon's health."""
        return decode(self.get("/healthz", verbose=True), Health)

    def version(self) -> Version:
        """Return the daemon's version."""
        return decode(self.get("/version"), Version)

    def get(self, target: str, *, verbose: bool = False, **filters: str | None) -> bytes:
        """Return the daemon's answer as raw JSON. Filters that are ``None`` are left out."""
        query = {key: value for key, value in filters.items() if value is not None}
        if verbose:
            query["verbose"] = "true"
        return self._request("GET", target, query=query)

    def _request(
        self, method: str, target: str, body: msgspec.Struct | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        if query:
            target = f"{target}?{urlencode(query)}"
        with self.exchange(method, target, body) as response:
            return response.read()

    @contextmanager
    def exchange(
        self, method: str, target: str, body: msgspec.Struct | None = None, *, timeout: float | None = None
    ) -> Iterator[Answer]:
        """Send a request; its successful answer can be read within the block.

        Args:
            method: of HTTP.
            target: path and query.
            body: sent as JSON.
            timeout: seconds that a step may take; ``None``: the client's timeout.
        """
        payload = None if body is None else msgspec.json.encode(body)
        timeout = timeout or self._timeout
        try:
            with self._location.connect(timeout, self._tls) as connection:
                connection.sendall(request(method, target, self._location.authority, payload))
                answer = Answer(connection)
                if answer.status >= 300:
                    raise _failure(answer.status, answer.read())
                yield answer
        except OSError as error:
            raise unreachable(self.url, timeout, error) from error


class Follower:
    """A reader of events, which can continue after the daemon was unavailable.

    Attributes:
        since: the number of the last event received, or of the latest one at the begin; ``None``: before the first
            connection.
    """

    def __init__(self, client: Client, since: int | None) -> None:
        """Store the number of the event to begin after; no connection is opened."""
        self.since = since
        self._client = client

    def connect(self) -> Iterator[tuple[bytes, Event]]:
        """Connect, and return an iterator over the events after ``since``, each as raw JSON and decoded.

        The iterator ends when the daemon stops.

        Raises:
            Error: at once, ``UNAVAILABLE``: no daemon, or it has too many readers. Later, from the iterator, the same
                kind when the daemon is lost or silent.
        """
        lines = self._lines()
        next(lines)
        return ((line, self._read(line)) for line in lines)

    def _lines(self) -> Generator[bytes]:
        """Yield an empty line when the daemon has answered, then the lines with events."""
        target = "/events" if self.since is None else f"/events?since={self.since}"
        with self._client.exchange("GET", target, timeout=SILENCE) as response:
            if self.since is None:
                self.since = int(response.headers.get("sandnet-sequence") or 0)
            yield b""
            while (line := response.readline()).endswith(b"\n"):  # a line without its end is incomplete
                if line != b"\n":
                    yield line

    def _read(self, line: bytes) -> Event:
        event = decode(line, Event)
        self.since = event.sequence
        return event


def path(*segments: str) -> str:
    """Join percent-encoded segments to the path of a request."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def question(container: str, name: str) -> str:
    """Return path and query of the request for the answer that a container would get."""
    return f"/dns/explain?{urlencode({'name': name, 'from': container})}"


def _forced(force: bool) -> str:
    return "?force=true" if force else ""


def decode(answer: bytes, shape: type[T]) -> T:
    """Decode an answer of the daemon.

    Raises:
        Error: ``INTERNAL``, it does not have that shape.
    """
    try:
        return msgspec.json.decode(answer, type=shape)
    except (msgspec.DecodeError, RecursionError) as error:  # RecursionError: nested too deeply, in a field of any type
        message = f"the daemon's answer is not what this client understands: {error}"
        raise Error(Kind.INTERNAL, message, "are client and daemon of the same version?", "bad_answer") from error


def _failure(status: int, answer: bytes) -> Error:
    try:
        body = msgspec.json.decode(answer, type=ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        text = answer.decode(errors="replace").strip()[:500]
        body = ErrorBody(message=text or f"the daemon answered with status {status}")
    return Error(_kind(status, body.code), body.message, body.hint, body.code)


def _kind(status: int, code: str) -> Kind:
    """Return the kind with the name ``code``; if there is none, the most frequent kind of that status."""
    try:
        return Kind(code)
    except ValueError:
        return _KINDS_OF_STATUS.get(status, Kind.INTERNAL)
