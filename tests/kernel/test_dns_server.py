"""The resolver's process on a real host: dig in sandboxes, crashes, upgrades, limits."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from statistics import median

import pytest

from sandnet.dns.base import RemoveClient, SetClient
from sandnet.dns.client import stop_resolver
from sandnet.dns.control_protocol import FORMER_SOCKET, SOCKET, Hello, exchange
from sandnet.kernel.linux.host_ports import PortHolder
from sandnet.kernel.linux.namespace_sockets import open_sockets_in
from sandnet.resolver import PARENT_CHECK_INTERVAL
from tests.support.conditions import until
from tests.support.dns_servers import (
    DEADLINE,
    DnsHost,
    always,
    expected_user,
    names,
    query,
    rcode,
    records,
    reply_to,
)
from tests.support.network_host import Host, seconds_to_start
from tests.support.time_limits import TRIES

_SO_MEMINFO = 55  # asm-generic/socket.h
WEB = names("front", "e1", "web", "10.0.0.2", "fd00::2")


@pytest.fixture
async def case(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DnsHost]:
    monkeypatch.setattr("sandnet.dns.client.TIMEOUT", 20.0)  # else a change may come into force after its call
    made = DnsHost(host, tmp_path)
    try:
        yield made
    finally:
        await made.close()


async def test_dig_is_answered_over_udp_and_tcp(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    for way in ("+notcp", "+tcp", "+tcp +keepopen", "+notcp +bufsize=4096 +cookie", "+noedns"):
        assert await case.dig(sandbox, "+short", *way.split(), "web") == "10.0.0.2\n"
        assert await case.dig(sandbox, "+short", *way.split(), "WeB.FRONT", "AAAA") == "fd00::2\n"
    assert await case.dig(sandbox, "+short", "-x", "10.0.0.2") == "web.front.\n"
    assert "status: NOERROR" in (nothing := await case.dig(sandbox, "web", "MX"))
    assert "ANSWER: 0" in nothing


async def test_large_answer_falls_back_to_tcp(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    many = [f"10.1.{number // 200}.{number % 200 + 1}" for number in range(1000)]
    await client.apply(sandbox, names("front", "e1", "many", *many))
    assert sorted((await case.dig(sandbox, "+short", "many")).split()) == sorted(many)


async def test_names_outlive_the_client_of_the_resolver(
    case: DnsHost,
) -> None:
    first = await case.opened()
    sandbox = case.asker("box", "front")
    await first.apply(sandbox, WEB)
    pids = case.pids()
    await first.close()
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    second = await case.opened()
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    await second.replace([sandbox, names("front", "e1", "web", "10.0.0.3")])
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.3"]
    await until(lambda: case.pids() == pids)  # the second takes a moment to end
    assert case.starts == 1


async def test_killed_resolver_has_its_names_back_after_a_second(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.replace([sandbox, WEB])
    late = []
    for _ in range(TRIES):
        answer, took = await _killed_and_asked(case, sandbox)
        assert records(answer) == ["10.0.0.2"]
        await until(lambda: not client.problem())
        if took < 1.0:
            return
        late.append(took)
    pytest.fail(f"it took {late} seconds, without those to start a process")


async def _killed_and_asked(case: DnsHost, sandbox: SetClient) -> tuple[bytes, float]:
    """The first answer after a kill, and the seconds until then, without what five starts of a process take."""
    start = asyncio.create_task(asyncio.to_thread(seconds_to_start))
    began = asyncio.get_running_loop().time()
    case.kill()
    answer = b""
    while not answer:
        assert asyncio.get_running_loop().time() - began < 30
        try:
            answer = await case.ask(sandbox, "web", deadline=0.1)
        except OSError:
            await asyncio.sleep(0.01)
    took = asyncio.get_running_loop().time() - began
    return answer, took - 5 * await start


async def test_change_during_a_resolver_kill_is_applied_afterwards(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.replace([sandbox, WEB])
    case.kill()
    await client.apply(names("front", "e1", "web", "10.0.0.7"))
    await until(lambda: not client.problem())
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.7"]


async def test_takeover_by_another_release_fails_no_lookup(case: DnsHost) -> None:
    old = await case.opened(release="1.0")
    sandbox = case.asker("box", "front")
    await old.replace([sandbox, WEB])
    before = case.pids()
    await old.close()
    answered: list[bytes] = []
    asking = asyncio.create_task(_ask_all_the_time(case, sandbox, answered))
    await until(lambda: answered)
    new = await case.opened(release="2.0")
    await new.replace([sandbox, WEB])
    await until(lambda: len(case.pids()) == 1 and case.pids() != before)
    enough = len(answered) + 10
    await until(lambda: len(answered) >= enough or asking.done())
    asking.cancel()
    await asking
    assert not (case.run_dir / FORMER_SOCKET).exists()


async def _ask_all_the_time(case: DnsHost, sandbox: SetClient, answered: list[bytes]) -> None:
    """Send queries one after another, each from a port of its own, every fourth over TCP; collect the answers.

    Raises:
        OSError: one was not answered.
    """
    with suppress(asyncio.CancelledError):
        while True:
            if len(answered) % 4:
                answer = await case.ask(sandbox, "web")
            else:
                answer = (await asyncio.to_thread(_over_tcp, case, sandbox, [query("web")]))[0]
            assert records(answer) == ["10.0.0.2"]
            answered.append(answer)


def _over_tcp(case: DnsHost, sandbox: SetClient, questions: list[bytes]) -> list[bytes]:
    with case.socket_in(sandbox, tcp=True) as out, out.makefile("rb") as file:
        out.sendall(b"".join(len(each).to_bytes(2, "big") + each for each in questions))
        return [file.read(int.from_bytes(file.read(2), "big")) for _ in questions]


async def test_resolver_of_the_same_release_is_kept(case: DnsHost) -> None:
    first, second = await case.opened(), case.client()
    pids = case.pids()
    second.open()
    await until(lambda: not second.problem())
    await second.start()
    assert case.pids() == pids
    assert not first.problem()


async def test_hung_resolver_is_replaced(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.replace([sandbox, WEB])
    (hanging,) = case.pids()
    os.kill(hanging, signal.SIGSTOP)
    await case.client().start()
    await until(lambda: not client.problem() and hanging not in case.pids())
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]


async def test_stopped_resolver_leaves_nothing(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    await client.close()
    await stop_resolver(str(case.run_dir / SOCKET))
    await until(lambda: not case.pids())
    assert not (case.run_dir / SOCKET).exists()
    await stop_resolver(str(case.run_dir / SOCKET))


async def test_terminating_with_open_connections_logs_no_errors(
    case: DnsHost,
) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox)
    (resolver,) = case.pids()
    held = socket.socket(socket.AF_UNIX)
    held.settimeout(5)
    with held, case.socket_in(sandbox, tcp=True):
        held.connect(str(case.run_dir / SOCKET))
        await asyncio.to_thread(exchange, held, Hello(""))
        await client.close()  # so that it starts no other one
        os.kill(resolver, signal.SIGTERM)
        await until(lambda: not case.pids())
    reported = (case.run_dir / "dns.log").read_text().splitlines()
    assert [line.split(" ", 3)[2] for line in reported] == ["INFO"] * len(reported)
    assert reported[-1].endswith("ends")


async def test_control_socket_is_accessible_only_to_root(case: DnsHost) -> None:
    await case.opened()
    assert (case.run_dir / SOCKET).stat().st_mode & 0o777 == 0o600
    assert (case.run_dir / "dns.log").stat().st_mode & 0o777 == 0o600


async def test_resolver_runs_as_an_unprivileged_user(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    assert await case.dig(sandbox, "+short", "web") == "10.0.0.2\n"
    (pid,) = case.pids()
    filters_here = int(
        re.findall(r"^Seccomp_filters:\s*(\d+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[0]
    )
    for thread in Path(f"/proc/{pid}/task").iterdir():
        printed = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        assert [int(printed[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
        assert printed["NoNewPrivs"] == "1"
        assert printed["Seccomp"] == "2"
        assert int(printed["Seccomp_filters"]) > filters_here
        assert printed["Uid"].split() == printed["Gid"].split() == [str(expected_user())] * 4
        assert printed["Groups"].split() == [] or expected_user() == 0


async def test_resolver_does_not_inherit_the_daemons_oom_protection(
    case: DnsHost,
) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text("-500")
    except PermissionError:
        pytest.skip("this machine does not let its root, or an ordinary user, protect a process")
    try:
        await case.opened()
    finally:
        own.write_text(before)
    (pid,) = case.pids()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"


async def test_resolver_keeps_serving_under_a_private_run_directory(
    case: DnsHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.run_dir.chmod(0o700)
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    pids = case.pids()
    await asyncio.sleep(PARENT_CHECK_INTERVAL + 0.5)  # it has looked at its socket since
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    assert case.pids() == pids
    await client.close()
    (case.run_dir / SOCKET).unlink()
    await until(lambda: not case.pids())


THIEF = """
import os, socket, sys
kind, uid, *addresses = getattr(socket, sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
if uid:
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
for address in addresses:
    for flags in ((), ("SO_REUSEADDR",), ("SO_REUSEPORT",), ("SO_REUSEADDR", "SO_REUSEPORT")):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, kind) as thief:
            if family == socket.AF_INET6:
                thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            for flag in flags:
                thief.setsockopt(socket.SOL_SOCKET, getattr(socket, flag), 1)
            try:
                thief.bind((address, 53))
                if kind == socket.SOCK_STREAM:
                    thief.listen()
            except OSError as failure:
                print(address, failure.errno)
            else:
                print(address, "bound")
