"""Prepared sandboxes in the kernel: what is inside, and that a failure leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from sandnet.kernel.linux.pool.preparation import Listen, close_sandbox, prepare_sandbox
from sandnet.kernel.types import PreparedSandbox
from tests.support.network_host import Host, eventually

LISTEN = Listen(ip_address("127.0.0.11"), 53)


@pytest.fixture
def prepared(host: Host) -> Iterator[PreparedSandbox]:
    made = host.run(prepare_sandbox, LISTEN)
    yield made
    close_sandbox(made)


def path(prepared: PreparedSandbox) -> str:
    return f"/proc/{os.getpid()}/fd/{prepared.namespace}"


def links(host: Host) -> set[str]:
    return {str(each["ifname"]) for each in json.loads(host.sh("ip", "-j", "link"))}


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Allow this process only some more descriptors than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_inside_is_loopback_and_a_link_without_addresses(host: Host, prepared: PreparedSandbox) -> None:
    shown = {each["ifname"]: each for each in json.loads(host.sh("ip", "-j", "-d", "addr", namespace=path(prepared)))}
    assert shown.keys() <= {"lo", "eth0", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0"}
    assert "UP" in shown["lo"]["flags"]
    assert "UP" not in shown["eth0"]["flags"]
    assert not shown["eth0"]["addr_info"]
    details = json.loads(host.sh("ip", "-j", "-d", "link", "show", "eth0", namespace=path(prepared)))[0]
    assert details["inet6_addr_gen_mode"] == "none"
    assert shown["eth0"]["ifindex"] == prepared.inner_index
    assert shown["eth0"]["link_index"] == prepared.host_index
    assert os.fstat(prepared.namespace).st_ino == prepared.inode


def test_resolver_sockets_listen_inside(host: Host, prepared: PreparedSandbox) -> None:
    assert prepared.sockets
    assert [each.getsockname() for each in prepared.sockets] == [("127.0.0.11", 53)] * 2
    assert "127.0.0.11:53" in host.sh("ss", "-Hlntu", namespace=path(prepared))
    assert not host.sh("ss", "-Hlntu")


def test_thread_is_on_the_host_again(host: Host, prepared: PreparedSandbox) -> None:
    assert host.run(os.stat, "/proc/thread-self/ns/net").st_ino != prepared.inode
    assert prepared.host_link in links(host)


def test_failure_at_any_descriptor_leaves_nothing(host: Host) -> None:
    before, open_before = links(host), len(os.listdir("/proc/self/fd"))
    failures = [failure for more in range(8) if (failure := _prepared_with(host, more))]
    assert len(failures) >= 3
    assert {failure.errno for failure in failures} == {errno.EMFILE}
    assert len(os.listdir("/proc/self/fd")) == open_before
    eventually(lambda: links(host) == before)


def _prepared_with(host: Host, descriptors: int) -> OSError | None:
    """Prepare and close a sandbox with so many free descriptors; return the failure."""
    with few_descriptors(descriptors):
        try:
            made = host.run(prepare_sandbox, LISTEN)
        except OSError as failure:
            return failure
    close_sandbox(made)
    return None
