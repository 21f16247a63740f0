"""One member of the cluster: its connections, and whether a failed request can have been applied."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import Final

from sandnet.stores.etcd.member_connection import HttpAnswer, MemberConnection
from sandnet.stores.etcd.tls_files import UNAUTHORIZED, TlsFiles

MOST_CONNECTIONS: Final = 16
"""Limit of requests at once; more wait."""
MOST_URGENT: Final = 4
"""The same for urgent ones, which do not wait for others."""
FOR_THE_ANSWER: Final = 1 / 3
"""Part of a request's time that must be left when it is sent: else it is not, so that its outcome is known."""
CONNECT: Final = 0.5
"""Seconds for a connection, with TLS. Nothing is lost by going on to the next member."""
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
"""A host that has vanished is noticed within five seconds, also by a watch."""


class NotSent(Exception):  # noqa: N818 - the next member is asked
    """The member was not reached: the request cannot have been applied.

    Attributes:
        code: of the error if no other member is reached either.
    """

    def __init__(self, message: str, code: str = "store_unavailable") -> None:
        super().__init__(message)
        self.code = code


class NoAnswer(Exception):  # noqa: N818 - what it means depends on the request
    """The request was sent, and its answer did not arrive."""


class Member:
    """A member, by the address of its clients.

    Args:
        host: name or address.
        port: of TCP.
        tls: files of TLS; ``None``: in clear.
    """

    def __init__(self, host: str, port: int, tls: TlsFiles | None) -> None:
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host, self._port, self._tls = host, port, tls
        self._header = re.sub("%[^]]*", "", self.name)  # an interface's name means nothing to others (RFC 6874)
        self._idle: list[MemberConnection] = []
        self._slots = asyncio.Semaphore(MOST_CONNECTIONS)
        self._urgent_slots = asyncio.Semaphore(MOST_URGENT)

    async def exchange(self, path: str, body: bytes, token: str, limit: float, *, urgent: bool = False) -> HttpAnswer:
        """Send a request and return the answer.

        Args:
            path: of the URL.
            body: a JSON document.
            token: of the user; empty: none.
            limit: seconds for all.
            urgent: whether it waits for no other requests.

        Raises:
            NotSent: it was certainly not applied.
            NoAnswer: it may have been applied, or may be later.
            Error: the TLS files cannot be used.
        """
        end = asyncio.get_running_loop().time() + limit
        slots = self._urgent_slots if urgent else self._slots
        connection = None
        try:
            async with asyncio.timeout_at(end - limit * FOR_THE_ANSWER):
                connection = await self._acquire(slots)
            try:
                async with asyncio.timeout_at(end):
                    answer = await connection.exchange(self._request(path, body, token))
            finally:
                slots.release()
        except TimeoutError:
            failure = NoAnswer if connection else NotSent
            raise failure(f"{self.name} did not answer within {limit:.3g} s") from None
        except OSError as failure:
            raise self._failure(connection, failure) from failure
        if connection.is_usable:
            self._idle.append(connection)
        return answer

    async def stream(self, path: str, body: bytes, token: str) -> MemberConnection:
        """Send a request whose answer is a stream, and return the connection, which the caller must close.

        Raises:
            NotSent: the member was not reached.
            Error: the TLS files cannot be used.
        """
        try:
            connection = await self._connect()
            connection.open_stream(self._request(path, body, token))
        except OSError as failure:
            raise self._failure(None, failure) from failure
        return connection

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _acquire(self, slots: asyncio.Semaphore) -> MemberConnection:
        """Return a connection with a slot, which the caller must release."""
        await slots.acquire()
        try:
            return await self._connection()
        except BaseException:
            slots.release()
            raise

    async def _connection(self) -> MemberConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return await self._connect()

    async def _connect(self) -> MemberConnection:
        context = await self._tls.context() if self._tls else None
        async with asyncio.timeout(CONNECT):
            loop = asyncio.get_running_loop()
            name = self._host if context else None
            transport, connection = await loop.create_connection(
                MemberConnection, self._host, self._port, ssl=context, server_hostname=name
            )
            if context:
                await self._greet(connection)
        opened = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    async def _greet(self, connection: MemberConnection) -> None:
        """See whether the member accepts our certificate. In TLS 1.3 it decides after the handshake has ended here, so
        the first request would be lost, and no one would know whether it was applied.

        Raises:
            NotSent: it does not.
        """
        try:
            await connection.exchange(f"GET /version HTTP/1.1\r\nHost: {self._header}\r\n\r\n".encode())
        except OSError as failure:  # the alert may be lost in the end of the connection
            raise NotSent(f"{self.name}: {failure.strerror or failure}", UNAUTHORIZED) from failure

    def _request(self, path: str, body: bytes, token: str) -> bytes:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._header}", "Content-Type: application/json"]
        lines += ["Grpc-Metadata-hasleader: true", f"Content-Length: {len(body)}"]
        if token:
            lines.append(f"Authorization: {token}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _failure(self, connection: MemberConnection | None, failure: OSError) -> NotSent | NoAnswer:
        """Return what a failure of a connection means; ``None``: there was none yet."""
        reason = f"{self.name}: {failure.strerror or failure}"
        if connection:
            return NoAnswer(reason)
        return NotSent(reason, UNAUTHORIZED) if isinstance(failure, ssl.SSLError) else NotSent(reason)
