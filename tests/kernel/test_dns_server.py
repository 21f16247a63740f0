"""The resolver's process on a real host: dig in sandboxes, crashes, upgrades, limits."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
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
from sandnet.resolver import PARENT_CHECK_INTERVAL
from tests.support.dns_servers import (
    PATIENCE,
    DnsHost,
    always,
    expected_user,
    names,
    query,
    rcode,
    records,
    reply_to,
    until,
)
from tests.support.network_host import Host, seconds_to_start

WEB = names("front", "e1", "web", "10.0.0.2", "fd00::2")


@pytest.fixture
async def world(host: Host, tmp_path: Path) -> AsyncIterator[DnsHost]:
    made = DnsHost(host, tmp_path)
    try:
        yield made
    finally:
        await made.close()


async def test_given_names_when_dig_asks_then_udp_and_tcp_answer(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    for way in ("+notcp", "+tcp", "+tcp +keepopen", "+notcp +bufsize=4096 +cookie", "+noedns"):
        assert await world.dig(box, "+short", *way.split(), "web") == "10.0.0.2\n"
        assert await world.dig(box, "+short", *way.split(), "WeB.FRONT", "AAAA") == "fd00::2\n"
    assert await world.dig(box, "+short", "-x", "10.0.0.2") == "web.front.\n"
    assert "status: NOERROR" in (nothing := await world.dig(box, "web", "MX"))
    assert "ANSWER: 0" in nothing


async def test_given_a_name_of_many_addresses_when_dig_asks_then_it_goes_on_over_tcp(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    many = [f"10.1.{number // 200}.{number % 200 + 1}" for number in range(1000)]
    await client.apply(box, names("front", "e1", "many", *many))
    assert sorted((await world.dig(box, "+short", "many")).split()) == sorted(many)


async def test_given_serving_resolver_when_the_client_goes_then_names_stay_and_the_next_client_finds_them(
    world: DnsHost,
) -> None:
    first = await world.opened()
    box = world.asker("box", "front")
    await first.apply(box, WEB)
    pids = world.pids()
    await first.close()
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    second = await world.opened()
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    await second.replace([box, names("front", "e1", "web", "10.0.0.3")])
    assert records(await world.ask(box, "web")) == ["10.0.0.3"]
    await until(lambda: world.pids() == pids)  # the second takes a moment to end
    assert world.starts == 1


async def test_given_a_killed_resolver_when_a_second_has_passed_then_names_are_back(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.replace([box, WEB])
    start = asyncio.create_task(asyncio.to_thread(seconds_to_start))
    began = asyncio.get_running_loop().time()
    world.kill()
    answer = b""
    while not answer:
        assert asyncio.get_running_loop().time() - began < 30
        try:
            answer = await world.ask(box, "web", patience=0.1)
        except OSError:
            await asyncio.sleep(0.01)
    took = asyncio.get_running_loop().time() - began
    assert took < 1.0 + 5 * await start  # a second, where starting a process takes no time to speak of
    assert records(answer) == ["10.0.0.2"]
    await until(lambda: not client.problem())


async def test_given_a_killed_resolver_when_a_change_is_applied_then_it_is_in_force_afterwards(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.replace([box, WEB])
    world.kill()
    await client.apply(names("front", "e1", "web", "10.0.0.7"))
    await until(lambda: not client.problem())
    assert records(await world.ask(box, "web")) == ["10.0.0.7"]


async def test_given_another_release_when_it_takes_over_then_no_lookup_fails(world: DnsHost) -> None:
    old = await world.opened(release="1.0")
    box = world.asker("box", "front")
    await old.replace([box, WEB])
    before = world.pids()
    await old.close()
    asking = asyncio.create_task(_ask_all_the_time(world, box))
    await asyncio.sleep(0.05)
    new = await world.opened(release="2.0")
    await new.replace([box, WEB])
    await until(lambda: len(world.pids()) == 1 and world.pids() != before)
    await asyncio.sleep(0.05)
    asking.cancel()
    asked = await asking
    assert asked > 10
    assert not (world.run_dir / FORMER_SOCKET).exists()


async def _ask_all_the_time(world: DnsHost, box: SetClient) -> int:
    """How many questions were answered rightly, in the end; each from a port of its own, every fourth over TCP.

    Raises:
        OSError: one was not answered.
    """
    asked = 0
    try:
        while True:
            if asked % 4:
                answer = await world.ask(box, "web")
            else:
                answer = (await asyncio.to_thread(_over_tcp, world, box, [query("web")]))[0]
            assert records(answer) == ["10.0.0.2"]
            asked += 1
    except asyncio.CancelledError:
        return asked


def _over_tcp(world: DnsHost, box: SetClient, questions: list[bytes]) -> list[bytes]:
    with world.socket_in(box, tcp=True) as out, out.makefile("rb") as file:
        out.sendall(b"".join(len(each).to_bytes(2, "big") + each for each in questions))
        return [file.read(int.from_bytes(file.read(2), "big")) for _ in questions]


async def test_given_a_resolver_of_this_release_when_another_start_is_asked_for_then_it_stays(world: DnsHost) -> None:
    first, second = await world.opened(), world.client()
    pids = world.pids()
    second.open()
    await until(lambda: not second.problem())
    await second.start()
    assert world.pids() == pids
    assert not first.problem()


async def test_given_a_resolver_that_hangs_when_another_is_started_then_it_takes_its_place(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.replace([box, WEB])
    (hanging,) = world.pids()
    os.kill(hanging, signal.SIGSTOP)
    await world.client().start()
    await until(lambda: not client.problem() and hanging not in world.pids())
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]


async def test_given_a_resolver_when_stopped_then_nothing_is_left(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    await client.close()
    await stop_resolver(str(world.run_dir / SOCKET))
    await until(lambda: not world.pids())
    assert not (world.run_dir / SOCKET).exists()
    await stop_resolver(str(world.run_dir / SOCKET))


async def test_given_connections_when_the_process_is_told_to_end_then_the_log_says_no_more(
    world: DnsHost,
) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box)
    (resolver,) = world.pids()
    held = socket.socket(socket.AF_UNIX)
    held.settimeout(5)
    with held, world.socket_in(box, tcp=True):
        held.connect(str(world.run_dir / SOCKET))
        await asyncio.to_thread(exchange, held, Hello(""))
        await client.close()  # so that it starts no other one
        os.kill(resolver, signal.SIGTERM)
        await until(lambda: not world.pids())
    told = (world.run_dir / "dns.log").read_text().splitlines()
    assert [line.split(" ", 3)[2] for line in told] == ["INFO"] * len(told)
    assert told[-1].endswith("ends")


async def test_given_the_control_socket_when_made_then_root_alone_may_use_it(world: DnsHost) -> None:
    await world.opened()
    assert (world.run_dir / SOCKET).stat().st_mode & 0o777 == 0o600
    assert (world.run_dir / "dns.log").stat().st_mode & 0o777 == 0o600


async def test_given_a_resolver_when_it_serves_then_it_is_another_user_without_any_right(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    assert await world.dig(box, "+short", "web") == "10.0.0.2\n"
    (pid,) = world.pids()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        said = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        assert [int(said[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
        assert said["NoNewPrivs"] == "1"
        assert said["Uid"].split() == said["Gid"].split() == [str(expected_user())] * 4
        assert said["Groups"].split() == [] or expected_user() == 0


async def test_given_a_protected_daemon_when_it_starts_a_resolver_then_the_resolver_is_not_protected(
    world: DnsHost,
) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text("-500")
    except PermissionError:
        pytest.skip("this machine does not let its root, or an ordinary user, protect a process")
    try:
        await world.opened()
    finally:
        own.write_text(before)
    (pid,) = world.pids()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"


async def test_given_a_run_directory_that_others_cannot_enter_when_a_resolver_serves_then_it_stays(
    world: DnsHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run_dir.chmod(0o700)
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    pids = world.pids()
    await asyncio.sleep(PARENT_CHECK_INTERVAL + 0.5)  # it has looked at its socket since
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    assert world.pids() == pids
    await client.close()
    (world.run_dir / SOCKET).unlink()
    await until(lambda: not world.pids())


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
async def test_given_a_resolver_when_a_program_inside_wants_its_port_too_then_it_is_refused(
    world: DnsHost, who: str, kind: str
) -> None:
    """Root inside a sandbox is the user who opened the resolver's sockets."""
    uid = {"root": 0, "another user": 1000}.get(who, expected_user())
    if uid and not expected_user():
        pytest.skip("this user namespace knows no other user")
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    await asyncio.to_thread(world.host.sh, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0", namespace=box.key)
    covering = ["127.0.0.11", "0.0.0.0", "::", "::ffff:127.0.0.11", "::ffff:0.0.0.0"]
    thief = (sys.executable, "-c", THIEF, kind, str(uid), *covering, "127.0.0.1", "::1")
    told = await asyncio.to_thread(world.host.sh, *thief, namespace=box.key)
    found = [line.split() for line in told.splitlines()]
    assert found == [[each, str(errno.EADDRINUSE)] for each in covering for _ in range(4)] + [
        [each, "bound"] for each in ("127.0.0.1", "::1") for _ in range(4)
    ]
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]


