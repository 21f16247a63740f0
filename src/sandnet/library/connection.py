"""Networks and sandboxes as context managers: what is created at the begin of a block is deleted at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sandnet.client import DEFAULT_TIMEOUT, DEFAULT_URL, Client
from sandnet.errors import NotFoundError, invalid
from sandnet.library.attachments import Membership
from sandnet.library.port_arguments import parse_mapping
from sandnet.library.programs import Runner
from sandnet.transport import Tls
from sandnet.wire import libnetwork as wire

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

    from sandnet.library.async_connection import AsyncConnection

Ports = Sequence[str | wire.PortMapping]
"""Published ports: ``8080:80`` as in ``-p`` of the command line, or requests of the REST interface."""


class Connector:
    """A connection for ``with``, or for ``async with``."""

    def __init__(self, url: str | None, timeout: float | None, tls: tuple[str, str, str] | None) -> None:
        """Initialize without a request; see :func:`sandnet.connect`."""
        self._connection = DaemonConnection(url or os.environ.get("SANDNET_HOST") or DEFAULT_URL, timeout, tls)

    def __enter__(self) -> DaemonConnection:
        """Return the connection. Each request opens a socket of its own, so nothing is to be closed."""
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    async def __aenter__(self) -> AsyncConnection:
        """Return the connection for coroutines."""
        from sandnet.library.async_connection import AsyncConnection

        return AsyncConnection(self._connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class DaemonConnection:
    """A daemon. Methods raise :class:`sandnet.Error`, by its subclasses in :mod:`sandnet.errors`.

    Attributes:
        client: has a method for each operation of the daemon.
    """

    def __init__(self, url: str, timeout: float | None = None, tls: tuple[str, str, str] | None = None) -> None:
        """Initialize without a request.

        Raises:
            Error: ``INVALID``, the URL is malformed.
        """
        self.client = Client(url, timeout or DEFAULT_TIMEOUT, Tls(*tls) if tls else None)
        self._tls = tls

    @contextmanager
    def network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str | None = None,
        options: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Network]:
        """Create a network for the block; its end deletes it with all that is on it.

        Args:
            name: of a network that does not exist.
            driver: what kind of network.
            subnet: IPv4 prefix; ``None``: a free one.
            options: further ones, by the names of the REST interface (docs/drivers.md).
            labels: to find it by.

        Raises:
            Error: ``NAME_TAKEN``, ``CONFLICT`` (the subnet), ``INVALID``, ``EXHAUSTED``.
        """
        chosen = dict(options or {}) | ({"subnet": subnet} if subnet else {})
        created = self.client.create_network(
            wire.NetworkCreate(
                name=name, network_type=driver, options=chosen or None, labels=dict(labels or {}) or None
            )
        )
        try:
            yield Network(self, name, created)
        finally:
            _unless_gone(lambda: self.client.delete_network(created, force=True))

    def existing_network(self, reference: str) -> Network:
        """Return a network that exists, by its name, id or unique prefix of the id; nothing deletes it.

        Raises:
            Error: ``NOT_FOUND``.
        """
        found = self.client.network(reference)
        return Network(self, found.name, found.id)

    @property
    def watch_pid(self) -> int | None:
        """This process, which the daemon watches; ``None``: the daemon may be on another machine."""
        return os.getpid() if self.client.url.startswith("unix:") else None

    def runner(self, container: str) -> Runner:
        """Return what starts programs in the sandbox of a container."""
        return Runner(self.client.url, self._tls, container)


class Network:
    """A network.

    Attributes:
        name: its name.
        id: 64 hex digits.
    """

    def __init__(self, connection: DaemonConnection, name: str, identifier: str) -> None:
        """Initialize without a request."""
        self.name = name
        self.id = identifier
        self._connection = connection

    def info(self) -> wire.Network:
        """Return all that the daemon knows of it."""
        return self._connection.client.network(self.id, verbose=True)

    @contextmanager
    def sandbox(
        self,
        name: str,
        *,
        ports: Ports = (),
        aliases: Sequence[str] = (),
        ip: str | None = None,
        ip6: str | None = None,
        additional_addresses: Sequence[str] = (),
        hostname: str | None = None,
        dns: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        pid: int | None = None,
        netns: str | None = None,
    ) -> Iterator[Sandbox]:
        """Make a sandbox on the network for the block, as a service of that name; its end removes both.

        If this process is killed, the daemon on the same machine removes both.

        Args:
            name: of the service, by which others find it.
            ports: published on the host.
            aliases: further names.
            ip: IPv4 address; ``None``: a free one.
            ip6: IPv6 address.
            additional_addresses: further addresses, of both families.
            hostname: the sandbox's own name; ``None``: the service's.
            dns: name servers for names outside.
            labels: of the service.
            pid: a process whose network namespace becomes the sandbox; ``None``: a new namespace.
            netns: the path of a network namespace that becomes the sandbox.

        Raises:
            Error: ``NAME_TAKEN``, ``CONFLICT`` (a port or an address), ``INVALID``, ``EXHAUSTED``. When the block
                ends without another error, also what could not be removed.
        """
        container = os.urandom(32).hex()
        service = self._service(name, ports, aliases, ip, ip6, additional_addresses, labels)
        join = wire.Join(
            container_id=container,
            host_name=hostname or name.removeprefix("/"),
            dns=list(dns) or None,
            pid=pid,
            netns=netns,
            watch_pid=self._connection.watch_pid,
        )
        with Membership(self._connection.client, container) as membership:
            identifier = membership.publish(service, join)
            yield Sandbox(self._connection, name, container, identifier)

    @contextmanager
    def connect(self, sandbox: Sandbox, *, name: str | None = None, aliases: Sequence[str] = ()) -> Iterator[None]:
        """Attach a sandbox of another network to this one for the block.

        Args:
            sandbox: of another network.
            name: of its service on this network; ``None``: the same as there.
            aliases: further names.

        Raises:
            Error: as :meth:`sandbox`.
        """
        service = self._service(name or sandbox.name, (), aliases, None, None, (), None)
        with Membership(self._connection.client, sandbox.id) as membership:
            membership.publish(service, wire.Join(container_id=sandbox.id))
            yield

    def _service(
        self,
        name: str,
        ports: Ports,
        aliases: Sequence[str],
        ip: str | None,
        ip6: str | None,
        additional_addresses: Sequence[str],
        labels: Mapping[str, str] | None,
    ) -> wire.ServicePublish:
        return wire.ServicePublish(
            name=name,
            network_name=self.id,
            port_mapping=[_port(port) for port in ports] or None,
            aliases=list(aliases) or None,
            address=ip,
            address_ipv6=ip6,
            additional_addresses=list(additional_addresses) or None,
            labels=dict(labels or {}) or None,
            watch_pid=self._connection.watch_pid,
        )


class Sandbox:
    """A sandbox: a network namespace on networks, with names.

    Attributes:
        name: the name of its service.
        id: the id of its container.
        service_id: the id of its service.
    """

    def __init__(self, connection: DaemonConnection, name: str, container: str, service: str) -> None:
        """Initialize without a request."""
        self.name = name
        self.id = container
        self.service_id = service
        self._connection = connection
        self._runner = connection.runner(container)

    def info(self) -> wire.Sandbox:
        """Return all that the daemon knows of it: its namespace, its files, its interfaces."""
        return self._connection.client.sandbox(self.id, verbose=True)

    @property
    def address(self) -> str:
        """Its first IPv4 address, without a prefix length; empty: it has none."""
        addresses = (interface.address or "" for interface in self.info().interfaces or ())
        return next(filter(None, addresses), "").partition("/")[0]

    @property
    def ports(self) -> list[wire.BoundPort]:
        """Its published ports, with the host ports that the daemon has chosen."""
        return list(self._connection.client.service(self.service_id, verbose=True).port_mapping or ())

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the sandbox to its end; return its status, ``stdout`` and ``stderr``.

        Args:
            command: the program and its arguments; no shell reads them.
            stdin: what it reads.
            timeout: seconds after which it is killed.
            check: whether a status other than 0 is an error.
            env: its environment; ``None``: that of the caller.
            cwd: its directory; ``None``: that of the caller.

        Raises:
            subprocess.CalledProcessError: with ``check``, its status is not 0.
            subprocess.TimeoutExpired: it was killed.
        """
        return self._runner.run(command, stdin=stdin, timeout=timeout, check=check, env=env, cwd=cwd)

    def start(
        self,
        command: Sequence[str],
        *,
        capture: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in the sandbox. It is the caller's to end: leave the block of the process first.

        Args:
            command: the program and its arguments.
            capture: whether its output can be read from the process; otherwise it is that of the caller.
            env: its environment; ``None``: that of the caller.
            cwd: its directory; ``None``: that of the caller.
        """
        return self._runner.start(command, capture=capture, env=env, cwd=cwd)

    def words(self, command: Sequence[str]) -> list[str]:
        """Return the words of a command that becomes the program, for other ways to start processes."""
        return self._runner.words(command)


def _port(port: str | wire.PortMapping) -> wire.PortMapping:
    if isinstance(port, wire.PortMapping):
        return port
    try:
        return parse_mapping(port).request
    except ValueError as error:
        raise invalid(str(error), code="invalid_port") from error


def _unless_gone(delete: Callable[[], None]) -> None:
    try:
        delete()
    except NotFoundError:
        return
