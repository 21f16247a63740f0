"""What sandboxes reach of the host's own programs."""

from __future__ import annotations

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, JSON, RefusedError, RunningDaemon, Sandbox, mapping
from tests.support.traffic import TCP, UDP

PORT = 7100
OTHER = 7101


def serving(daemon: RunningDaemon) -> None:
    """Programs on the host that listen everywhere."""
    for port in (PORT, OTHER):
        for address in ("0.0.0.0", "::"):
            for proto in (TCP, UDP):
                daemon.here.serve("host", port, proto, address)


def gateways(sandbox: Sandbox) -> list[str]:
    """Addresses of the host, as a sandbox may call them."""
    return [sandbox.address.rpartition(".")[0] + ".1", HOST_ADDRESS, HOST_ADDRESS6]


def boxed(daemon: RunningDaemon, **options: JSON) -> Sandbox:
    serving(daemon)
    daemon.api.network("foo", ipv6=True, **options)
    return daemon.sandbox("foo", "one")


@pytest.mark.parametrize("options", [{}, {"host_access": False}, {"host_access": []}])
def test_host_programs_refuse_sandboxes_by_default(daemon: RunningDaemon, options: JSON) -> None:
    sandbox = boxed(daemon, **options)
    for address in gateways(sandbox):
        assert sandbox.is_refused(address, PORT)
        assert sandbox.is_refused(address, PORT, UDP)


def test_host_rejects_sandbox_calls_at_once(daemon: RunningDaemon) -> None:
    sandbox = boxed(daemon)
    for address in gateways(sandbox):
        with pytest.raises(OSError, match=r"No route to host|Permission denied"):
            sandbox.ask(address, PORT)


def test_host_access_opens_host_programs_to_sandboxes(daemon: RunningDaemon) -> None:
    sandbox = boxed(daemon, host_access=True)
    for address in gateways(sandbox):
        assert sandbox.ask(address, PORT).server == "host"
    assert sandbox.ask(gateways(sandbox)[0], PORT, UDP).server == "host"  # to others it answers from this one


def test_host_access_by_port_opens_only_that_port(daemon: RunningDaemon) -> None:
    sandbox = boxed(daemon, host_access=[PORT, f"{OTHER}/udp"])
    for address in gateways(sandbox):
        assert sandbox.ask(address, PORT).server == "host"
        assert sandbox.is_refused(address, OTHER)
    assert sandbox.ask(gateways(sandbox)[0], OTHER, UDP).server == "host"
    assert sandbox.is_refused(gateways(sandbox)[0], PORT, UDP)


@pytest.mark.parametrize("access", [False, True])
def test_internal_network_needs_host_access_to_call_the_host(daemon: RunningDaemon, access: bool) -> None:
    sandbox = boxed(daemon, internal=True, **({"host_access": True} if access else {}))
    if access:
        assert sandbox.ask(gateways(sandbox)[0], PORT).server == "host"
    else:
        assert sandbox.is_refused(gateways(sandbox)[0], PORT)


def test_without_host_access_host_calls_and_pings_are_answered(daemon: RunningDaemon) -> None:
    sandbox = boxed(daemon)
    sandbox.serve("one", 80)
    sandbox.serve("one", 80, UDP)
    sandbox.serve("one", 80, address="::")
    assert daemon.here.ask(sandbox.address, 80).server == "one"
    assert daemon.here.ask(sandbox.address, 80, UDP).server == "one"
    assert daemon.here.ask(sandbox.address6, 80).server == "one"
    for address in gateways(sandbox):
        assert sandbox.reaches(address)


def test_without_host_access_published_ports_and_world_answer(daemon: RunningDaemon) -> None:
    sandbox = boxed(daemon)
    web = daemon.sandbox("foo", "web", mapping(80, 8080))
    web.serve("web", 80)
    web.serve("web", 80, address="::")
    daemon.outside.serve("far", 7000)
    for address in gateways(sandbox):
        assert sandbox.ask(address, 8080).server == "web"
    assert web.ask(gateways(sandbox)[0], 8080).server == "web"
    assert sandbox.ask("198.51.100.2", 7000).server == "far"


def test_without_host_access_other_callers_are_unaffected(daemon: RunningDaemon) -> None:
    boxed(daemon)
    assert daemon.outside.ask(HOST_ADDRESS, PORT).server == "host"
    assert daemon.here.ask("127.0.0.1", PORT).server == "host"


def test_host_access_false_on_an_adopted_bridge_is_refused(daemon: RunningDaemon) -> None:
    daemon.host.sh("ip", "link", "add", "br9", "type", "bridge")
    try:
        with pytest.raises(RefusedError) as refused:
            daemon.api.network("mine", bridge_name="br9", subnet="10.99.0.0/24", host_access=False)
        assert refused.value.body["code"] == "adopted_host_access"
    finally:
        daemon.host.sh("ip", "link", "delete", "br9")