async def test_given_a_program_that_holds_the_port_already_when_a_sandbox_is_joined_then_it_is_told_and_not_shared(
    world: DnsHost,
) -> None:
    """Were our socket bound beside it, each of the two would get some of the questions."""
    client = await world.opened()
    box = world.asker("box", "front")

    def hold() -> socket.socket:
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.11", 53))
        return held

    with world.host.inside(box.key, hold):
        await client.apply(box, WEB)
        assert "port 53" in client.problem()
    await until(lambda: not client.problem())
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]


async def test_given_a_namespace_that_is_gone_when_applied_then_it_is_told_and_others_are_served(
    world: DnsHost,
) -> None:
    client = await world.opened()
    gone, box = world.asker("gone", "front"), world.asker("box", "front")
    world.release(gone)
    await client.apply(gone, box, WEB)
    assert "gone" in client.problem()
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    await client.apply(RemoveClient(container_id="gone"))
    assert client.problem() == ""


async def test_given_a_taken_port_when_it_is_free_again_then_the_sandbox_is_served(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    holder = world.host.inside(box.key, socket.create_server, ("127.0.0.11", 53))
    await client.apply(box, WEB)
    assert "port 53" in client.problem()
    holder.close()
    await client.apply(box)
    assert client.problem() == ""
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]