"""


@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_STREAM"])
@pytest.mark.parametrize("who", ["root", "the resolver's user", "another user"])
async def test_program_inside_cannot_bind_the_resolver_port(case: DnsHost, who: str, kind: str) -> None:
    """Root inside a sandbox is the user who opened the resolver's sockets."""
    uid = {"root": 0, "another user": 1000}.get(who, expected_user())
    if uid and not expected_user():
        pytest.skip("this user namespace knows no other user")
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    await asyncio.to_thread(
        case.host.sh, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0", namespace=sandbox.key
    )
    covering = ["127.0.0.11", "0.0.0.0", "::", "::ffff:127.0.0.11", "::ffff:0.0.0.0"]
    thief = (sys.executable, "-c", THIEF, kind, str(uid), *covering, "127.0.0.1", "::1")
    reported = await asyncio.to_thread(case.host.sh, *thief, namespace=sandbox.key)
    found = [line.split() for line in reported.splitlines()]
    assert found == [[each, str(errno.EADDRINUSE)] for each in covering for _ in range(4)] + [
        [each, "bound"] for each in ("127.0.0.1", "::1") for _ in range(4)
    ]
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]


async def test_occupied_resolver_port_is_reported_and_not_shared(
    case: DnsHost,
) -> None:
    """Were our socket bound beside it, each of the two would get some of the questions."""
    client = await case.opened()
    sandbox = case.asker("box", "front")

    def hold() -> socket.socket:
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.11", 53))
        return held

    with case.host.inside(sandbox.key, hold):
        await client.apply(sandbox, WEB)
        assert "port 53" in client.problem()
    await until(lambda: not client.problem())
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]


