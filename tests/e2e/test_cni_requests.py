"""What runtimes request through the CNI plugin besides an interface, and what is refused with which code."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.support.cni import VERSIONS, Runtime, address_of
from tests.support.daemon import HOST_ADDRESS, OUTSIDE_ADDRESS, RunningDaemon, state_of
from tests.support.network_host import eventually
from tests.support.traffic import UDP

PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 5353, "containerPort": 53, "protocol": "UDP", "hostIP": HOST_ADDRESS},
]
NOWHERE = {"SANDNET_HOST": "unix:///nowhere.sock"}


def test_published_ports_lead_to_the_container_until_del(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    address = address_of(runtime.add("c1", theirs.path, runtimeConfig={"portMappings": PORTS}))
    place = daemon.place(theirs.path)
    place.serve("web", 80, address=address)
    place.serve("names", 53, UDP, address=address)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert daemon.outside.ask(HOST_ADDRESS, 5353, UDP).server == "names"
    runtime.delete("c1", theirs.path)
    assert daemon.outside.is_refused(HOST_ADDRESS, 8080)


def test_runtime_may_bind_a_published_port_itself(daemon: RunningDaemon) -> None:
    """Podman does so after ADD; and a restart of the daemon finds it bound."""
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    address = address_of(runtime.add("c1", theirs.path, runtimeConfig={"portMappings": PORTS[:1]}))
    bound = daemon.here.bound("0.0.0.0", 6, 8080)
    bound.listen()
    daemon.kill()
    daemon.start()
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    daemon.place(theirs.path).serve("web", 80, address=address)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    runtime.delete("c1")


def test_taken_host_port_is_refused_and_nothing_is_left(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    before = state_of(daemon.place(theirs.path))
    taken = daemon.here.bound("0.0.0.0", 6, 8080)
    taken.listen()
    networks = [each["name"] for each in daemon.api.get("/networks")]
    error = Runtime(daemon).refused("ADD", "c1", theirs.path, runtimeConfig={"portMappings": PORTS})
    assert (error["code"], "8080" in error["msg"]) == (101, True)
    assert state_of(daemon.place(theirs.path)) == before
    assert [each["name"] for each in daemon.api.get("/networks")] == networks
    assert daemon.api.get("/services") == []


@pytest.mark.parametrize("how", ["capabilities", "arguments", "args"])
def test_requested_address_and_mac_are_used(daemon: RunningDaemon, how: str) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon, ipam={"subnet": "10.88.1.0/24"})
    requests: dict[str, dict[str, Any]] = {
        "capabilities": {"runtimeConfig": {"ips": ["10.88.1.77/24"], "mac": "02:11:22:33:44:55"}},
        "arguments": {"args": "IgnoreUnknown=1;IP=10.88.1.77;MAC=02:11:22:33:44:55;K8S_POD_NAME=web"},
        "args": {"args": "MAC=02:11:22:33:44:55"},
    }
    more = requests[how]
    if how == "args":
        runtime.configuration["args"] = {"cni": {"ips": ["10.88.1.77"]}}
    result = runtime.add("c1", theirs.path, **more)
    assert address_of(result) == "10.88.1.77"
    assert result["interfaces"][2]["mac"] == "02:11:22:33:44:55"
    runtime.delete("c1", theirs.path)


@pytest.mark.parametrize("how", ["capabilities", "arguments", "args"])
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_several_requested_addresses_are_all_used(daemon: RunningDaemon, how: str, version: str) -> None:
    theirs = daemon.host.container()
    own = ["10.88.1.77", "fd00:88::77", "10.88.1.78", "fd00:88::78", "10.88.1.79"]
    ranges = [[{"subnet": "10.88.1.0/24"}], [{"subnet": "fd00:88::/64"}]]
    runtime = Runtime(daemon, version=version, ipam={"ranges": ranges})
    more: dict[str, Any] = {"arguments": {"args": f"IP={','.join(own)}"}}.get(how, {})
    if how == "capabilities":
        more = {"runtimeConfig": {"ips": [f"{each}/{64 if ':' in each else 24}" for each in own]}}
    elif how == "args":
        runtime.configuration["args"] = {"cni": {"ips": own}}
    result = runtime.add("c1", theirs.path, **more)
    written = [each["address"] for each in result["ips"]]
    assert written == ["10.88.1.77/24", "fd00:88::77/64", "10.88.1.78/24", "fd00:88::78/64", "10.88.1.79/24"]
    assert all(each["interface"] == 2 and each["gateway"] for each in result["ips"])
    assert all(daemon.here.reaches(each) for each in own)
    assert runtime.call("CHECK", "c1", theirs.path, prevResult=result) == (0, "", "")
    other = {**result, "ips": [*result["ips"][:-1], {**result["ips"][-1], "address": "10.88.1.80/24"}]}
    assert "10.88.1.80" in runtime.refused("CHECK", "c1", theirs.path, prevResult=other)["msg"]
    daemon.place(theirs.path).sh("ip", "address", "del", "10.88.1.79/32", "dev", "eth0")
    for _ in range(2):
        runtime.delete("c1", theirs.path)
    assert "10.88.1" not in daemon.host.sh("ip", "address", namespace=theirs.path)
    daemon.api.endpoint(str(runtime.configuration["name"]), "next", additional_addresses=own)


def test_names_of_a_pod_resolve(daemon: RunningDaemon) -> None:
    one, two = daemon.host.container(), daemon.host.container()
    runtime = Runtime(daemon)
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=x"
    address = address_of(runtime.add("a" * 64, one.path, args=args, runtimeConfig={"aliases": {"web": ["www"]}}))
    runtime.add("c2", two.path)
    for name in ("web", "web.shop", "www", "a" * 12):
        assert address in daemon.cli("dns", name, "--from", "c2"), name
    for each in ("a" * 64, "c2"):
        runtime.delete(each)


def test_pods_of_one_name_have_endpoints_of_their_own(daemon: RunningDaemon) -> None:
    spaces = [daemon.host.container() for _ in range(3)]
    runtime = Runtime(daemon)
    for number, each in enumerate(spaces):
        runtime.add(f"c{number}", each.path, args="K8S_POD_NAME=web")
    assert [each["name"] for each in daemon.api.get("/services")] == ["web", "c1", "c2"]
    for number in range(3):
        runtime.delete(f"c{number}")


def test_configured_ranges_make_the_network(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    ranges = [
        [{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.64", "rangeEnd": "10.88.1.127", "gateway": "10.88.1.9"}],
        [{"subnet": "fd00:88::/64"}],
    ]
    runtime = Runtime(daemon, "conf", network="net", ipam={"ranges": ranges}, mtu=1400)
    result = runtime.add("c1", theirs.path)
    own, own6 = (ip_interface(each["address"]) for each in result["ips"])
    assert own in ip_network("10.88.1.64/26")
    assert own6 in ip_network("fd00:88::/64")
    assert [each["gateway"] for each in result["ips"]] == ["10.88.1.9", "fd00:88::1"]
    assert {each["dst"] for each in result["routes"]} == {"0.0.0.0/0", "::/0"}
    assert "mtu 1400" in daemon.place(theirs.path).sh("ip", "link", "show", "eth0")
    assert daemon.api.reported("net")["driver"] == "bridge"
    runtime.delete("c1", theirs.path)


def test_dns_of_the_runtime_is_returned_and_used(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    dns = {"servers": [OUTSIDE_ADDRESS], "searches": ["shop.example"], "options": ["ndots:3"]}
    result = runtime.add("c1", theirs.path, runtimeConfig={"dns": dns})
    assert result["dns"] == {"nameservers": ["127.0.0.11"], "search": ["shop.example"], "options": ["ndots:3"]}
    runtime.delete("c1", theirs.path)


# What is refused.


REFUSED = [
    ({"cniVersion": "0.2.0"}, 1),
    ({"cniVersion": "2.0.0"}, 1),
    ({"runtimeConfig": {"bandwidth": {"ingressRate": 1, "ingressBurst": 1000}}}, 7),
    ({"ipam": {"type": "host-local", "subnet": "10.88.1.0/24"}}, 2),
    ({"ipam": {"type": "dhcp"}}, 2),
    ({"driver": "macvlan", "master": "uplink", "ipam": {"type": "static"}}, 2),
    ({"driver": "ipvlan"}, 2),
    ({"master": "uplink"}, 2),
    ({"driver": "overlay", "mode": "bridge"}, 2),
    ({"driver": "macvlan", "ipam": {"type": "dhcp"}}, 7),
    ({"driver": "macvlan", "master": "nowhere", "ipam": {"type": "dhcp"}}, 7),
    ({"driver": "macvlan", "master": "uplink"}, 7),
    ({"driver": "macvlan", "master": "../uplink\u0000", "ipam": {"type": "dhcp"}}, 7),
    ({"driver": "macvlan", "master": "uplink", "mode": "passthru", "ipam": {"type": "dhcp"}}, 7),
    ({"ipam": {"subnet": "10.88.1.0/24", "routes": [{"dst": "10.0.0.0/8"}]}}, 2),
    ({"ipam": {"ranges": [[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.3", "rangeEnd": "10.88.1.99"}]]}}, 2),
    ({"ipam": {"subnet": "300.0.0.0/8"}}, 7),
    ({"ipam": {"subnet": "127.0.0.0/8"}}, 7),
    ({"name": "../etc"}, 7),
    ({"name": ""}, 7),
    ({"network": "none"}, 7),
    ({"network": "host"}, 7),
    ({"mtu": 20}, 7),
    ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}}, 7),
    ({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}, 7),
    ({"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}, 7),
    ({"runtimeConfig": {"ips": ["10.1.1.1/24"]}}, 7),
    ({"ipam": {"subnet": "10.88.1.0/24"}, "runtimeConfig": {"ips": ["10.88.1.7", "10.88.1.7/24"]}}, 7),
    ({"ipam": {"subnet": "10.88.1.0/24"}, "runtimeConfig": {"ips": ["10.88.1.7", "10.1.1.1"]}}, 7),
    ({"runtimeConfig": {"ips": [f"10.88.1.{number}" for number in range(2, 20)]}}, 7),
    ({"runtimeConfig": {"aliases": {"web": ["no good"]}}}, 7),
    ({"runtimeConfig": []}, 7),
]


@pytest.mark.parametrize(("more", "code"), REFUSED, ids=lambda value: str(value)[:60])
def test_add_refuses_a_configuration_with_its_code(daemon: RunningDaemon, more: dict[str, Any], code: int) -> None:
    theirs = daemon.host.container()
    before = state_of(daemon.place(theirs.path))
    runtime = Runtime(daemon)
    runtime.configuration.update(more)
    error = runtime.refused("ADD", "c1", theirs.path)
    assert (error["code"], error["cniVersion"] in VERSIONS) == (code, True), error
    assert state_of(daemon.place(theirs.path)) == before
    assert {each["name"] for each in daemon.api.get("/networks")} == {"none", "host", "bridge"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("", "NETNS"), 4),
        (("c1", ""), 4),
        (("c1", "NETNS", ""), 4),
        (("c1", "NETNS", "too-long-for-a-link"), 4),
        (("c1", "NETNS", "a/b"), 4),
        (("../c1", "NETNS"), 4),
        (("c1", "NETNS", "eth0", "RUBBISH"), 4),
        (("c1", "NETNS", "eth0", "UNKNOWN=1"), 4),
        (("c1", "NETNS", "eth0", "MAC=rubbish"), 4),
        (("c1", "relative"), 4),
        (("c1", "/etc/passwd"), 4),
        (("c1", "/proc/1/nowhere"), 3),
        (("c1", "/proc/self/ns/net"), 4),
    ],
)
def test_add_refuses_an_environment_with_its_code(daemon: RunningDaemon, words: tuple[str, ...], code: int) -> None:
    theirs = daemon.host.container()
    real = [theirs.path if word == "NETNS" else word for word in words]
    if real[1] == "/proc/self/ns/net":
        assert daemon.process
        real[1] = f"/proc/{daemon.process.pid}/ns/net"
    assert Runtime(daemon).refused("ADD", *real)["code"] == code
    assert daemon.api.get("/services") == []


@pytest.mark.parametrize("text", [b"", b"{", b'{"cniVersion": "1.0.0", "name": "we', b"[]", b"\xff\xfe", b'"web"'])
def test_half_an_input_is_refused_with_json(daemon: RunningDaemon, text: bytes) -> None:
    theirs = daemon.host.container()
    for command in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        assert Runtime(daemon).refused(command, "c1", theirs.path, text=text)["code"] in (6, 7)
    assert Runtime(daemon).call("VERSION", text=text).answer["supportedVersions"] == VERSIONS


def test_unknown_commands_are_refused_with_json(daemon: RunningDaemon) -> None:
    for command in ("", "add", "REMOVE"):
        assert Runtime(daemon).refused(command)["code"] == 4


# Bad luck.


def test_second_add_is_refused_and_the_first_stays(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    runtime.add("c1", theirs.path)
    before = state_of(daemon.place(theirs.path))
    assert runtime.refused("ADD", "c1", theirs.path)["code"] == 4
    assert Runtime(daemon, "other").refused("ADD", "c1", theirs.path)["code"] == 4
    assert state_of(daemon.place(theirs.path)) == before
    runtime.delete("c1", theirs.path)
    runtime.add("c1", theirs.path)
    runtime.delete("c1", theirs.path)


def test_interface_of_another_program_is_not_replaced(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    place = daemon.place(theirs.path)
    place.sh("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    before = state_of(place)
    assert Runtime(daemon).refused("ADD", "c1", theirs.path)["code"] == 101
    assert state_of(place) == before
    runtime = Runtime(daemon)
    runtime.add("c1", theirs.path, "net0")
    runtime.delete("c1", theirs.path, "net0")
    assert state_of(place) == before


def test_runtime_does_not_delete_what_another_one_made(daemon: RunningDaemon) -> None:
    """Two runtimes with one container id: the second one is refused, and its DEL leaves the first one alone."""
    one, two = daemon.host.container(), daemon.host.container()
    runtime = Runtime(daemon)
    runtime.add("c1", one.path)
    before = state_of(daemon.place(one.path))
    assert runtime.refused("ADD", "c1", two.path)["code"] == 4
    runtime.delete("c1", two.path)
    Runtime(daemon, "other").delete("c1", one.path)
    runtime.delete("c1", one.path, "net1")
    assert state_of(daemon.place(one.path)) == before
    runtime.delete("c1", one.path)
    assert daemon.api.get("/services") == []


def test_container_id_is_free_again_when_its_namespace_has_ended(daemon: RunningDaemon) -> None:
    """A runtime that never sends DEL starts a container of the same name at once."""
    runtime = Runtime(daemon)
    daemon.host.sh("mkdir", "-p", "/run/netns")
    for _ in range(3):
        daemon.host.sh("ip", "netns", "add", "blue")
        runtime.add("c1", "/run/netns/blue")
        daemon.host.sh("ip", "netns", "delete", "blue")
    eventually(lambda: not (daemon.pinned() or daemon.api.get("/services")))


def test_empty_namespace_stays_attached_while_its_path_exists(daemon: RunningDaemon) -> None:
    """Others are reclaimed in the meantime, so the check of unused namespaces has run."""
    runtime = Runtime(daemon)
    stays = daemon.host.container()
    runtime.add("stays", stays.path)
    stays.popen("true").wait(30)
    daemon.host.sh("mkdir", "-p", "/run/netns")
    for name in ("blue", "green"):
        daemon.host.sh("ip", "netns", "add", name)
        runtime.add(name, f"/run/netns/{name}")
        daemon.host.sh("ip", "netns", "delete", name)
        eventually(lambda: [each["name"] for each in daemon.api.get("/services")] == ["stays"])
    runtime.delete("stays")


def test_absent_daemon_is_reported_at_once(daemon: RunningDaemon) -> None:
    runtime = Runtime(daemon)
    for command in ("ADD", "DEL", "CHECK", "GC"):
        error = runtime.refused(command, "c1", "/proc/1/ns/net", environment=NOWHERE)
        assert (error["code"], "cannot reach the daemon" in error["msg"]) == (11, True)
    assert runtime.refused("STATUS", environment=NOWHERE)["code"] == 50


def test_daemon_that_breaks_off_is_reported_with_json(daemon: RunningDaemon, tmp_path: Path) -> None:
    """Half a head, and half a body."""
    halves = (b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            for half in halves:
                with listening.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(half)

        thread = threading.Thread(target=answer)
        thread.start()
        for _ in halves:
            error = Runtime(daemon).refused("ADD", "c1", "/x", environment={"SANDNET_HOST": f"unix://{path}"})
            assert error["code"] == 11
        thread.join(30)


def test_check_finds_what_differs(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    assert runtime.refused("CHECK", "c1", theirs.path)["code"] == 101
    result = runtime.add("c1", theirs.path)
    assert runtime.call("CHECK", "c1", theirs.path, prevResult=result) == (0, "", "")
    assert runtime.refused("CHECK", "c1", theirs.path)["code"] == 7
    for wrong in (
        {**result, "ips": [{**result["ips"][0], "address": "10.9.9.9/24"}]},
        {**result, "interfaces": [{**each, "mac": "02:00:00:00:00:01"} for each in result["interfaces"]]},
        {**result, "interfaces": []},
    ):
        assert runtime.refused("CHECK", "c1", theirs.path, prevResult=wrong)["code"] == 101
    runtime.delete("c1", theirs.path)


def test_garbage_collection_deletes_all_but_the_valid(daemon: RunningDaemon) -> None:
    runtime = Runtime(daemon, version="1.1.0")
    spaces = {name: daemon.host.container() for name in ("c1", "c2", "c3")}
    for name, each in spaces.items():
        runtime.add(name, each.path)
    kept = daemon.host.container()
    Runtime(daemon, "other").add("c4", kept.path)
    daemon.sandbox("web", "own")
    valid = [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "unknown", "ifname": "eth0"}]
    assert runtime.refused("GC")["code"] == 7
    assert runtime.call("GC", **{"cni.dev/valid-attachments": valid}) == (0, "", "")  # type: ignore[arg-type]
    assert {each["name"] for each in daemon.api.get("/services")} == {"c2", "c4", "own"}
    assert runtime.call("GC", **{"cni.dev/valid-attachments": []}) == (0, "", "")  # type: ignore[arg-type]
    assert {each["name"] for each in daemon.api.get("/services")} == {"c4", "own"}
    Runtime(daemon, "other").delete("c4")


def test_status_is_quiet_while_the_daemon_serves(daemon: RunningDaemon) -> None:
    assert Runtime(daemon, version="1.1.0").call("STATUS") == (0, "", "")


def test_many_adds_at_once_share_a_new_network(daemon: RunningDaemon) -> None:
    runtime = Runtime(daemon)
    spaces = [daemon.host.container() for _ in range(8)]
    results: dict[int, str] = {}

    def add(number: int) -> None:
        results[number] = address_of(runtime.add(f"c{number}", spaces[number].path))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(len(spaces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(results.values())) == len(spaces)
    assert sum(each["name"] == "web" for each in daemon.api.get("/networks")) == 1
    for number in range(len(spaces)):
        runtime.delete(f"c{number}")
