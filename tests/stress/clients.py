"""HTTP clients that can be killed at any byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

DEADLINE = 90.0
"""Seconds for an answer: longer than the daemon gives itself, so none at all means a hang."""


class AwayError(Exception):
    """No one listens: nothing was sent."""


@dataclass(frozen=True)
class Cut:
    """When a client is killed: after a part of its request, or a while after all of it."""

    part: float = 1.0
    seconds: float = 0.0

    @staticmethod
    def at_random(random: Random) -> Cut:
        """One third during the request, the rest soon after it."""
        return Cut(part=random.random()) if random.random() < 1 / 3 else Cut(seconds=random.random() * 0.02)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: object

    def reported(self, key: str) -> str:
        """A text of a refusal."""
        return str(self.body.get(key, "")) if isinstance(self.body, dict) else ""


async def ask(socket: Path, method: str, path: str, body: object = None, cut: Cut | None = None) -> Answer | None:
    """One request on a connection of its own; ``None`` when it broke off before the answer was complete.

    Raises:
        AwayError: no one listens.
        TimeoutError: no answer within ``PATIENCE``.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=1 << 24)
    except OSError as error:
        raise AwayError from error
    try:
        request = _request(method, path, body)
        writer.write(request[: int(len(request) * cut.part)] if cut else request)
        await writer.drain()
        if cut:
            await asyncio.sleep(cut.seconds)
            return None
        async with asyncio.timeout(DEADLINE):
            return _answer(await reader.read(-1))
    except ConnectionError:
        return None
    finally:
        writer.transport.abort()


def _request(method: str, path: str, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def _answer(reported: bytes) -> Answer | None:
    head, end, content = reported.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
    if len(content) < length:
        return None
    return Answer(int(lines[0].split()[1]), json.loads(content) if content else None)
