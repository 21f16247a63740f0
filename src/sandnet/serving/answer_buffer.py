"""A transport that sends the head of an answer together with its body.

Uvicorn writes them one after the other, and uvloop hands each to the kernel at once: a client would be woken by the
head, only to wait again for the body.
"""

from __future__ import annotations

import asyncio
from typing import Any


class AnswerBuffer:
    """A transport that holds back a write until the next one, or until the current round of the event loop ends.

    What else a transport can do is that of the one behind it. At most one write is held back, so its limits of unsent
    bytes apply as before.

    Args:
        transport: the one behind.
        loop: the event loop of both.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data: with what is held back, or with the next write."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.writelines((held, data))

    def write_eof(self) -> None:
        """Send what is held back, and no more after it."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what is held back, and close the connection."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._held = None
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that were written and not sent."""
        return self._transport.get_write_buffer_size() + len(self._held or b"")

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self._transport.is_closing():
            self._transport.write(held)