async def test_given_a_sandbox_made_anew_at_its_key_when_applied_then_the_new_one_is_served(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    world.release(box)
    again = world.asker("box", "front")
    await client.apply(again)
    assert records(await world.ask(again, "web")) == ["10.0.0.2"]


async def test_given_many_sandboxes_when_they_come_and_go_then_no_descriptor_is_left(world: DnsHost) -> None:
    client = await world.opened()
    keep = world.asker("keep", "front")
    await client.apply(keep, WEB)
    (pid,) = world.pids()
    before = len(os.listdir(f"/proc/{pid}/fd"))
    boxes = [world.asker(f"box{number}", "front") for number in range(200)]
    await client.apply(*boxes)
    assert len(os.listdir(f"/proc/{pid}/fd")) == before + 400
    assert records(await world.ask(boxes[-1], "web")) == ["10.0.0.2"]
    await client.apply(*(RemoveClient(container_id=box.container_id) for box in boxes))
    assert len(os.listdir(f"/proc/{pid}/fd")) == before


async def test_given_pipelined_questions_over_tcp_when_sent_then_each_is_answered(world: DnsHost) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    questions = [query("web") for _ in range(500)]
    answers = await asyncio.to_thread(_over_tcp, world, box, questions)
    assert {answer[:2] for answer in answers} == {question[:2] for question in questions}
    assert all(records(answer) == ["10.0.0.2"] for answer in answers)


async def test_given_hostile_streams_when_they_come_then_they_are_cut_off_and_others_are_served(
    world: DnsHost,
) -> None:
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box, WEB)
    (pid,) = world.pids()
    await asyncio.to_thread(_over_tcp, world, box, [query("web")])  # libuv opens a descriptor with the first stream
    async with asyncio.timeout(PATIENCE):
        while (await client.stats()).connections:  # noqa: ASYNC110 - the counts are asked for
            await asyncio.sleep(0.01)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for junk in (b"\0\0", b"\0\x05hello", b"\0\x0c" + b"\xff" * 12, b"\xff\xff" + os.urandom(3000)):
        with world.socket_in(box, tcp=True) as out:
            out.sendall(junk)
            out.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                await asyncio.to_thread(out.recv, 100)
    idle = [world.socket_in(box, tcp=True) for _ in range(40)]
    await until(lambda: _closed(idle) >= 8)
    assert records(await world.ask(box, "web")) == ["10.0.0.2"]
    counts = await client.stats()
    assert counts.connections == 32
    assert counts.limited >= 8
    for each in idle:
        each.close()
    await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before)
    assert records((await asyncio.to_thread(_over_tcp, world, box, [query("web")]))[0]) == ["10.0.0.2"]


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


