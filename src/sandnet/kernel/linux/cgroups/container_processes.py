"""The first process of a running container of Docker, Podman, containerd or CRI-O, by the name of its control group.

An engine names a container's control group by its id. Anyone who may make control groups can use such a name, so only
groups that root owns count, with all groups above them. Of nested names the outer one counts: a container that runs an
engine of its own cannot pass as another container of the host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.netlink.socket import map_errors

REFERENCE: Final = re.compile(r"[0-9a-f]{12,64}")
_CONTAINER: Final = re.compile(
    r"(?:docker-|libpod-|cri-containerd-|crio-|[^/]*:cri-containerd:|[^/]*:crio:)?(?P<id>[0-9a-f]{64})(?:\.scope)?"
)
_START_TIME: Final = 22 - 3
"""Index of the start time among the fields after the command's name (proc_pid_stat(5))."""
_MAX_FILE: Final = 1 << 16
ENDED: Final = (FileNotFoundError, ProcessLookupError)
"""Errors of /proc for a process that has exited."""
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups."""

    path: str
    root: str
    """The group that is mounted there."""


class _Candidate(NamedTuple):
    """A process of a container."""

    started: int
    pid: int
    group: str


def find_container_process(reference: str) -> int:
    """Return the first process of the running container with that id, or with an id that begins so.

    Raises:
        Error: ``INVALID``, the reference is no id, or means several containers; ``NOT_FOUND``, none runs;
            ``UNAVAILABLE``, the processes cannot be read.
    """
    if not REFERENCE.fullmatch(reference):
        message = f"{reference!r} is no id of a container"
        raise invalid(message, "give the id that the engine shows: 12 to 64 hex digits", "invalid_container")
    with map_errors("look for the processes of a container"):
        found = _candidates(reference)
    if not found:
        hint = "see the engine's list of containers; of one whose control group root does not own, give a process (pid)"
        raise Error(Kind.NOT_FOUND, f"no container with the id {reference} runs", hint, "container_not_running")
    groups = {(identifier, candidate.group) for identifier, all_ in found.items() for candidate in all_}
    if len(groups) > 1:
        listed = ", ".join(sorted(group for _, group in groups)[:10])
        raise invalid(f"{reference} means more than one container: {listed}", "give a process (pid)", "ambiguous")
    return min(next(iter(found.values()))).pid


def _candidates(reference: str) -> dict[str, list[_Candidate]]:
    """Return the processes of the containers whose ids begin with the reference, by the containers' ids."""
    mounts = _mounts()
    own = _own_group()
    found: dict[str, list[_Candidate]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(*ENDED, PermissionError):
            for hierarchy, group in _groups(name):
                match = _outer_container(group.removeprefix(own))
                if match and match[0].startswith(reference):
                    path = group[: len(group) - len(group.removeprefix(own))] + match[1]
                    if _is_owned_by_root(mounts.get(hierarchy), path):
                        candidate = _Candidate(start_time(_read(f"/proc/{name}/stat")), int(name), match[1])
                        found.setdefault(match[0], []).append(candidate)
                        break
    return found


def _outer_container(group: str) -> tuple[str, str] | None:
    """Return the id of the outermost container in a group's path, and the path up to there."""
    parts = group.split("/")
    for count, part in enumerate(parts, 1):
        if match := _CONTAINER.fullmatch(part):
            return match["id"], "/".join(parts[:count])
    return None


def _own_group() -> str:
    """Return the path of the container's group in which the daemon itself runs; empty: it runs in none."""
    found = (_outer_container(group) for _, group in _groups("self"))
    return next((match[1] for match in found if match), "")


def _groups(process: str) -> Iterator[tuple[str, str]]:
    """Yield hierarchy and path of a process's groups (cgroups(7)); the hierarchy of version 2 has an empty name."""
    for line in _read(f"/proc/{process}/cgroup").splitlines():
        _, _, rest = line.partition(":")
        hierarchy, _, group = rest.partition(":")
        yield hierarchy, group


def _mounts() -> dict[str, _Mount]:
    """Return where each hierarchy is mounted, by its controllers as in ``/proc/PID/cgroup``."""
    found: dict[str, _Mount] = {}
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            kind, _, options = fields[fields.index("-") + 1 :][:3]
            if kind in ("cgroup", "cgroup2"):
                mount = _Mount(unescaped(fields[4]), unescaped(fields[3]))
                names = [] if kind == "cgroup2" else [name for name in options.split(",") if name not in _FLAGS]
                for name in (",".join(names), ",".join(sorted(names))):
                    found.setdefault(name, mount)
    return found


_FLAGS: Final = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "release_agent"}


def unescaped(path: str) -> str:
    """Return a path of mountinfo as it is: blanks and the like are written there as octal numbers (proc(5))."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)


def _is_owned_by_root(mount: _Mount | None, group: str) -> bool:
    """Return whether root owns a group and all groups above it; false where that cannot be seen."""
    root = "" if mount is None or mount.root == "/" else mount.root
    if mount is None or not f"{group}/".startswith(f"{root}/") or "/../" in f"{group}/":
        return False
    path = mount.path
    for part in group.removeprefix(root).strip("/").split("/"):
        path = f"{path}/{part}"
        try:
            if os.lstat(path).st_uid != 0:
                return False
        except OSError:
            return False
    return True


def start_time(stat: str) -> int:
    """Return the start time of a process from its ``/proc/PID/stat``, in clock ticks since boot."""
    _, _, fields = stat.rpartition(")")  # the name may hold anything, parentheses and spaces too
    return int(fields.split()[_START_TIME])


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_FILE).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)
