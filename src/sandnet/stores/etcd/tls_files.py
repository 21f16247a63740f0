"""The client's side of TLS with the members of etcd. Certificates are read again when their files change."""

from __future__ import annotations

import asyncio
import os
import ssl

from sandnet.errors import Error, Kind
from sandnet.stores.etcd.location import Credentials

UNAUTHORIZED = "store_unauthorized"


class TlsFiles:
    """The TLS files, and the context that was made of them."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._files = [path for path in credentials[:3] if path]
        self._seen: list[tuple[int, int, int]] = []
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        Raises:
            Error: ``UNAVAILABLE``, code ``store_unauthorized``: a file cannot be used.
        """
        try:
            seen = [(s.st_mtime_ns, s.st_ino, s.st_size) for s in map(os.stat, self._files)]
            if self._context is None or seen != self._seen:
                self._context = await asyncio.to_thread(self._load)
                self._seen = seen
        except OSError as failure:  # SSLError is one
            reason = failure.strerror or str(failure)
            message = f"the TLS files of the shared store cannot be used: {reason}"
            raise Error(Kind.UNAVAILABLE, message, f"see {', '.join(self._files)}", UNAUTHORIZED) from failure
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._credentials.ca or None)
        context.set_alpn_protocols(["http/1.1"])
        if self._credentials.cert:
            context.load_cert_chain(self._credentials.cert, self._credentials.key)
        return context
