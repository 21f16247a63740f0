"""The pool of prepared sandboxes with its process: it is filled, used once, and survives bad luck."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from sandnet.kernel.linux.pool.pool_size import PoolLimits
from sandnet.kernel.linux.pool.preparation import Listen
from sandnet.kernel.linux.pool.preparer_process import PreparerProcess
from sandnet.kernel.linux.pool.sandbox_pool import RESERVED_DESCRIPTORS, LinuxSandboxPool
from sandnet.kernel.types import PreparedSandbox
from tests.support.network_host import Host, eventually

LISTEN = Listen(ip_address("127.0.0.11"), 53)
SECONDS = 30.0
HUNG = 1.0
"""Seconds after which the process counts as hung in these tests, once it has started."""

Scenario = Callable[[LinuxSandboxPool, PreparerProcess], Awaitable[None]]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for sends no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(least: int, most: int) -> AsyncIterator[tuple[LinuxSandboxPool, PreparerProcess]]:
    process = PreparerProcess(LISTEN)
    pool = LinuxSandboxPool(LISTEN, PoolLimits(least, most), process)
    pool.start(lambda: False)
    try:
        yield pool, process
    finally:
        await pool.stop()
        pool.close()


def run(host: Host, scenario: Scenario, least: int = 3, most: int = 3) -> None:
    """Run a scenario with a pool on the host; nothing is left afterwards."""

    async def whole() -> None:
        async with running(least, most) as (pool, process):
            await scenario(pool, process)

    before = links(host)
    host.run(asyncio.run, whole())
    assert links(host) == before


def links(host: Host) -> set[str]:
    return {str(each["ifname"]) for each in json.loads(host.sh("ip", "-j", "link"))}


def taken(pool: LinuxSandboxPool) -> PreparedSandbox:
    prepared = pool.take()
    assert prepared
    return prepared


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_pool_is_filled_and_each_sandbox_is_handed_out_once(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        first = [taken(pool) for _ in range(3)]
        await until(lambda: pool.status().ready == 3)
        second = [taken(pool) for _ in range(3)]
        found = [*first, *second]
        assert len({each.inode for each in found}) == len({each.host_link for each in found}) == 6
        for each in found:
            assert each.sockets
            assert [one.getsockname() for one in each.sockets] == [("127.0.0.11", 53)] * 2
            assert os.fstat(each.namespace).st_ino == each.inode
            pool.discard(each)
        assert pool.status().handed_out == 6

    run(host, scenario)


def test_descriptors_are_not_inherited_by_programs(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        prepared = taken(pool)
        assert prepared.sockets
        assert not any(map(os.get_inheritable, (prepared.namespace, *(one.fileno() for one in prepared.sockets))))
        pool.discard(prepared)

    run(host, scenario)


def test_empty_pool_grows_with_demand_up_to_its_limit(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 1)
        found = [pool.take() for _ in range(9)]
        assert [prepared is None for prepared in found] == [False] + [True] * 8
        assert pool.status().misses == 8
        await until(lambda: pool.status().ready == 4)
        assert pool.status().target == 4
        for prepared in filter(None, found):
            pool.discard(prepared)

    run(host, scenario, least=1, most=4)


def test_killed_process_is_started_again(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, process: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        os.kill(process.pid, signal.SIGKILL)
        pool.discard(taken(pool))
        assert pool.status().ready == 2
        await until(lambda: pool.status().ready == 3)
        assert pool.status().restarts == 1
        assert not pool.status().problem

    run(host, scenario)


def test_hung_process_is_replaced(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, process: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        process.deadline = HUNG
        hung = process.pid
        os.kill(hung, signal.SIGSTOP)
        pool.discard(taken(pool))
        await until(lambda: pool.status().restarts)
        process.deadline = SECONDS
        await until(lambda: pool.status().ready == 3)
        assert not Path(f"/proc/{hung}").exists()

    run(host, scenario)


def test_sandbox_whose_link_was_deleted_is_not_handed_out(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        first, second, third = pool._ready
        for command in (
            ("ip", "link", "delete", first.host_link),
            ("ip", "link", "set", second.host_link, "name", "theirs0"),
        ):
            ended = await asyncio.create_subprocess_exec(*command)
            assert await ended.wait() == 0
        assert taken(pool) is third
        assert pool.status().discarded == 2
        pool.discard(third)

    run(host, scenario)


def test_pool_leaves_descriptors_to_the_daemon(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        with descriptor_limit(RESERVED_DESCRIPTORS):
            await until(lambda: "Too many open files" in pool.status().problem)
            assert pool.status().ready == 0
        await until(lambda: pool.status().ready == 3)
        assert not pool.status().problem

    run(host, scenario)


def test_answer_that_finds_no_free_descriptor_is_a_failure(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, _: PreparerProcess) -> None:
        await until(lambda: pool.status().ready == 3)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        with descriptor_limit(highest + 2):
            pool.discard(taken(pool))
            filler = [os.dup(0) for _ in range(3)]
            await until(lambda: pool.status().failures)
            for each in filler:
                os.close(each)
        await until(lambda: pool.status().ready == 3)

    run(host, scenario)


USER_NAMESPACE = """
import asyncio, json, sys
from pathlib import Path
from sandnet.errors import Error
from tests.kernel.test_pool_filling import running, until
LIMIT = Path("/proc/sys/user/max_net_namespaces")

async def main():
    async with running(3, 3) as (pool, _):
        await until(lambda: pool.status().ready == 3)
        before = LIMIT.read_text()
        LIMIT.write_text("0")
        while pool.take():
            pass
        await until(lambda: "user.max_net_namespaces" in pool.status().problem)
        try:
            pool.prepare()
        except Error as refused:
            print(refused.kind.name)
        LIMIT.write_text(before)
        await until(lambda: pool.status().ready == 3 and not pool.status().problem)
asyncio.run(main())
"""


@pytest.mark.parametrize("nice", [0, 10])
def test_ordinary_user_has_a_pool_and_sees_its_namespace_limit(host: Host, nice: int) -> None:
    """With a low priority as well, which no ordinary user may raise."""
    root = Path(__file__).parents[2]
    user = ("unshare", "--user", "--map-root-user", "--net", "--mount-proc", "--fork", "--pid")
    printed = host.sh(
        "nice", f"--adjustment={nice}", "env", f"PYTHONPATH={root}", *user, sys.executable, "-c", USER_NAMESPACE
    )
    assert printed.split() == ["EXHAUSTED"]


def test_killed_holder_leaves_nothing(host: Host) -> None:
    """Also with a process that is stopped in the middle: the kernel kills it with its parent."""
    program = """
import asyncio, os, signal
from tests.kernel.test_pool_filling import running, until

async def main():
    async with running(5, 5) as (pool, process):
        await until(lambda: pool.status().ready == 5)
        os.kill(process.pid, signal.SIGSTOP)
        print(process.pid, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""
    before = links(host)
    root = Path(__file__).parents[2]
    holder = host.popen("env", f"PYTHONPATH={root}", sys.executable, "-c", program)
    assert holder.stdout
    preparer = int(holder.stdout.readline())
    assert len(links(host) - before) == 5
    holder.kill()
    holder.wait()
    eventually(lambda: links(host) == before)
    eventually(lambda: not Path(f"/proc/{preparer}").exists() or _is_zombie(preparer))


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_pool_of_size_zero_starts_no_process(host: Host) -> None:
    async def scenario(pool: LinuxSandboxPool, process: PreparerProcess) -> None:
        assert pool.take() is None
        await asyncio.sleep(0)
        assert process.starts == 0
        assert pool.status().limit == 0

    run(host, scenario, least=0, most=10)
