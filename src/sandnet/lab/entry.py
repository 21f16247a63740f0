"""Ways into the namespaces of a host: for a command of the user, and for a process that the supervisor starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    request_parent_death_signal,
    set_namespace,
)

KINDS: Final = (
    ("pid", CLONE_NEWPID),
    ("net", CLONE_NEWNET),
    ("uts", CLONE_NEWUTS),
    ("ipc", CLONE_NEWIPC),
    ("mnt", CLONE_NEWNS),
)
"""The namespaces that a host has of its own, in the order in which they are entered."""
NEW_NAMESPACES: Final = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS


def open_namespaces(pid: int) -> list[int]:
    """Return descriptors of the namespaces of a process, in the order of :data:`KINDS`; the caller closes them.

    Raises:
        OSError: the process has ended.
    """
    opened: list[int] = []
    try:
        for name, _ in KINDS:
            opened.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        close_all(opened)
        raise
    return opened


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def enter_namespaces(descriptors: Sequence[int]) -> None:
    """Move the calling process into these namespaces; its next child is the first to be in the PID namespace.

    The working directory stays where there is one of that name.

    Raises:
        OSError: the kernel refuses.
    """
    folder = os.getcwd()
    for (_, kind), descriptor in zip(KINDS, descriptors, strict=True):
        set_namespace(descriptor, kind)
    with suppress(OSError):
        os.chdir(folder)


def fork_inside(descriptors: Sequence[int]) -> int:
    """Enter the namespaces, and fork: only a child is in the PID namespace. Return what ``os.fork`` does.

    The child ends with its parent.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses.
    """
    try:
        enter_namespaces(descriptors)
    except OSError as failure:
        hint = "it takes root, and a caller outside of chroot and user namespaces of its own"
        raise Error(Kind.UNAVAILABLE, f"cannot enter the host: {failure.strerror}", hint, "cannot_enter") from failure
    child = os.fork()
    if child == 0:
        request_parent_death_signal()
    return child
