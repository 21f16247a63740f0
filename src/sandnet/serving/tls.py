"""The daemon's side of mutual TLS: a TCP client must present a certificate that the configured CA has signed.

Certificates expire, and other programs renew them by replacing the files: they are read again when they change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sandnet.config import Config
from sandnet.errors import Error, invalid

CHECK_INTERVAL: Final = 2.0
"""Seconds between two checks whether the files have changed."""
_OTHERS_BITS: Final = 0o077

_log = logging.getLogger(__name__)


def certificates(config: Config) -> Certificates | None:
    """Return the certificates for TCP listeners; ``None``: no files are configured.

    Raises:
        Error: ``INVALID`` when only some files are named, or one cannot be used.
    """
    files = (config.tls_cert, config.tls_key, config.tls_ca)
    if not any(files):
        return None
    if not all(files):
        raise invalid("TLS needs three files", "give tls_cert, tls_key and tls_ca", "tls_incomplete")
    return Certificates(*files)


class Certificates:
    """The TLS files, and the last usable content that was read of them.

    Args:
        cert: PEM file of our certificate and those between it and the CA that signed it.
        key: PEM file of its key.
        ca: PEM file of the CA that signs clients' certificates.

    Raises:
        Error: ``INVALID`` one of them cannot be used.
    """

    def __init__(self, cert: str, key: str, ca: str) -> None:
        self._files = (cert, key, ca)
        self._seen = self._check()
        self._requested = asyncio.Event()
        self.context = _context(cert, key, ca)
        """The TLS context for new connections."""
        self.problem = ""
        """Why the current files are not in force, as text; empty if they are."""

    def request_check(self) -> None:
        """Request a check of the files now."""
        self._requested.set()

    async def maintain(self) -> None:
        """Read the files again whenever they have changed; never returns."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._requested.wait(), CHECK_INTERVAL)
            self._requested.clear()
            try:
                await asyncio.to_thread(self.renew)
            except Exception:  # the next check must follow: if no thread is free now, there will be one later
                _log.exception("looking at the TLS files failed")

    def renew(self) -> None:
        """Read the files again if they differ from those in force.

        If they cannot be used, those in force stay, and the next call retries: the cause may be only a lack of
        descriptors.
        """
        seen = self._check()
        if seen == self._seen:
            self.problem = ""
            return
        try:
            self.context = _context(*self._files)
        except Error as failure:
            problem = f"{failure}; those read before stay in force"
            if problem != self.problem:
                _log.error("%s", problem)
            self.problem = problem
        else:
            self.problem, self._seen = "", seen
            _log.info("the TLS files have changed, and are in force for new connections")

    def _check(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(_identity(file) for file in self._files)


def _identity(path: str) -> tuple[int, ...] | None:
    """Return an identity of the file that changes when it is replaced, written to, or given to another user."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _context(cert: str, key: str, ca: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that requires a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session would not verify the certificate again
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=ca)
        with _private(key) as own:
            context.load_cert_chain(cert, own, password=_no_password)
    except OSError as failure:  # ssl.SSLError is one
        reason = failure if failure.filename else f"{cert}, {key}, {ca}: {failure}"
        raise invalid(
            f"cannot use the TLS files: {reason}", "they are PEM, the key without password", "tls_files"
        ) from (failure)
    return context


def _no_password() -> str:
    """Return an empty password: a server cannot prompt for one on a terminal."""
    return ""


@contextmanager
def _private(path: str) -> Iterator[str]:
    """Yield a path of the opened key, after a check that no user but root and this one can read it.

    It stays this file, even if another one replaces it in the meantime.
    """
    key = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        info = os.fstat(key)
        if not stat.S_ISREG(info.st_mode):
            raise invalid(f"the TLS key {path} is no file", code="tls_files")
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & _OTHERS_BITS:
            raise _exposed(path)
        yield f"/proc/self/fd/{key}"
    finally:
        os.close(key)


def _exposed(path: str) -> Error:
    message = f"the TLS key {path} can be read by others, or is another user's"
    return invalid(
        message, f"chown root {path}; chmod 600 {path}; if it was exposed, make a new one", "tls_key_exposed"
    )
