"""The start of a lab: the supervisor is forked into namespaces of its own, and reports how far it is."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import IO, NoReturn

import msgspec

from sandnet.errors import Error, Kind
from sandnet.kernel.syscalls import unshare
from sandnet.lab import etcd_member
from sandnet.lab.entry import NEW_NAMESPACES
from sandnet.lab.environment import set_environment
from sandnet.lab.lab_client import error_of, kill_and_wait
from sandnet.lab.lab_directory import LabDirectory
from sandnet.lab.lab_messages import Progress
from sandnet.lab.lab_spec import LabSpec, check_spec
from sandnet.lab.supervisor import supervise
from sandnet.prerequisites import has_program, install_command


def start_lab(spec: LabSpec, report: Callable[[str], None]) -> None:
    """Start a lab that goes on without the calling process.

    Args:
        spec: what it has.
        report: gets a line for each step.

    Raises:
        Error: ``INVALID``, no lab can be so; ``CONFLICT``, there is one of that name; ``UNAVAILABLE``, something does
            not start. Then nothing is left of it.
    """
    check_spec(spec)
    _check_prerequisites(spec)
    directory = LabDirectory(spec.name)
    lock = directory.claim()
    try:
        reader = _fork_supervisor(spec, directory, lock)
        with reader:
            _follow(reader, report, directory)
    except BaseException:
        directory.remove()
        raise
    finally:
        os.close(lock)


def _check_prerequisites(spec: LabSpec) -> None:
    if os.geteuid() != 0:
        raise Error(Kind.UNAVAILABLE, "a lab needs root: it makes network and mount namespaces", code="not_root")
    needed = {"ip": "iproute2", "nft": "nftables"}
    if spec.store:
        needed[etcd_member.PROGRAM] = etcd_member.PACKAGE
    missing = {program: package for program, package in needed.items() if not has_program(program)}
    if missing:
        without = ", or make a lab without it: sandnet lab up --no-store" if etcd_member.PROGRAM in missing else ""
        message = f"{' and '.join(missing)} cannot be found on this machine"
        raise Error(Kind.UNAVAILABLE, message, install_command(*missing.values()) + without, "program_missing")


def _fork_supervisor(spec: LabSpec, directory: LabDirectory, lock: int) -> IO[bytes]:
    """Return what the supervisor reports. It has a session of its own, nothing on stdin, and a log."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become_supervisor(spec, directory, lock, writer)
    os.close(writer)
    os.waitpid(child, 0)
    return os.fdopen(reader, "rb")


def _become_supervisor(spec: LabSpec, directory: LabDirectory, lock: int, progress: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        unshare(NEW_NAMESPACES)
        gc.freeze()  # the pages of what exists now stay common to all processes that are forked
        pid = os.fork()
        if pid:
            os.write(progress, msgspec.json.encode(Progress(pid=pid)) + b"\n")
            os._exit(0)
        _redirect(directory)
        set_environment()
        os.set_inheritable(lock, False)
        supervise(spec, directory, progress)
    except Error as failure:
        os.write(2, f"sandnet: {failure.reason}\n".encode())
    except OSError as failure:
        os.write(2, f"sandnet: {failure}\n".encode())
    finally:
        os._exit(status)  # a forked copy of the command must not continue


def _redirect(directory: LabDirectory) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(directory.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)


def _follow(reader: IO[bytes], report: Callable[[str], None], directory: LabDirectory) -> None:
    """Report lines until the lab is ready; on any failure, an interrupt included, end the supervisor."""
    supervisor = -1
    try:
        for line in reader:
            progress = msgspec.json.decode(line, type=Progress)
            if progress.pid:
                supervisor = os.pidfd_open(progress.pid)
            if progress.line:
                report(progress.line)
            if progress.error:
                raise error_of(progress.error)
            if progress.ready:
                os.close(supervisor)
                return
        raise Error(Kind.UNAVAILABLE, f"the lab did not start: {_last_line(directory)}", code="lab_not_started")
    except BaseException:
        if supervisor >= 0:
            kill_and_wait(supervisor)
        raise


def _last_line(directory: LabDirectory) -> str:
    try:
        return directory.log.read_text(errors="replace").strip().rpartition("\n")[2]
    except OSError:
        return "its first process ended"
