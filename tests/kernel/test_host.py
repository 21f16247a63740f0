"""Facts about a real host: its ports, its resolvers, what its kernel can do."""

from __future__ import annotations

import errno
import os
import socket
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux import feature_probe, host_ports
from sandnet.kernel.linux.host import LinuxHost
from sandnet.model.address import Address
from tests.support.network_host import Host
from tests.support.privileges import needs_other_users

TCP, UDP, SCTP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP
ANY, ANY6 = ip_address("0.0.0.0"), ip_address("::")


def bind(kind: socket.SocketKind, address: str, port: int, *, reuse: bool = False) -> int:
    """What the kernel reports to another program that binds: 0 or an errno."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            other.bind((address, port))
        except OSError as error:
            return error.errno or -1
    return 0


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(("proto", "kind"), [(TCP, socket.SOCK_STREAM), (UDP, socket.SOCK_DGRAM)])
@pytest.mark.parametrize(("address", "theirs"), [(ANY, "127.0.0.1"), (ANY6, "::1"), (ip_address("127.0.0.1"), "")])
def test_held_port_is_in_use_for_other_binds(
    host: Host, proto: int, kind: socket.SocketKind, address: Address, theirs: str, reuse: bool
) -> None:
    held = host.run(LinuxHost().hold, proto, address, 0)
    assert host.run(bind, kind, theirs or str(address), held.port, reuse=reuse) == errno.EADDRINUSE
    held.close()
    assert host.run(bind, kind, theirs or str(address), held.port, reuse=reuse) == 0


def test_held_port_refuses_connections_at_once(host: Host) -> None:
    held = host.run(LinuxHost().hold, TCP, ANY, 0)
    with host.run(socket.socket) as client:
        client.settimeout(2)
        assert client.connect_ex(("127.0.0.1", held.port)) == errno.ECONNREFUSED
    held.close()


def test_port_is_held_for_ipv4_and_ipv6_together(host: Host) -> None:
    ours = LinuxHost()
    one = host.run(ours.hold, UDP, ANY, 5300)
    two = host.run(ours.hold, UDP, ANY6, 5300)
    one.close()
    assert host.run(bind, socket.SOCK_DGRAM, "::", 5300) == errno.EADDRINUSE
    assert host.run(bind, socket.SOCK_DGRAM, "0.0.0.0", 5300) == 0
    two.close()


LISTEN = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
taken = socket.socket(family, socket.SOCK_DGRAM if sys.argv[2] == "17" else socket.SOCK_STREAM)
taken.bind((sys.argv[1], 0))
sys.argv[2] == "17" or taken.listen()
print(taken.getsockname()[1], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize(("theirs", "ours"), [("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1"), ("::1", "::")])
def test_port_of_another_program_is_refused_naming_the_program(host: Host, proto: int, theirs: str, ours: str) -> None:
    program = host.popen(sys.executable, "-c", LISTEN, theirs, str(proto))
    assert program.stdout
    port = int(program.stdout.readline())
    with pytest.raises(Error) as refusal:
        host.run(LinuxHost().hold, proto, ip_address(ours), port)
    assert refusal.value.code == "port_taken"
    assert f"(pid {program.pid})" in refusal.value.message
    assert str(port) in refusal.value.message


def test_holding_our_own_port_again_is_reported_as_ours(host: Host) -> None:
    ours = LinuxHost()
    held = host.run(ours.hold, TCP, ANY, 8080)
    with pytest.raises(Error, match="held by another endpoint"):
        host.run(ours.hold, TCP, ip_address("127.0.0.1"), 8080)
    held.close()


def test_port_with_closing_connections_is_refused_with_a_reason(host: Host) -> None:
    with host.run(socket.create_server, ("127.0.0.1", 8081)) as server:
        client = host.run(socket.create_connection, ("127.0.0.1", 8081))
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
        client.close()
    with pytest.raises(Error, match="still closing"):
        host.run(LinuxHost().hold, TCP, ANY, 8081)


def test_port_is_held_without_a_socket_if_sctp_is_missing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_ports, "_bound", lambda *_: None)
    ours = LinuxHost()
    held = host.run(ours.hold, SCTP, ANY, 3868)
    with pytest.raises(Error) as refusal:
        host.run(ours.hold, SCTP, ip_address("127.0.0.1"), 3868)
    assert refusal.value.code == "port_taken"
    held.close()
    host.run(ours.hold, SCTP, ANY, 3868).close()
    with pytest.raises(Error) as refusal:
        host.run(ours.hold, SCTP, ANY, 0)
    assert refusal.value.kind is Kind.INVALID


def test_nameservers_of_a_changed_resolv_conf_are_occupied(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    ours = LinuxHost(os.fspath(file))
    assert host.run(ours.occupied) == []
    file.write_text("# nameserver 10.0.0.1\nnameserver 10.9.0.53\nnameserver 127.0.0.53\nsearch example.org\n")
    assert host.run(ours.occupied) == [ip_network("10.9.0.53/32")]
    file.write_text("nameserver fd00::53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver\nnameserver nonsense\n")
    assert host.run(ours.occupied) == [ip_network("fd00::53/128")]
    file.unlink()
    assert host.run(ours.occupied) == []
    ours.close()


def test_capability_check_leaves_a_capable_host_unchanged(host: Host) -> None:
    missing = host.run(LinuxHost().missing_features)
    assert not set(missing) - {"sctp", "ipv6", "wireguard"}
    assert [line.split(":")[1].strip() for line in host.sh("ip", "-o", "link").splitlines()] == ["lo"]
    assert host.sh("nft", "list", "ruleset") == ""


def test_missing_capabilities_each_have_a_reason(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise OSError(errno.EOPNOTSUPP, "Unknown device type")

    monkeypatch.setattr(feature_probe, "_try_bridge", no_driver)
    ours = LinuxHost()
    assert "CONFIG_BRIDGE" in host.run(ours.missing_features)["bridge"]
    monkeypatch.undo()
    assert "bridge" in host.run(ours.missing_features), "what was tried once is not tried again"


@needs_other_users
def test_unprivileged_check_lacks_namespaces_and_dependents(host: Host) -> None:
    program = """
import os
from sandnet.kernel.linux.host import LinuxHost
os.setuid(65534)
for feature, reason in LinuxHost().missing_features().items():
    print(feature, reason)
"""
    printed, _ = host.popen(sys.executable, "-c", program).communicate(timeout=20)
    assert "namespaces we may not make a network namespace" in printed
    assert "bridge it could not be tried" in printed


@pytest.mark.parametrize(
    ("text", "reserved"),
    [
        ("", frozenset()),
        ("80", {80}),
        ("80,8000-8002", {80, 8000, 8001, 8002}),
        (",".join(map(str, range(1, 65535, 2))), {*range(1, 65535, 2)}),
    ],
    ids=["none", "one", "a range", "every other port"],
)
def test_reserved_ports_are_read_afresh(host: Host, text: str, reserved: set[int]) -> None:
    facts = LinuxHost()
    assert host.run(facts.reserved_ports) == frozenset()
    if text:
        host.run(Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text, text)
    assert host.run(facts.reserved_ports) == reserved
