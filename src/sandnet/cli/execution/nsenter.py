"""Moving the calling process into a sandbox.

Every change here affects the calling process only, and ends with it.
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
"""Exit statuses of a shell for a command that it cannot run (POSIX.1, 2.8.2)."""


class SandboxPaths(NamedTuple):
    """The paths of a sandbox that a process needs to enter it."""

    key: str
    """Path at which its network namespace is pinned."""
    hosts: str = ""
    resolv_conf: str = ""
    own_names: bool = True
    """Whether the sandbox has names of its own; false on the host's network."""

    @classmethod
    def of(cls, sandbox: Sandbox) -> SandboxPaths:
        """Return the paths of a sandbox that was requested with ``verbose``."""
        return cls(
            sandbox.sandbox_key, sandbox.hosts_path or "", sandbox.resolv_conf_path or "", sandbox.origin != "host"
        )


def enter(place: SandboxPaths) -> None:
    """Move the calling thread into the sandbox's network, with a view of the file system that shows its names.

    For all other processes the host's files stay as they are.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses; ``NOT_FOUND``, the sandbox was removed.
    """
    _enter_network(place.key)
    call("unshare", CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_SLAVE)  # later mounts do not propagate to the host
    mount_etc(place.hosts, place.resolv_conf, own_names=place.own_names)
    if place.own_names:
        hide_name_services()
    with suppress(Error):  # refused where /sys is masked (a container): there it continues to show the host's links
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def die_with(parent: int) -> None:
    """Let the kernel kill the calling process when its parent ends; exit at once if the parent has ended already."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def execute(command: tuple[str, ...], to: int | None = None, failed: int | None = None) -> NoReturn:
    """Replace the process by the command (found on PATH, no shell); on failure exit with 126 or 127 and a message.

    Args:
        command: the program and its arguments.
        to: a descriptor for its stdout and stderr; ``None``: they stay.
        failed: a descriptor to write a byte to when it fails.
    """
    # Python ignores these two, and an ignored signal stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    errors = os.dup(2)  # has the close-on-exec flag
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
