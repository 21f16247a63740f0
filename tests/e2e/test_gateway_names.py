"""Names at the gateway, for stacks that have a loopback of their own: of virtual machines, and gVisor's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sandnet.model.name_server import GATEWAY_SOCKETS_IPV6, gateway_socket
from tests.support.daemon import JSON, RunningDaemon, Sandbox
from tests.support.dns_servers import always
from tests.support.name_cases import UPSTREAM, upstream
from tests.support.network_host import eventually
from tests.support.other_stack import OtherStack, packet_socket
from tests.support.privileges import needs_taps
from tests.support.taps import open_tap

GATEWAY, GATEWAY6 = "10.9.0.1", "fd00:9::1"
OPTIONS: dict[str, JSON] = {"subnet": "10.9.0.0/24", "subnet_ipv6": "fd00:9::/64"}
WAYS = [(GATEWAY, "+notcp"), (GATEWAY, "+tcp"), (GATEWAY6, "+notcp"), (GATEWAY6, "+tcp")]
Sh = Callable[..., str]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def host_servers(daemon: RunningDaemon) -> Iterator[Path]:
    """The host's resolv.conf, which is as before afterwards."""
    path = daemon.folder / "host-resolv.conf"
    before = path.read_text()
    yield path
    path.write_text(before)


def dig(sh: Sh, server: str, *words: str, seconds: int = 10) -> str:
    """The answer's records, or why there is none after so many seconds."""
    try:
        return sh("dig", f"@{server}", "+tries=1", f"+time={seconds}", "+short", *words).strip()
    except AssertionError as failure:
        return str(failure)


def is_answered(sh: Sh, server: str, *words: str, seconds: int = 10) -> bool:
    return re.fullmatch(r"[0-9a-f.:]+", dig(sh, server, *words, seconds=seconds)) is not None


def is_silent(sh: Sh, server: str, *words: str) -> bool:
    """Whether no answer comes within a second."""
    return not is_answered(sh, server, *words, seconds=1)


def machine(daemon: RunningDaemon, stack: ExitStack, network: str = "front") -> OtherStack:
    """A stack behind a tap of its own."""
    daemon.api.endpoint(network, "vm")
    tap = daemon.api.post(f"/networks/{network}/endpoints/vm/containers", container_id="vm-1", type="tap")
    descriptor = daemon.host.run(open_tap, tap["device"])
    made = OtherStack(daemon.host, descriptor, tap["mac"], tap["address"], tap["address_ipv6"])
    stack.callback(made.close)
    return made


def user_space(daemon: RunningDaemon, stack: ExitStack, sandbox: Sandbox) -> OtherStack:
    """A stack that takes over the interface of a sandbox, with its addresses; the kernel there answers nothing more.

    gVisor takes the addresses off the interface for that, and the daemon would put them back.
    """
    chain = 'chain packets { type filter hook prerouting priority raw; iifname "eth0" drop; }'
    sandbox.sh("nft", f"table inet taken {{ {chain}; }}")
    descriptor = packet_socket(daemon.host, sandbox.namespace, "eth0")
    addresses = f"{sandbox.address}/24", f"{sandbox.address6}/64"
    made = OtherStack(daemon.host, descriptor, sandbox.mac, *addresses)
    stack.callback(made.close)
    return made


@needs_taps
def test_machine_asks_its_gateway_over_both_families(
    daemon: RunningDaemon, stack: ExitStack, host_servers: Path
) -> None:
    daemon.api.network("front", **OPTIONS)
    web = daemon.sandbox("front", "web")
    upstream(daemon, always("192.0.2.80"))
    host_servers.write_text(f"nameserver {UPSTREAM}\n")
    guest = machine(daemon, stack)
    servers = daemon.api.get("/sandboxes/vm-1", verbose="true")["interfaces"][0]["tap"]["name_servers"]
    assert servers == [GATEWAY, GATEWAY6]
    for server, transport in WAYS:
        assert dig(guest.sh, server, transport, "web") == web.address
        assert dig(guest.sh, server, transport, "web.front", "AAAA") == web.address6
        assert dig(guest.sh, server, transport, "-x", web.address6) == "web.front."
    eventually(lambda: all(dig(guest.sh, server, "example.com", seconds=2) == "192.0.2.80" for server, _ in WAYS))