async def test_missing_namespace_is_reported_and_others_are_served(
    case: DnsHost,
) -> None:
    client = await case.opened()
    gone, sandbox = case.asker("gone", "front"), case.asker("box", "front")
    case.release(gone)
    await client.apply(gone, sandbox, WEB)
    assert "gone" in client.problem()
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    await client.apply(RemoveClient(container_id="gone"))
    assert client.problem() == ""


async def test_sandbox_is_served_once_its_taken_port_is_free(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    holder = case.host.inside(sandbox.key, socket.create_server, ("127.0.0.11", 53))
    await client.apply(sandbox, WEB)
    assert "port 53" in client.problem()
    holder.close()
    await client.apply(sandbox)
    assert client.problem() == ""
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]


async def test_recreated_sandbox_at_the_same_key_is_served(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    case.release(sandbox)
    again = case.asker("box", "front")
    await client.apply(again)
    assert records(await case.ask(again, "web")) == ["10.0.0.2"]


async def test_many_sandboxes_leave_no_open_descriptors(case: DnsHost) -> None:
    client = await case.opened()
    keep = case.asker("keep", "front")
    await client.apply(keep, WEB)
    (pid,) = case.pids()
    before = len(os.listdir(f"/proc/{pid}/fd"))
    sandboxes = [case.asker(f"box{number}", "front") for number in range(200)]
    await client.apply(*sandboxes)
    assert len(os.listdir(f"/proc/{pid}/fd")) == before + 400
    assert records(await case.ask(sandboxes[-1], "web")) == ["10.0.0.2"]
    await client.apply(*(RemoveClient(container_id=sandbox.container_id) for sandbox in sandboxes))
    assert len(os.listdir(f"/proc/{pid}/fd")) == before


async def test_datagrams_that_wait_for_the_resolver_are_bounded(case: DnsHost) -> None:
    sandbox = case.asker("box", "front")
    udp, tcp = case.host.run(open_sockets_in, sandbox.key, sandbox.inode, ip_address("127.0.0.11"), 53)
    with udp, tcp, case.socket_in(sandbox) as flood:
        for _ in range(20_000):
            flood.send(bytes(1000))
        waiting, limit = struct.unpack_from("=2I", udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))
        assert limit <= 2 << 20
        assert limit / 2 < waiting <= limit + 4096


