"""The CNI plugin: a program that hands each call to the daemon, and prints the answer.

A runtime starts it once for each container and interface, so its start is most of its cost. It imports next to nothing,
and the daemon does all the work in one request. Where a C compiler was found at the installation, ``sandnet-cni`` is
``native/sandnet-cni.c``, which does the same without an interpreter and hands to this one what fails.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {"container": "CNI_CONTAINERID", "netns": "CNI_NETNS", "ifname": "CNI_IFNAME", "args": "CNI_ARGS"}
"""The variables that the daemon gets, by their names in the query."""
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
MAX_INPUT = 1 << 20
"""Limit of the network configuration, in bytes: the daemon's own limit of a request body."""
INPUT_TIMEOUT = 10.0
"""Seconds that the runtime may take to write the whole configuration."""
TRY_AGAIN, NOT_AVAILABLE, INVALID_ENVIRONMENT, IO_FAILURE, UNREADABLE, OTHER = 11, 50, 4, 5, 6, 100
"""Codes of the specification, and the first one that is the plugin's own."""
FAILURES = {
    "input-late": (IO_FAILURE, f"the network configuration did not arrive within {INPUT_TIMEOUT:g} s"),
    "input-unreadable": (IO_FAILURE, "cannot read the network configuration"),
    "input-large": (UNREADABLE, f"the network configuration is larger than {MAX_INPUT} bytes"),
    "answer-late": (TRY_AGAIN, "the daemon did not answer in time"),
    "answer-broken": (TRY_AGAIN, "the daemon broke off without an answer; the call can be repeated"),
}
"""Codes and messages, by the names that ``native/sandnet-cni.c`` has for failures."""


class PluginError(Exception):
    """A failure that the plugin reports itself, because the daemon could not."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def main() -> None:
    """Entry point of ``sandnet-cni-python``: run the command of the environment; exit with 1 after an error."""
    command = os.environ.get("CNI_COMMAND", "")
    configuration = b""
    try:
        configuration = read_input()
        if sys.argv[1:]:
            raise failure_of(sys.argv[1], command)
        failed, output = run(command, configuration)
    except PluginError as failure:
        from sandnet.cni.replies import error

        failed, output = True, error(configuration, failure.code, failure.message, failure.details)
    except Exception as failure:  # the specification requires JSON, whatever happens
        from sandnet.cni.replies import error

        failed, output = True, error(configuration, OTHER, f"{type(failure).__name__}: {failure}")
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    sys.exit(1 if failed else 0)


def run(command: str, configuration: bytes) -> tuple[bool, bytes]:
    """Run a command.

    Args:
        command: the value of ``CNI_COMMAND``.
        configuration: the network configuration, as read.

    Returns:
        Whether it failed, and the output.

    Raises:
        PluginError: the command is unknown, or the daemon does not answer.
    """
    if command == "VERSION":
        from sandnet.cni.replies import versions

        return False, versions(configuration)
    if command not in COMMANDS:
        given = f"is unknown: {command[:40]!r}" if command else "is missing"
        raise PluginError(INVALID_ENVIRONMENT, f"CNI_COMMAND {given}", f"known: {', '.join((*COMMANDS, 'VERSION'))}")
    from sandnet.cni.exchange import RETRY_TIMEOUT, DaemonAwayError, exchange

    retry_timeout = 0.0 if command == "STATUS" else RETRY_TIMEOUT
    query = "&".join(f"{name}={quoted(os.environ.get(variable, ''))}" for name, variable in VARIABLES.items())
    target = f"/cni/{command.lower()}?{query}"
    try:
        status, is_cni, body = exchange(socket_path(configuration), target, configuration, retry_timeout)
    except DaemonAwayError as failure:
        raise _away(command, str(failure)) from None
    if is_cni:
        return status != 200, body
    from sandnet.cni.replies import reason

    raise PluginError(TRY_AGAIN if status in (429, 503) else OTHER, f"the daemon answered {status}", reason(body))


def failure_of(name: str, command: str) -> PluginError:
    """Return the error for a failure of the native plugin.

    Args:
        name: a key of :data:`FAILURES`.
        command: the value of ``CNI_COMMAND``.
    """
    code, message = FAILURES.get(name, (OTHER, f"the plugin failed: {name[:40]}"))
    return _away(command, message) if code == TRY_AGAIN else PluginError(code, message)


def _away(command: str, message: str) -> PluginError:
    code = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN
    return PluginError(code, message, "is the daemon running? see: systemctl status sandnet")


def read_input() -> bytes:
    """Return the standard input.

    Raises:
        PluginError: the runtime does not close it in time, or it is too large.
    """
    import select
    import time

    poll, deadline = select.poll(), time.monotonic() + INPUT_TIMEOUT
    poll.register(0, select.POLLIN)
    found = bytearray()
    while len(found) <= MAX_INPUT:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise PluginError(*FAILURES["input-late"])
        try:
            some = os.read(0, MAX_INPUT)
        except OSError:
            raise PluginError(*FAILURES["input-unreadable"]) from None
        if not some:
            return bytes(found)
        found += some
    raise PluginError(*FAILURES["input-large"])


def socket_path(configuration: bytes) -> str:
    """Return the path of the daemon's socket: ``socket`` of the configuration, else ``SANDNET_HOST``, else the default.

    Raises:
        PluginError: the address is no path of a socket.
    """
    url = os.environ.get("SANDNET_HOST", "")
    if b'"socket"' in configuration:  # so the configuration is only parsed where it may be there
        from sandnet.cni.replies import socket_of

        url = socket_of(configuration) or url
    path = url.removeprefix("unix://") or "/run/sandnet/sandnet.sock"
    if not path.startswith("/"):
        raise PluginError(INVALID_ENVIRONMENT, f"the daemon's address {url[:200]!r} is no socket", "unix:///path")
    return path


def quoted(text: str) -> str:
    """Return the text percent-encoded for a query."""
    if text.isascii() and text.replace("/", "").replace("-", "").replace("_", "").isalnum():
        return text
    return "".join(f"%{byte:02X}" for byte in os.fsencode(text))
