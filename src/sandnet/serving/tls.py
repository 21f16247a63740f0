"""The daemon's side of mutual TLS: who reaches it over TCP shows a certificate that our CA has signed."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandnet.config import Config
from sandnet.errors import Error, invalid

_FOR_OTHERS: Final = 0o077


def server_context(config: Config) -> ssl.SSLContext | None:
    """What secures TCP listeners: TLS 1.2 or newer, a client certificate required; ``None``: no files are named.

    Raises:
        Error: ``INVALID`` when only some files are named, or one cannot be used.
    """
    files = (config.tls_cert, config.tls_key, config.tls_ca)
    if not any(files):
        return None
    if not all(files):
        raise invalid("TLS needs three files", "give tls_cert, tls_key and tls_ca", "tls_incomplete")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session would not look at the certificate again
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=config.tls_ca)
        with _private(config.tls_key) as key:
            context.load_cert_chain(config.tls_cert, key, password=_no_password)
    except OSError as failure:  # ssl.SSLError is one
        told = failure if failure.filename else f"{', '.join(files)}: {failure}"
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
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & _FOR_OTHERS:
            raise _exposed(path)
        yield f"/proc/self/fd/{key}"
    finally:
        os.close(key)


def _exposed(path: str) -> Error:
    message = f"the TLS key {path} can be read by others, or is another user's"
    return invalid(
        message, f"chown root {path}; chmod 600 {path}; if it was exposed, make a new one", "tls_key_exposed"
    )