async def test_given_a_name_of_others_when_asked_then_the_hosts_server_answers_and_changes_are_seen(
    world: DnsHost,
) -> None:
    world.upstream("127.0.1.1", always("192.0.2.1"))
    world.upstream("127.0.1.2", always("192.0.2.2"))
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box)
    assert rcode(await world.ask(box, "example.org")) == "SERVFAIL"
    world.resolv_conf.write_text("# none\nnameserver 127.0.0.11\nnameserver 127.0.1.1\n")
    await asyncio.sleep(0.6)  # how often the file is looked at
    assert await world.dig(box, "+short", "example.org") == "192.0.2.1\n"
    told = await client.explain("box", "example.org")
    assert told.upstreams == (ip_address("127.0.1.1"),)
    await client.apply(world.asker("box", "front", upstreams=["127.0.1.2"]))
    assert await world.dig(box, "+short", "example.org") == "192.0.2.2\n"


async def test_given_a_sandbox_on_internal_networks_only_when_it_asks_for_others_then_nobody_is_asked(
    world: DnsHost,
) -> None:
    upstream = world.upstream("127.0.1.1", always("192.0.2.1"))
    client = await world.opened()
    box = world.asker("box", "front", upstreams=["127.0.1.1"], external=False)
    await client.apply(box)
    assert rcode(await world.ask(box, "example.org")) == "NXDOMAIN"
    assert not upstream.seen


def _truncated(asked: bytes) -> list[bytes]:
    reply = reply_to(asked)
    return [reply[:2] + bytes([reply[2] | 2]) + reply[3:]]


async def test_given_a_truncating_server_when_asked_then_the_answer_comes_over_tcp(world: DnsHost) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 25)]
    world.upstream("127.0.1.1", _truncated, always(*many))
    client = await world.opened()
    box = world.asker("box", "front", upstreams=["127.0.1.1"])
    await client.apply(box)
    assert sorted((await world.dig(box, "+short", "example.org")).split()) == sorted(many)


async def test_given_a_dead_server_and_5000_questions_when_a_local_name_is_asked_then_it_takes_no_time(
    world: DnsHost,
) -> None:
    world.upstream("127.0.1.1", lambda _: [])
    client = await world.opened()
    box, other = world.asker("box", "front", upstreams=["127.0.1.1"]), world.asker("other", "front")
    await client.apply(box, other, WEB)
    (pid,) = world.pids()
    calm = await _median_time(world, box, other)
    with world.socket_in(box) as flood:
        _flood(flood, 5000)
        await until(lambda: _answered(flood))
        took = await _median_time(world, box, other)
        counts = await client.stats()
        assert took < max(0.010, 5 * calm)
        assert counts.outstanding <= 256
        async with asyncio.timeout(PATIENCE):
            while (await client.stats()).limited < 3000:  # a resolver that was not scheduled has lost some
                _flood(flood, 500)
    assert len(os.listdir(f"/proc/{pid}/fd")) < 350


def _flood(flood: socket.socket, count: int) -> None:
    for number in range(count):
        flood.send(query(f"n{number}.example.org"))