async def test_pipelined_tcp_queries_are_all_answered(case: DnsHost) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    questions = [query("web") for _ in range(500)]
    answers = await asyncio.to_thread(_over_tcp, case, sandbox, questions)
    assert {answer[:2] for answer in answers} == {question[:2] for question in questions}
    assert all(records(answer) == ["10.0.0.2"] for answer in answers)


async def test_hostile_tcp_streams_are_cut_off_and_others_served(
    case: DnsHost,
) -> None:
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox, WEB)
    (pid,) = case.pids()
    await asyncio.to_thread(_over_tcp, case, sandbox, [query("web")])  # libuv opens a descriptor with the first stream
    async with asyncio.timeout(DEADLINE):
        while (await client.stats()).connections:  # noqa: ASYNC110  # the answer is the condition - the counts are asked for
            await asyncio.sleep(0.01)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for junk in (b"\0\0", b"\0\x05hello", b"\0\x0c" + b"\xff" * 12, b"\xff\xff" + os.urandom(3000)):
        with case.socket_in(sandbox, tcp=True) as out:
            out.sendall(junk)
            out.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                await asyncio.to_thread(out.recv, 100)
    idle = [case.socket_in(sandbox, tcp=True) for _ in range(40)]
    await until(lambda: _closed(idle) >= 8)
    assert records(await case.ask(sandbox, "web")) == ["10.0.0.2"]
    counts = await client.stats()
    assert counts.connections == 32
    assert counts.limited >= 8
    for each in idle:
        each.close()
    await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before)
    assert records((await asyncio.to_thread(_over_tcp, case, sandbox, [query("web")]))[0]) == ["10.0.0.2"]


def _closed(sockets: list[socket.socket]) -> int:
    """How many the other side has closed."""
    closed = 0
    for each in sockets:
        each.setblocking(False)
        try:
            closed += not each.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            continue
    return closed


