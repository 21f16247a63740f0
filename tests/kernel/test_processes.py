"""Processes, where Linux knows more about them than the contract."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.processes import LinuxProcesses


@pytest.fixture
def processes() -> LinuxProcesses:
    return LinuxProcesses()


@contextmanager
def descriptors(number: int) -> Iterator[None]:
    """So many further descriptors can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(number + 1)]
    for each in free:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No further descriptor can be opened."""
    with descriptors(0):
        yield


def test_thread_id_is_distinguished_from_a_process(processes: LinuxProcesses) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(10,))
    thread.start()
    try:
        with pytest.raises(Error) as caught:
            processes.started(thread.native_id or 0)
        assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "not_a_process")
    finally:
        done.set()
        thread.join()


def test_start_time_is_right_for_a_hostile_process_name(processes: LinuxProcesses, tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (2 3"
    program.symlink_to("/bin/sleep")
    plain = subprocess.Popen(["/bin/sleep", "60"])
    odd = subprocess.Popen([str(program), "60"])
    try:
        first, second = processes.started(plain.pid), processes.started(odd.pid)
        assert first is not None
        assert second is not None
        assert 0 <= second - first < 100 * 60
    finally:
        for process in (plain, odd):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("few_descriptors")
def test_watch_without_a_descriptor_is_unavailable_not_exited(processes: LinuxProcesses) -> None:
    with pytest.raises(Error) as caught:
        processes.watch(os.getpid(), 1)
    assert caught.value.kind is Kind.UNAVAILABLE


def test_watch_with_last_descriptor_is_unavailable_not_exited(
    processes: LinuxProcesses,
) -> None:
    started = processes.started(os.getpid())
    assert started is not None
    with descriptors(1):
        for look in (lambda: processes.watch(os.getpid(), started), lambda: processes.started(os.getpid())):
            with pytest.raises(Error) as caught:
                look()
            assert caught.value.kind is Kind.UNAVAILABLE
    watched = processes.watch(os.getpid(), started)
    assert watched is not None
    watched.close()


@pytest.mark.usefixtures("few_descriptors")
def test_namespace_scan_without_a_descriptor_is_unavailable(processes: LinuxProcesses) -> None:
    with pytest.raises(Error) as caught:
        processes.namespaces()
    assert caught.value.kind is Kind.UNAVAILABLE
