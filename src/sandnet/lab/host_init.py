"""The first process of a host: it makes the host's view of the machine, and waits for the ends of its processes.

Everything on the host is in its PID namespace: when this process ends, the kernel ends all of it at once. The host has
its own ``/run``, ``/var/lib``, ``/proc``, ``/sys``, names, machine id and boot id. All other files are the machine's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from sandnet.kernel.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount
from sandnet.lab.lab_spec import PREFIX_LENGTH, PREFIX_LENGTH6, LabSpec, address, address6, host_name

FRESH_DIRECTORIES: Final = ("/run", "/var/lib")
KEPT: Final = {"state": "/var/lib/sandnet", "etcd": "/var/lib/etcd"}
"""Directories that survive the loss of power, by their names in the directory of the host."""
ETC_FILES: Final = ("hosts", "resolv.conf", "machine-id")
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
CGROUPS: Final = "/sys/fs/cgroup"
INTERFACE: Final = "eth0"
"""A host's link to the switch."""


def write_own_files(number: int, spec: LabSpec, folder: Path) -> None:
    """Write what differs from host to host into the host's directory. The machine id stays, the boot id does not."""
    for name in KEPT:
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    names = [f"{address(each)} {host_name(each)}\n{address6(each)} {host_name(each)}\n" for each in _numbers(spec)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + "".join(names))
    (folder / "resolv.conf").write_text("# No name server: the hosts of a lab reach only each other.\n")
    if not (folder / "machine-id").exists():
        (folder / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")


def _numbers(spec: LabSpec) -> range:
    return range(1, spec.hosts + 1)


def set_up_host(number: int, spec: LabSpec, folder: Path) -> None:
    """Make the host's view of the machine, in new namespaces of the calling process.

    Args:
        number: of the host.
        spec: the lab.
        folder: the host's directory, after :func:`write_own_files`.

    Raises:
        OSError: the kernel refuses.
    """
    socket.sethostname(host_name(number))
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    sources = {folder / name: target for name, target in KEPT.items()}
    sources |= {path: str(path) for path in _programs(spec)}
    sources |= {folder / name: f"/etc/{name}" for name in ETC_FILES}
    sources[folder / "boot_id"] = BOOT_ID
    opened = {os.open(source, os.O_PATH | os.O_CLOEXEC): target for source, target in sources.items()}
    for fresh in FRESH_DIRECTORIES:  # from here on, the directory of the host may be out of sight
        mount("lab", fresh, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    _mount_sys()
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for descriptor, target in opened.items():
        _show(descriptor, target)
        os.close(descriptor)


def _programs(spec: LabSpec) -> Iterator[Path]:
    """Yield the directories of sandnet's own code and of Python that are below those that a host has afresh."""
    used = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2], Path(spec.program).parent}
    for path in used:
        if any(path.is_relative_to(fresh) for fresh in FRESH_DIRECTORIES):
            yield path


def _show(descriptor: int, target: str) -> None:
    """Mount what a descriptor refers to; a file that the machine does not have is left out."""
    source = f"/proc/self/fd/{descriptor}"
    target = os.path.realpath(target)
    if target.startswith(tuple(f"{fresh}/" for fresh in FRESH_DIRECTORIES)):
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:  # as where /etc/resolv.conf is a symlink to a file of a resolver
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
    if os.path.exists(target):
        mount(source, target, "", MS_BIND | MS_REC)


def _mount_sys() -> None:
    """Mount a /sys with the host's links, and the machine's control groups in it; where it is refused, leave it."""
    groups = os.open(CGROUPS, os.O_PATH | os.O_CLOEXEC) if os.path.isdir(CGROUPS) else None
    with suppress(OSError):
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if groups is not None:
            mount(f"/proc/self/fd/{groups}", CGROUPS, "", MS_BIND | MS_REC)
    if groups is not None:
        os.close(groups)


def configure_links(number: int) -> None:
    """Give the host its addresses.

    Raises:
        subprocess.CalledProcessError: ``ip`` failed.
    """
    commands = (
        "link set lo up\n"
        f"link set {INTERFACE} up\n"
        f"address add {address(number)}/{PREFIX_LENGTH} dev {INTERFACE}\n"
        f"address add {address6(number)}/{PREFIX_LENGTH6} dev {INTERFACE} nodad\n"
    )
    subprocess.run(["ip", "-batch", "-"], input=commands, capture_output=True, text=True, check=True)


def wait_for_children() -> NoReturn:
    """Wait for the ends of processes that have no other parent, until this one is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwaitinfo({signal.SIGCHLD})
