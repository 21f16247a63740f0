"""One sandbox fills the kernel's table of neighbours, and the others go on.

The table is the whole machine's, so other tests that run beside this one suffer. ``make flood`` runs it alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import dns.message
import dns.query
import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, RunningDaemon, Sandbox, mapping
from tests.support.network_host import eventually

FLOOD = """
import ipaddress, itertools, socket, sys
first = ipaddress.ip_address(sys.argv[1])
family = socket.AF_INET if first.version == 4 else socket.AF_INET6
# a datagram that waits for a neighbour counts in its socket's buffer, so one socket cannot fill the table
sockets = [socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(60)]
for number in itertools.count():
    try:
        sockets[number % 60].sendto(b"x", (str(first + number % 60000), 9))
    except OSError:
        pass
    if number == 6000:
        print("full", flush=True)
"""


@pytest.fixture(params=[4, 6])
def version(daemon: RunningDaemon, request: pytest.FixtureRequest) -> Iterator[int]:
    """The version of IP of the table that a sandbox of the network ``rogue`` keeps full."""
    number = int(request.param)
    daemon.api.network("rogue", subnet="10.88.0.0/16", ipv6=True)
    rogue = daemon.sandbox("rogue", "rogue")
    first = ip_address(rogue.address if number == 4 else rogue.address6) + 300
    command = [sys.executable, "-c", FLOOD, str(first)]
    flood = daemon.host.inside(rogue.key, lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
    with flood:
        assert flood.stdout
        flood.stdout.readline()
        yield number
        assert flood.poll() is None
        flood.kill()


@pytest.fixture
def victim(daemon: RunningDaemon) -> Sandbox:
    """A sandbox that has had no connection before the flood."""
    daemon.api.network("foo", ipv6=True, host_access=True)
    sandbox = daemon.sandbox("foo", "one", mapping(80, 8080))
    sandbox.serve("one", 80)
    sandbox.serve("one", 80, address="::")
    daemon.here.serve("host", 99)
    daemon.here.serve("host", 99, address="::")
    return sandbox


def kept(sandbox: Sandbox) -> set[str]:
    """Return the neighbours of a sandbox whose entries do not count in the table."""
    entries = json.loads(sandbox.sh("ip", "-j", "neigh", "show", "dev", "eth0") or "[]")
    return {each["dst"] for each in entries if "extern_learn" in each}


def test_sandboxes_find_each_other_with_a_full_neighbour_table(
    daemon: RunningDaemon, victim: Sandbox, version: int
) -> None:
    """They have no entries for each other before the flood, and one of them is new."""
    other = daemon.sandbox("foo", "two")
    target, own = (victim.address, other.address) if version == 4 else (victim.address6, other.address6)
    eventually(lambda: target in kept(other) and own in kept(victim))
    assert other.reaches(target)
    assert victim.reaches(own)
    assert other.ask(target, 80).server == "one"


def test_joins_and_connections_work_with_a_full_neighbour_table(
    daemon: RunningDaemon, victim: Sandbox, version: int
) -> None:
    host = HOST_ADDRESS if version == 4 else HOST_ADDRESS6
    assert victim.ask(host, 99).server == "host"
    assert daemon.here.ask(victim.address if version == 4 else victim.address6, 80).server == "one"
    assert daemon.here.ask(host, 8080).server == "one"
    daemon.api.network("bar", ipv6=True, host_access=True)
    other = daemon.sandbox("bar", "two")
    assert other.ask(host, 99).server == "host"
    assert other.ask(host, 8080).server == "one"
    query = dns.message.make_query("two", "A")
    answer = daemon.host.inside(other.key, lambda: dns.query.udp(query, "127.0.0.11", timeout=5))
    assert other.address in answer.to_text()