async def test_external_name_is_forwarded_and_server_changes_followed(
    case: DnsHost,
) -> None:
    case.upstream("127.0.1.1", always("192.0.2.1"))
    case.upstream("127.0.1.2", always("192.0.2.2"))
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox)
    assert rcode(await case.ask(sandbox, "example.org")) == "SERVFAIL"
    case.resolv_conf.write_text("# none\nnameserver 127.0.0.11\nnameserver 127.0.1.1\n")
    async with asyncio.timeout(30):  # the file is checked twice a second
        while rcode(await case.ask(sandbox, "example.org")) == "SERVFAIL":  # noqa: ASYNC110  # the answer is the condition
            await asyncio.sleep(0.01)
    assert await case.dig(sandbox, "+short", "example.org") == "192.0.2.1\n"
    reported = await client.explain("box", "example.org")
    assert reported.upstreams == (ip_address("127.0.1.1"),)
    await client.apply(case.asker("box", "front", upstreams=["127.0.1.2"]))
    assert await case.dig(sandbox, "+short", "example.org") == "192.0.2.2\n"


async def test_external_name_in_an_internal_sandbox_is_not_forwarded(
    case: DnsHost,
) -> None:
    upstream = case.upstream("127.0.1.1", always("192.0.2.1"))
    client = await case.opened()
    sandbox = case.asker("box", "front", upstreams=["127.0.1.1"], external=False)
    await client.apply(sandbox)
    assert rcode(await case.ask(sandbox, "example.org")) == "NXDOMAIN"
    assert not upstream.seen


def _truncated(asked: bytes) -> list[bytes]:
    reply = reply_to(asked)
    return [reply[:2] + bytes([reply[2] | 2]) + reply[3:]]


async def test_truncated_upstream_reply_is_retried_over_tcp(case: DnsHost) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 25)]
    case.upstream("127.0.1.1", _truncated, always(*many))
    client = await case.opened()
    sandbox = case.asker("box", "front", upstreams=["127.0.1.1"])
    await client.apply(sandbox)
    assert sorted((await case.dig(sandbox, "+short", "example.org")).split()) == sorted(many)


async def test_local_names_resolve_at_once_despite_a_hung_upstream(
    case: DnsHost,
) -> None:
    case.upstream("127.0.1.1", lambda _: [])
    client = await case.opened()
    sandbox, other = case.asker("box", "front", upstreams=["127.0.1.1"]), case.asker("other", "front")
    await client.apply(sandbox, other, WEB)
    (pid,) = case.pids()
    calm = await _median_time(case, sandbox, other)
    with case.socket_in(sandbox) as flood:
        _flood(flood, 5000)
        await until(lambda: _answered(flood))
        took = await _median_time(case, sandbox, other)
        counts = await client.stats()
        assert took < max(0.010, 5 * calm)
        assert counts.outstanding <= 256
        async with asyncio.timeout(DEADLINE):
            while (await client.stats()).limited < 3000:  # a resolver that was not scheduled has lost some
                _flood(flood, 500)
    assert len(os.listdir(f"/proc/{pid}/fd")) < 350


def _flood(flood: socket.socket, count: int) -> None:
    for number in range(count):
        flood.send(query(f"n{number}.example.org"))