@needs_taps
def test_stack_without_the_loopback_asks_its_gateway(
    daemon: RunningDaemon, stack: ExitStack, host_servers: Path
) -> None:
    daemon.api.network("front", gateway_dns=True, **OPTIONS)
    web, sandbox = daemon.sandbox("front", "web"), daemon.sandbox("front", "app", join={"aliases": ["me"]})
    config = (daemon.run / "sandboxes" / sandbox.container / "resolv.conf").read_text()
    servers = re.findall("nameserver (.*)", config)
    assert servers == ["127.0.0.11", GATEWAY, GATEWAY6]
    other = user_space(daemon, stack, sandbox)
    assert is_silent(other.sh, servers[0], "web")
    for server, transport in WAYS:
        assert dig(other.sh, server, transport, "web") == web.address
    # the loopback of a stack of its own refuses at once, so a C library goes on to the gateway
    host_servers.write_text(config)
    assert web.address in other.sh("getent", "ahostsv4", "web")
    # and goes with its container
    daemon.api.leave("front", "app", sandbox.container)
    assert is_silent(other.sh, GATEWAY, "web")


@needs_taps
def test_no_one_asks_as_another_at_the_gateway(daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon.api.network("front", **OPTIONS)
    guest = machine(daemon, stack)
    liar = daemon.sandbox("front", "liar")
    vm = daemon.api.reported("front", "vm")
    assert is_answered(guest.sh, GATEWAY, "liar")
    assert is_answered(guest.sh, GATEWAY6, "liar", "AAAA")
    for gateway, own, stolen in (
        (GATEWAY, liar.address, vm["address"].partition("/")[0]),
        (GATEWAY6, liar.address6, vm["address_ipv6"].partition("/")[0]),
    ):
        assert is_silent(liar.sh, gateway, "liar", "-b", own)  # it has 127.0.0.11
        nodad = ("nodad",) if ":" in stolen else ()
        liar.sh("ip", "address", "add", f"{stolen}/32" if not nodad else f"{stolen}/128", "dev", "eth0", *nodad)
        assert is_silent(liar.sh, gateway, "liar", "-b", stolen)
    # nor by the address of the sockets themselves
    for version, gateway in ((4, GATEWAY), (6, GATEWAY6)):
        socket = str(gateway_socket("vm-1", version))
        guest.sh("ip", f"-{version}", "route", "add", "default", "via", gateway)
        assert is_silent(guest.sh, socket, "liar")


def test_backends_that_share_an_address_do_not_ask_by_it(daemon: RunningDaemon) -> None:
    daemon.api.network("front", gateway_dns=True, **OPTIONS)
    daemon.api.post("/services", name="many", network_name="front")
    first, second = "1" * 64, "2" * 64
    one, two = (daemon.place(daemon.api.post("/services/many/backend", container_id=each)) for each in (first, second))
    service, own = (
        daemon.api.get(f"/sandboxes/{each}", verbose="true")["interfaces"][0]["address"].partition("/")[0]
        for each in (first, second)
    )
    assert is_silent(one.sh, GATEWAY, "many", "-b", service)
    assert dig(two.sh, GATEWAY, "many", "-b", own) == service
    daemon.api.delete(f"/services/many/backend/{second}")
    assert dig(one.sh, GATEWAY, "many", "-b", service) == service


@needs_taps
def test_gateway_that_is_switched_off_answers_no_one(daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon.api.network("front", gateway_dns=False, **OPTIONS)
    daemon.sandbox("front", "web")
    guest = machine(daemon, stack)
    for server, transport in WAYS:
        assert is_silent(guest.sh, server, transport, "web")


@needs_taps
def test_gateway_answers_after_a_restart_and_a_lost_route(fresh_daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front", **OPTIONS)
    web = daemon.sandbox("front", "web")
    guest = machine(daemon, stack)
    route = ("route", "del", "local", str(GATEWAY_SOCKETS_IPV6), "dev", "lo", "table", "local")
    daemon.host.sh("ip", "-6", *route)
    eventually(lambda: dig(guest.sh, GATEWAY6, "web", seconds=2) == web.address)
    daemon.kill()
    assert dig(guest.sh, GATEWAY6, "web") == web.address  # the resolver goes on
    daemon.kill_resolvers()
    daemon.start()
    eventually(lambda: all(dig(guest.sh, each, "web", seconds=2) == web.address for each in (GATEWAY, GATEWAY6)))
    daemon.down()
    routes = daemon.host.run(
        lambda: subprocess.run(["ip", "-6", "route", "list", "table", "local"], capture_output=True, text=True)
    )
    assert str(GATEWAY_SOCKETS_IPV6) not in routes.stdout
