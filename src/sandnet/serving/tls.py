"""The daemon's side of mutual TLS: who reaches it over TCP shows a certificate that our CA has signed.

Certificates end, and are renewed by programs that replace the files: they are read again when they change.
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
"""Seconds between two looks whether the files have changed."""
_OTHERS_BITS: Final = 0o077

_log = logging.getLogger(__name__)


def certificates(config: Config) -> Certificates | None:
    """What secures TCP listeners; ``None``: no files are named.

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
    """The TLS files, and what was read of them last that can be used.

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
        """For connections that begin now."""
        self.problem = ""
        """Why the files that are there now are not those in force, in words; empty when they are."""

    def ask(self) -> None:
        """Have the files looked at now."""
        self._requested.set()

    async def maintain(self) -> None:
        """Read them again whenever they have changed; never returns."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._requested.wait(), CHECK_INTERVAL)
            self._requested.clear()
            try:
                await asyncio.to_thread(self.renew)
            except Exception:  # the next look must come: where no thread is free, there will be one later
                _log.exception("looking at the TLS files failed")

    def renew(self) -> None:
        """Read them again if they are not those in force. Where they cannot be used these stay, and the next call tries
        again: it may be for want of a file descriptor only."""
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
    """What is another one after the file was replaced, written to, or given to somebody else."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _context(cert: str, key: str, ca: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, a client certificate required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session would not look at the certificate again
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=ca)
        with _private(key) as own:
            context.load_cert_chain(cert, own, password=_no_password)
    except OSError as failure:  # ssl.SSLError is one
        told = failure if failure.filename else f"{cert}, {key}, {ca}: {failure}"
        raise invalid(f"cannot use the TLS files: {told}", "they are PEM, the key without password", "tls_files") from (
            failure
        )
    return context


def _no_password() -> str:
    """Asking on the terminal is no way to start a server."""
    return ""


@contextmanager
def _private(path: str) -> Iterator[str]:
    """A path of the key as it was found to be ours alone, whatever is put in its place meanwhile."""
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