async def _median_time(world: DnsHost, *boxes: SetClient) -> float:
    """Of a hundred lookups; the worst ones measure the machine."""
    return median([await _time_of(world, each) for each in boxes * (100 // len(boxes))])


def _answered(flood: socket.socket) -> bool:
    return rcode(flood.recv(512)) == "SERVFAIL"


async def _time_of(world: DnsHost, box: SetClient) -> float:
    """Seconds a local name takes over UDP, the tools of the test left out."""

    def timed() -> float:
        with world.socket_in(box) as out:
            began = clock()
            out.send(query("web"))
            out.recv(512)
            return clock() - began

    clock = asyncio.get_running_loop().time
    return await asyncio.to_thread(timed)


async def test_given_the_host_listener_when_the_host_asks_then_it_gets_names_of_networks_only(world: DnsHost) -> None:
    client = await world.opened("--host-listen", "127.0.0.1:5353")
    await client.apply(WEB, names("back", "e2", "web", "10.1.0.2"))

    async def dig(*words: str) -> str:
        return await asyncio.to_thread(world.host.sh, "dig", "@127.0.0.1", "-p", "5353", "+tries=1", *words)

    assert await dig("+short", "web.front") == "10.0.0.2\n"
    assert await dig("+short", "+tcp", "web.back") == "10.1.0.2\n"
    assert await dig("+short", "-x", "10.1.0.2") == "web.back.\n"
    for other in ("web", "example.org"):
        assert "status: REFUSED" in await dig(other)


async def test_given_another_release_when_it_takes_over_then_the_hosts_own_questions_are_answered_throughout(
    world: DnsHost,
) -> None:
    async def dig(port: int) -> str:
        return await asyncio.to_thread(
            world.host.sh, "dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=10", "+short", "web.front"
        )

    for release in ("1.0", "2.0"):
        client = await world.opened("--host-listen", "127.0.0.1:5353", release=release)
        await client.replace([WEB])
        assert await dig(5353) == "10.0.0.2\n"
        await client.close()
        assert await dig(5353) == "10.0.0.2\n"
    elsewhere = await world.opened("--host-listen", "127.0.0.1:5354", release="3.0")
    await elsewhere.replace([WEB])
    assert await dig(5354) == "10.0.0.2\n"
    await until(lambda: len(world.pids()) == 1)
    with world.host.run(socket.create_server, ("127.0.0.1", 5353)):
        pass  # nobody is there any more


async def test_given_a_server_with_a_zone_when_the_hosts_resolv_conf_names_it_then_it_is_asked(world: DnsHost) -> None:
    """A router that announces itself by its link-local address (RFC 8106) is written so."""
    sh = world.host.sh
    sh("ip", "link", "add", "up0", "type", "bridge")
    sh("ip", "address", "add", "fe80::53/64", "dev", "up0", "nodad")
    sh("ip", "link", "set", "up0", "up")
    upstream = world.upstream("fe80::53%up0", _truncated, always("192.0.2.1"))
    world.resolv_conf.write_text("nameserver fe80::53%up0 # the router\noptions edns0\n")
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box)
    assert records(await world.ask(box, "example.org")) == ["192.0.2.1"]
    assert upstream.seen


async def test_given_no_server_in_the_hosts_resolv_conf_when_asked_then_the_one_on_loopback(world: DnsHost) -> None:
    world.upstream("127.0.0.1", always("192.0.2.1"))
    world.resolv_conf.write_text("domain corp.example\n#nameserver 192.0.2.53\n nameserver 192.0.2.53\n")
    client = await world.opened()
    box = world.asker("box", "front")
    await client.apply(box)
    assert records(await world.ask(box, "example.org")) == ["192.0.2.1"]
    assert (await client.explain("box", "example.org")).upstreams == (ip_address("127.0.0.1"),)


@pytest.mark.parametrize("flags", [["SO_REUSEADDR"], ["SO_REUSEPORT"], ["SO_REUSEADDR", "SO_REUSEPORT"]])
async def test_given_sockets_of_the_daemon_on_the_host_when_another_program_wants_their_ports_then_it_is_refused(
    world: DnsHost, flags: list[str]
) -> None:
    """Published ports, and the address at which the host asks."""
    await world.opened("--host-listen", "127.0.0.1:5353")
    ports = PortHolder()
    held = [world.host.run(ports.hold, proto, ip_address("127.0.0.1"), 8053) for proto in (6, 17)]
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for address, port in (("127.0.0.1", 8053), ("0.0.0.0", 8053), ("127.0.0.1", 5353), ("0.0.0.0", 5353)):
                with pytest.raises(OSError) as refused:
                    world.host.run(_bind, kind, address, port, flags)
                assert refused.value.errno == errno.EADDRINUSE
    finally:
        for each in held:
            each.close()


def _bind(kind: socket.SocketKind, address: str, port: int, flags: list[str]) -> None:
    with socket.socket(socket.AF_INET, kind) as thief:
        for flag in flags:
            thief.setsockopt(socket.SOL_SOCKET, getattr(socket, flag), 1)
        thief.bind((address, port))
