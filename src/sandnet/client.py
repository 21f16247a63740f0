"""A small synchronous client of the daemon's REST interface.

One connection a request: connecting to a unix socket costs about 0.1 ms, and no idle connection can die
between two commands. Failures of the daemon arrive as the :class:`sandnet.errors.Error` they were there.
"""

from __future__ import annotations

import http.client
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from sandnet.errors import Error, Kind
from sandnet.transport import Location, Tls, unreachable
from sandnet.wire.explain import Explanation
from sandnet.wire.libnetwork import (
    Backend,
    BackendChange,
    Endpoint,
    EndpointCreate,
    ErrorBody,
    Event,
    Health,
    Join,
    Network,
    NetworkCreate,
    Sandbox,
    Service,
    ServicePublish,
    Version,
)
from sandnet.wire.reconcile import Drift, Reconcile, Reconciliation

DEFAULT_URL = "unix:///run/sandnet/sandnet.sock"
DEFAULT_TIMEOUT = 60.0
"""Seconds. Longer than any single operation of the daemon, plugins' retries (15 s) included."""
SILENCE = 45.0
"""Seconds after which a stream of events is given up: the daemon says something every 15."""

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
    """The daemon's operations as methods. Every method may raise :class:`sandnet.errors.Error`.

    ``network``, ``endpoint`` and ``service`` arguments are names, ids or unique id prefixes.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = DEFAULT_TIMEOUT, tls: Tls | None = None) -> None:
        """Remember where the daemon is; nothing is opened yet.

        Args:
            url: ``unix:///path`` or ``tcp://host:port``.
            timeout: seconds that any single step of a request may take.
            tls: how TCP is secured; ``None``: not at all, which a daemon allows on loopback only.
        """
        self.url = url
        self._location = Location.parse(url)
        self._timeout = timeout
        self._tls = tls

    def networks(self, *, name: str | None = None, verbose: bool = False) -> list[Network]:
        """All networks, or the one called ``name`` (``""``: the default network), in creation order."""
        return decode(self.get("/networks", name=name, verbose=verbose), list[Network])

    def network(self, network: str, *, verbose: bool = False) -> Network:
        """One network."""
        return decode(self.get(path("networks", network), verbose=verbose), Network)

    def create_network(self, wish: NetworkCreate) -> str:
        """Create a network; its id."""
        return decode(self._request("POST", "/networks", wish), str)

    def delete_network(self, network: str, *, force: bool = False) -> None:
        """Delete a network that has no endpoints, but for dead ones; with ``force``, and all that is on it."""
        self._request("DELETE", path("networks", network) + _forced(force))

    def endpoints(self, network: str, *, name: str | None = None, verbose: bool = False) -> list[Endpoint]:
        """The endpoints of a network, or the one called ``name``."""
        return decode(self.get(path("networks", network, "endpoints"), name=name, verbose=verbose), list[Endpoint])

    def endpoint(self, network: str, endpoint: str, *, verbose: bool = False) -> Endpoint:
        """One endpoint."""
        return decode(self.get(path("networks", network, "endpoints", endpoint), verbose=verbose), Endpoint)

    def create_endpoint(self, network: str, wish: EndpointCreate) -> str:
        """Create an endpoint on a network; its id."""
        return decode(self._request("POST", path("networks", network, "endpoints"), wish), str)

    def delete_endpoint(self, network: str, endpoint: str, *, force: bool = False) -> None:
        """Delete an endpoint that no living container has joined; with ``force``, and take those off."""
        self._request("DELETE", path("networks", network, "endpoints", endpoint) + _forced(force))

    def join(self, network: str, endpoint: str, wish: Join) -> str:
        """Join a container to an endpoint; the path of its sandbox."""
        return decode(self._request("POST", path("networks", network, "endpoints", endpoint, "containers"), wish), str)

    def leave(self, network: str, endpoint: str, container: str) -> None:
        """Take a container off an endpoint."""
        self._request("DELETE", path("networks", network, "endpoints", endpoint, "containers", container))

    def services(self, *, network: str | None = None, name: str | None = None, verbose: bool = False) -> list[Service]:
        """All services, those of one network, or those called ``name`` (not both), in creation order."""
        return decode(self.get("/services", network=network, name=name, verbose=verbose), list[Service])

    def service(self, service: str, *, verbose: bool = False) -> Service:
        """One service."""
        return decode(self.get(path("services", service), verbose=verbose), Service)

    def publish(self, wish: ServicePublish) -> str:
        """Publish a service; its id."""
        return decode(self._request("POST", "/services", wish), str)

    def unpublish(self, service: str, *, force: bool = False) -> None:
        """Unpublish a service that has no living backends; with ``force``, and detach those."""
        self._request("DELETE", path("services", service) + _forced(force))

    def backends(self, service: str, *, verbose: bool = False) -> list[Backend]:
        """The containers behind a service."""
        return decode(self.get(path("services", service, "backend"), verbose=verbose), list[Backend])

    def attach(self, service: str, wish: Join) -> str:
        """Attach a container to a service as a backend; the path of its sandbox."""
        return decode(self._request("POST", path("services", service, "backend"), wish), str)

    def detach(self, service: str, container: str) -> None:
        """Detach a backend from a service."""
        self._request("DELETE", path("services", service, "backend", container))

    def change_backend(self, service: str, container: str, change: BackendChange) -> None:
        """Drain a backend, take it in again, or change its weight."""
        self._request("PATCH", path("services", service, "backend", container), change)

    def sandboxes(self, *, verbose: bool = False) -> list[Sandbox]:
        """All sandboxes, in creation order."""
        return decode(self.get("/sandboxes", verbose=verbose), list[Sandbox])

    def sandbox(self, container: str, *, verbose: bool = False) -> Sandbox:
        """The sandbox of a container."""
        return decode(self.get(path("sandboxes", container), verbose=verbose), Sandbox)

    def explain(self, container: str, name: str) -> Explanation:
        """What the container would be answered to a question for a name or an address."""
        return decode(self.get(question(container, name)), Explanation)

    def reconcile(self, *, fix: bool) -> tuple[bytes, list[Drift]]:
        """What differs from the records, as it came and as it is read; with ``fix`` it is repaired."""
        answer = self._request("POST", "/reconcile", Reconcile(fix=fix))
        return answer, decode(answer, Reconciliation).drift

    def follow(self, since: int | None = None) -> Follower:
        """A reader of events after number ``since``, or of the next ones to happen."""
        return Follower(self, since)

    def health(self) -> Health:
        """How the daemon is."""
        return decode(self.get("/healthz"), Health)

    def version(self) -> Version:
        """The daemon's version."""
        return decode(self.get("/version"), Version)

    def get(self, target: str, *, verbose: bool = False, **filters: str | None) -> bytes:
        """The daemon's answer as it came, JSON. Filters that are ``None`` are left out."""
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
        self, method: str, target: str, body: msgspec.Struct | None = None, *, patience: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A request whose successful answer is to be read within the block.

        Args:
            method: of HTTP.
            target: path and query.
            body: sent as JSON.
            patience: seconds that a step may take, instead of the client's own.
        """
        payload = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        patience = patience or self._timeout
        connection = self._location.connection(patience, self._tls)
        try:
            connection.request(method, target, payload, headers)
            with connection.getresponse() as response:  # else it keeps the socket open
                if response.status >= 300:
                    raise _failure(response.status, response.read())
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.url, patience, error) from error
        finally:
            connection.close()


class Follower:
    """Reads events, and knows where to go on when the daemon was away.

    Attributes:
        since: the number of the last event it has seen, or of the latest there was when it began; ``None`` before.
    """

    def __init__(self, client: Client, since: int | None) -> None:
        """Remember where to begin; nothing is opened yet."""
        self.since = since
        self._client = client

    def connect(self) -> Iterator[tuple[bytes, Event]]:
        """The events after ``since``, each as it came and as it is read; they end when the daemon stops.

        Raises:
            Error: at once, ``UNAVAILABLE``: no daemon, or it has too many readers. Later, from the iterator, the same
                when the daemon is gone or silent.
        """
        lines = self._lines()
        next(lines)
        return ((line, self._read(line)) for line in lines)

    def _lines(self) -> Generator[bytes]:
        """First an empty line once the daemon has answered, then what it tells."""
        target = "/events" if self.since is None else f"/events?since={self.since}"
        with self._client.exchange("GET", target, patience=SILENCE) as response:
            if self.since is None:
                self.since = int(response.headers.get("Sandnet-Sequence") or 0)
            yield b""
            while (line := response.readline()).endswith(b"\n"):  # one without its end was broken off
                if line != b"\n":
                    yield line

    def _read(self, line: bytes) -> Event:
        event = decode(line, Event)
        self.since = event.sequence
        return event


def path(*segments: str) -> str:
    """A request's path of percent-encoded segments."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def question(container: str, name: str) -> str:
    """The path and query that ask what a container would be answered."""
    return f"/dns/explain?{urlencode({'name': name, 'from': container})}"


def _forced(force: bool) -> str:
    return "?force=true" if force else ""


def decode(answer: bytes, shape: type[T]) -> T:
    """Read an answer of the daemon.

    Raises:
        Error: ``INTERNAL``, it is not of that shape.
    """
    try:
        return msgspec.json.decode(answer, type=shape)
    except (msgspec.DecodeError, RecursionError) as error:  # nested too deeply, where any object is taken
        message = f"the daemon's answer is not what this client understands: {error}"
        raise Error(Kind.INTERNAL, message, "are client and daemon of the same version?", "bad_answer") from error


def _failure(status: int, answer: bytes) -> Error:
    try:
        told = msgspec.json.decode(answer, type=ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        text = answer.decode(errors="replace").strip()[:500]
        told = ErrorBody(message=text or f"the daemon answered with status {status}")
    return Error(_kind(status, told.code), told.message, told.hint, told.code)


def _kind(status: int, code: str) -> Kind:
    """The kind that the code names, else the one most errors of that status have."""
    try:
        return Kind(code)
    except ValueError:
        return _KINDS_OF_STATUS.get(status, Kind.INTERNAL)
