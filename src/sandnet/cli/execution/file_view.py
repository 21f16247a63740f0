"""The files for name resolution in a sandbox: an /etc of its own, and no name service of the host.

A file that is bind-mounted over /etc/resolv.conf is lost when another program replaces the host's file by rename(2), as
network managers do: Linux detaches what is mounted on a removed name, in all mount namespaces (``__detach_mounts`` in
fs/namespace.c). Therefore the program gets a small file system of its own at /etc. A rename on the host does not affect
the names in it:

- ``hosts`` and ``resolv.conf`` lead to the sandbox's files, and show what the daemon writes to them later;
- ``nsswitch.conf`` is the host's with ``hosts: files dns``;
- every other name leads to the host's own /etc, which is mounted at ``/etc/.sandnet/etc``. Directories are bind mounts:
  everything below them is the host's, to read and to write. Files are symlinks, which follow the host's renames.

The file system itself is read-only: a name that a program made directly in it would be missing on the host.

AppArmor judges a program by the path that a file has behind all symlinks. Where it is enabled, files are bind mounts
too: they have their usual paths, and show the file that was there when the program started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection

from sandnet.cli.execution.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    call,
    mount,
)
from sandnet.errors import Error, Kind

ETC = "/etc"
OWN = f"{ETC}/.sandnet"
HOST_ETC = f"{OWN}/etc"
APPARMOR = "/sys/module/apparmor/parameters/enabled"
NAME_SERVICES = ("nscd", "systemd/resolve", "avahi-daemon", "dbus")
"""Directories below /run with sockets of services that resolve names on the host's networks.

glibc asks nscd before it reads nsswitch.conf, resolved listens on varlink and D-Bus, and avahi-daemon speaks multicast
DNS.
"""
_HOSTS_LINE = re.compile(r"[ \t]*hosts[ \t]*:")


def mount_etc(hosts: str, resolv_conf: str, *, own_names: bool) -> None:
    """Mount an /etc that contains the sandbox's files. The calling process must have a mount namespace of its own.

    Args:
        hosts: path of the sandbox's hosts file; if it is empty or there is no file, the host's stays.
        resolv_conf: path of its resolv.conf; if it is empty or there is no file, the host's stays.
        own_names: whether names are resolved from these two files alone; false on the host's own network.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses.
    """
    mask = os.umask(0)
    host = os.open(ETC, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount("sandnet", ETC, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        for directory in (OWN, HOST_ETC):
            os.mkdir(directory, 0o755)
        mount(f"/proc/self/fd/{host}", HOST_ETC, "none", MS_BIND | MS_REC)
        call("umount2", os.fsencode(HOST_ETC), 0)  # the new file system: as a mount on /etc it was copied too
        show = _bind_file if _apparmor_is_enabled() else _link
        taken = {os.path.basename(OWN)}
        for name, path in (("hosts", hosts), ("resolv.conf", resolv_conf)):
            if path and os.path.exists(path):
                _show_own_file(name, path, show)
                taken.add(name)
        if own_names:
            _write_nsswitch()
            taken.add("nsswitch.conf")
        _show_host_entries(taken, show)
        mount("none", ETC, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    except OSError as error:
        raise Error(Kind.UNAVAILABLE, f"cannot make an /etc for the sandbox: {error}", code="cannot_enter") from error
    finally:
        os.close(host)
        os.umask(mask)


def hide_name_services() -> None:
    """Cover the sockets of the host's name services, if there are any.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses.
    """
    paths = (os.path.realpath(f"{run}/{name}") for run in ("/run", "/var/run") for name in NAME_SERVICES)
    for directory in dict.fromkeys(paths):
        if os.path.isdir(directory):
            mount("sandnet", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "mode=0755")


def nsswitch(text: str) -> str:
    """Return an nsswitch.conf(5) in which host names come from the hosts file and DNS only."""
    kept = [line for line in text.splitlines() if not _HOSTS_LINE.match(line)]
    return "\n".join([*kept, "hosts: files dns", ""])


def _show_own_file(name: str, path: str, show: Callable[[str, str], None]) -> None:
    """Mount the directory of the file, so that a file that replaces it is visible too."""
    directory = f"{OWN}/{name}"
    os.mkdir(directory, 0o755)
    mount(os.path.dirname(path), directory, "none", MS_BIND)
    show(name, f"{directory}/{os.path.basename(path)}")


def _write_nsswitch() -> None:
    try:
        with open(f"{HOST_ETC}/nsswitch.conf", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError:  # glibc has defaults for what the file does not contain
        text = ""
    with open(f"{ETC}/nsswitch.conf", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(nsswitch(text))
    os.chmod(f"{ETC}/nsswitch.conf", 0o644)


def _show_host_entries(taken: Collection[str], show: Callable[[str, str], None]) -> None:
    with os.scandir(HOST_ETC) as entries:
        for entry in entries:
            if entry.name not in taken:
                _show_host_entry(entry, show)


def _show_host_entry(entry: os.DirEntry[str], show: Callable[[str, str], None]) -> None:
    if entry.is_dir(follow_symlinks=False):
        _bind_directory(entry.name, entry.path)
    elif entry.is_symlink() and not (target := os.readlink(entry.path)).startswith("/"):
        os.symlink(target, f"{ETC}/{entry.name}")  # a relative target is correct from /etc and wrong from elsewhere
    elif entry.is_file(follow_symlinks=False):
        show(entry.name, entry.path)
    else:
        _link(entry.name, entry.path)


def _bind_directory(name: str, source: str) -> None:
    os.mkdir(f"{ETC}/{name}", 0o755)
    try:
        mount(source, f"{ETC}/{name}", "none", MS_BIND | MS_REC)
    except Error:  # it was removed after it was listed
        os.rmdir(f"{ETC}/{name}")
        _link(name, source)


def _bind_file(name: str, source: str) -> None:
    os.close(os.open(f"{ETC}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    try:
        mount(source, f"{ETC}/{name}", "none", MS_BIND)
    except Error:  # it was removed after it was listed
        os.unlink(f"{ETC}/{name}")
        _link(name, source)


def _link(name: str, source: str) -> None:
    os.symlink(os.path.relpath(source, ETC), f"{ETC}/{name}")


def _apparmor_is_enabled() -> bool:
    try:
        with open(APPARMOR, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False