async def _median_time(case: DnsHost, *sandboxes: SetClient) -> float:
    """Of a hundred lookups; the worst ones measure the machine."""
    return median([await _time_of(case, each) for each in sandboxes * (100 // len(sandboxes))])


def _answered(flood: socket.socket) -> bool:
    return rcode(flood.recv(512)) == "SERVFAIL"


async def _time_of(case: DnsHost, sandbox: SetClient) -> float:
    """Seconds a local name takes over UDP, the tools of the test left out."""

    def timed() -> float:
        with case.socket_in(sandbox) as out:
            began = clock()
            out.send(query("web"))
            out.recv(512)
            return clock() - began

    clock = asyncio.get_running_loop().time
    return await asyncio.to_thread(timed)


async def test_host_listener_resolves_network_names_only(case: DnsHost) -> None:
    client = await case.opened("--host-listen", "127.0.0.1:5353")
    await client.apply(WEB, names("back", "e2", "web", "10.1.0.2"))

    async def dig(*words: str) -> str:
        return await asyncio.to_thread(case.host.sh, "dig", "@127.0.0.1", "-p", "5353", "+tries=1", "+time=15", *words)

    assert await dig("+short", "web.front") == "10.0.0.2\n"
    assert await dig("+short", "+tcp", "web.back") == "10.1.0.2\n"
    assert await dig("+short", "-x", "10.1.0.2") == "web.back.\n"
    for other in ("web", "example.org"):
        assert "status: REFUSED" in await dig(other)


async def test_host_lookups_are_answered_throughout_an_upgrade(
    case: DnsHost,
) -> None:
    async def dig(port: int) -> str:
        return await asyncio.to_thread(
            case.host.sh, "dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=10", "+short", "web.front"
        )

    for release in ("1.0", "2.0"):
        client = await case.opened("--host-listen", "127.0.0.1:5353", release=release)
        await client.replace([WEB])
        assert await dig(5353) == "10.0.0.2\n"
        await client.close()
        assert await dig(5353) == "10.0.0.2\n"
    elsewhere = await case.opened("--host-listen", "127.0.0.1:5354", release="3.0")
    await elsewhere.replace([WEB])
    assert await dig(5354) == "10.0.0.2\n"
    await until(lambda: len(case.pids()) == 1)
    with case.host.run(socket.create_server, ("127.0.0.1", 5353)):
        pass  # no one is there any more


async def test_zoned_ipv6_nameserver_in_host_resolv_conf_is_queried(case: DnsHost) -> None:
    """A router that announces itself by its link-local address (RFC 8106) is written so."""
    sh = case.host.sh
    sh("ip", "link", "add", "up0", "type", "bridge")
    sh("ip", "address", "add", "fe80::53/64", "dev", "up0", "nodad")
    sh("ip", "link", "set", "up0", "up")
    upstream = case.upstream("fe80::53%up0", _truncated, always("192.0.2.1"))
    case.resolv_conf.write_text("nameserver fe80::53%up0 # the router\noptions edns0\n")
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox)
    assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]
    assert upstream.seen


async def test_host_resolv_conf_without_nameserver_uses_loopback(case: DnsHost) -> None:
    case.upstream("127.0.0.1", always("192.0.2.1"))
    case.resolv_conf.write_text("domain corp.example\n#nameserver 192.0.2.53\n nameserver 192.0.2.53\n")
    client = await case.opened()
    sandbox = case.asker("box", "front")
    await client.apply(sandbox)
    assert records(await case.ask(sandbox, "example.org")) == ["192.0.2.1"]
    assert (await client.explain("box", "example.org")).upstreams == (ip_address("127.0.0.1"),)


@pytest.mark.parametrize("flags", [["SO_REUSEADDR"], ["SO_REUSEPORT"], ["SO_REUSEADDR", "SO_REUSEPORT"]])
async def test_daemon_sockets_on_the_host_keep_their_ports_exclusive(case: DnsHost, flags: list[str]) -> None:
    """Published ports, and the address at which the host asks."""
    await case.opened("--host-listen", "127.0.0.1:5353")
    ports = PortHolder()
    held = [case.host.run(ports.hold, proto, ip_address("127.0.0.1"), 8053) for proto in (6, 17)]
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for address, port in (("127.0.0.1", 8053), ("0.0.0.0", 8053), ("127.0.0.1", 5353), ("0.0.0.0", 5353)):
                with pytest.raises(OSError) as refused:
                    case.host.run(_bind, kind, address, port, flags)
                assert refused.value.errno == errno.EADDRINUSE
    finally:
        for each in held:
            each.close()


def _bind(kind: socket.SocketKind, address: str, port: int, flags: list[str]) -> None:
    with socket.socket(socket.AF_INET, kind) as thief:
        for flag in flags:
            thief.setsockopt(socket.SOL_SOCKET, getattr(socket, flag), 1)
        thief.bind((address, port))
