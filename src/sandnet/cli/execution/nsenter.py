"""Turning this process into one that lives in a sandbox.

What is here happens to the calling process only, and ends with it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from sandnet.cli import output
from sandnet.cli.execution.file_view import hide_name_services, mount_etc
from sandnet.cli.execution.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
    MS_SLAVE,
    PR_SET_PDEATHSIG,
    call,
    mount,
)
from sandnet.errors import Error, Kind

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import Sandbox

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit statuses of a shell for a command it cannot run (POSIX.1, 2.8.2)."""


class SandboxPaths(NamedTuple):
    """A sandbox as a process sees it."""

    key: str
    """Path at which its network namespace is pinned."""
    hosts: str = ""
    resolv_conf: str = ""
    own_names: bool = True
    """Whether it has names of its own; false on the host's network."""

    @classmethod
    def of(cls, sandbox: Sandbox) -> SandboxPaths:
        """Return the place of a sandbox that was asked for with ``verbose``."""
        return cls(
            sandbox.sandbox_key, sandbox.hosts_path or "", sandbox.resolv_conf_path or "", sandbox.origin != "host"
        )


def enter(place: SandboxPaths) -> None:
    """Move the calling thread into the sandbox's network, with a view of the file system that shows its names.

    The host's files stay as they are for everybody else.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses; ``NOT_FOUND``, the sandbox is gone.
    """
    _enter_network(place.key)
    call("unshare", CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_SLAVE)  # nothing mounted from here on reaches the host
    mount_etc(place.hosts, place.resolv_conf, own_names=place.own_names)
    if place.own_names:
        hide_name_services()
    with suppress(Error):  # refused where /sys is masked (a container): there it goes on showing the host's links
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def die_with(parent: int) -> None:
    """From now on the calling process is killed when its parent ends; ends at once if that has happened already."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def execute(command: tuple[str, ...], to: int | None = None, failed: int | None = None) -> NoReturn:
    """Become the command (found on PATH, no shell); ends with 126 or 127 and a message when that fails.

    Args:
        command: the program and its arguments.
        to: a descriptor for its stdout and stderr; ``None``: they stay.
        failed: a descriptor to write a byte to when it fails.
    """
    # Python ignores these two, and what is ignored stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    errors = os.dup(2)  # closed by itself when the command is executed
    for standard in (1, 2) if to is not None else ():
        os.dup2(to or 0, standard)
    try:
        os.execvp(command[0], command)  # noqa: S606 (no shell is the point)
    except (OSError, ValueError) as error:
        os.dup2(errors, 2)
        if failed is not None:
            os.write(failed, b"1")
        output.failure(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}")
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError | ValueError) else NOT_EXECUTABLE)


def _enter_network(key: str) -> None:
    try:
        namespace = os.open(key, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = "run the command on the daemon's host, with the daemon's rights"
        raise Error(Kind.NOT_FOUND, f"cannot open the sandbox at {key}: {error.strerror}", hint) from error
    try:
        call("setns", namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)
