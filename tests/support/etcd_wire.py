"""A wire between a daemon and a member of etcd that loses what it is told to: ``python -m tests.support.etcd_wire``.

It passes HTTP on from a port of the loopback device. A file has what happens to the next transactions that write, and
how many they are: ``answer 1`` (it is applied, and its answer is lost), ``silence 1`` (the same, and the connection
stays open), ``request 1`` (it is lost itself). Each that is lost is noted in the file beside it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WRITES = (b'"request_put"', b'"request_delete_range"')


class Orders(NamedTuple):
    """What the wire was told, and where it notes what it has lost."""

    file: Path

    @property
    def lost(self) -> Path:
        """A line for each transaction that was lost."""
        return self.file.with_suffix(".lost")

    def take(self) -> str:
        """Return what happens to a transaction that arrives now; empty: it passes."""
        kind, _, count = self.file.read_text().partition(" ") if self.file.exists() else ("", "", "0")
        if not int(count or "0"):
            return ""
        self.file.write_text(f"{kind} {int(count) - 1}")
        with self.lost.open("a") as lost:
            lost.write(f"{kind}\n")
        return kind


class Connection:
    """One connection, with at most one request under way."""

    def __init__(self, orders: Orders, target: tuple[str, int]) -> None:
        self._orders, self._target, self._order = orders, target, ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass everything on until one side closes."""
        try:
            answers, upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        tasks = [asyncio.create_task(each) for each in (self._ask(reader, upstream), self._answer(answers, writer))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (upstream, writer):
            end.close()

    async def _ask(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                self._order = self._orders.take() if b" /v3/kv/txn " in head and _writes(body) else ""
                if self._order == "request":
                    return
                upstream.write(head + body)
                await upstream.drain()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await answers.read(65536):
                if self._order == "answer":
                    return
                if self._order != "silence":
                    writer.write(data)
                    await writer.drain()


def _writes(body: bytes) -> bool:
    """Whether a transaction writes: reads alone are sent as transactions, too."""
    return any(word in body for word in _WRITES)


async def _main(port: str, target: str, orders: str) -> None:
    host, _, target_port = target.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(Orders(Path(orders)), (host, int(target_port))).serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", int(port), limit=1 << 24)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
