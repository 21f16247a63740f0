"""Macvlan networks whose addresses come from the DHCP server of the segment: dnsmasq, with udhcpc as the client."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.daemon import (
    JSON,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    Sandbox,
    is_possible,
)
from tests.support.dhcp_server import FIRST, LAST, DhcpServer, ShortLeases
from tests.support.network_host import eventually
from tests.support.privileges import knows_other_users
from tests.support.time_limits import TRIES

LAN: dict[str, JSON] = {"parent": "uplink", "ipam_driver": "dhcp"}
WITHIN = 20.0
MANY = 12
REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "sandnet.service"
CONFINED = REPOSITORY / "tests" / "support" / "confined_daemon.py"


@pytest.fixture
def server(daemon: RunningDaemon, tmp_path: Path) -> Iterator[DhcpServer]:
    made = DhcpServer(daemon, tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lan(daemon: RunningDaemon, server: DhcpServer) -> str:
    return daemon.api.network("lan", "macvlan", **LAN)


def lease(daemon: RunningDaemon, name: str = "web") -> JSON:
    return daemon.api.reported("lan", name)["lease"]


def problems(daemon: RunningDaemon) -> list[str]:
    return list(daemon.api.get("/healthz")["problems"])


def resolved(daemon: RunningDaemon, asker: Sandbox, name: str) -> str:
    return daemon.cli("dns", "--from", asker.container, name)


def test_sandbox_gets_an_address_of_the_segments_server(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    web = daemon.sandbox("lan", "web")
    assert IPv4Address(FIRST) <= IPv4Address(web.address) <= IPv4Address(LAST)
    assert server.has_leased(web.address)
    web.serve("web", 80)
    assert daemon.outside.ask(web.address, 80).server == "web"
    assert f"default via {OUTSIDE_ADDRESS}" in web.sh("ip", "route")
    reported = daemon.api.reported("lan", "web")
    assert reported["lease"]["server"] == reported["lease"]["router"] == reported["gateway"] == OUTSIDE_ADDRESS
    assert reported["lease"]["ends"] > reported["lease"]["obtained"]


def test_neighbours_find_the_address_by_name(daemon: RunningDaemon, lan: str) -> None:
    web, db = daemon.sandbox("lan", "web"), daemon.sandbox("lan", "db")
    assert web.address != db.address
    assert web.address in resolved(daemon, db, "web")
    assert web.address in resolved(daemon, web, "web")
    web.serve("web", 80)
    assert db.ask(web.address, 80).server == "web"


def test_endpoint_has_no_address_before_and_after(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    db = daemon.sandbox("lan", "db")
    daemon.api.endpoint("lan", "web")
    before = daemon.api.reported("lan", "web")
    assert (before["address"], before["lease"]) == (None, None)
    web = daemon.attach("lan", "web", "c1")
    daemon.api.leave("lan", "web", "c1")
    after = daemon.api.reported("lan", "web")
    assert (after["address"], after["lease"], after["mac"]) == (None, None, before["mac"])
    assert web.address not in resolved(daemon, db, "web")
    eventually(lambda: server.count("DHCPRELEASE", web.mac) == 1)
    eventually(lambda: not server.has_leased(web.address))
    assert len(daemon.dhcp_clients()) == 1
    assert daemon.attach("lan", "web", "c2").mac == before["mac"]


def test_client_has_few_rights_and_is_in_the_sandbox(daemon: RunningDaemon, lan: str) -> None:
    web = daemon.sandbox("lan", "web")
    (pid,) = daemon.dhcp_clients()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 10 | 1 << 13
    assert status["NoNewPrivs"] == "1"
    assert (status["Uid"].split() == ["0"] * 4) is not knows_other_users()
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == int(web.sh("stat", "-Lc", "%i", "/proc/self/ns/net"))


def test_missing_server_fails_the_join_in_time(fresh_daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon = fresh_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write("dhcp_timeout = 3\n")
    daemon.start()
    daemon.api.network("lan", "macvlan", **LAN)
    before = set(daemon.links())
    daemon.api.endpoint("lan", "web")
    with pytest.raises(RefusedError, match="no_dhcp_answer") as caught:
        daemon.api.join("lan", "web", "c1")
    assert caught.value.status == 503
    assert "link uplink (network lan" in caught.value.message
    assert "within 3 s" in caught.value.message
    assert daemon.dhcp_clients() == []
    assert set(daemon.links()) == before
    assert daemon.api.get("/sandboxes") == []
    DhcpServer(daemon, tmp_path).start()
    eventually(lambda: is_possible(lambda: daemon.api.join("lan", "web", "c1")))


def test_daemon_killed_during_the_wait_leaves_nothing(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    server.stop()
    before = set(daemon.links())
    daemon.api.endpoint("lan", "web")
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(daemon.api.join, "lan", "web", "c1")
        eventually(daemon.dhcp_clients)
        daemon.kill()
        assert joining.exception()
    daemon.start()
    assert daemon.dhcp_clients() == []
    assert set(daemon.links()) == before
    assert daemon.api.get("/sandboxes") == []
    server.start()
    assert daemon.attach("lan", "web", "c1").address


def test_many_join_at_once(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    with ThreadPoolExecutor(MANY) as pool:
        made = [*pool.map(lambda number: daemon.sandbox("lan", f"web{number}"), range(MANY))]
    assert len({sandbox.address for sandbox in made}) == len(daemon.dhcp_clients()) == MANY
    assert problems(daemon) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_client_starts_within_what_the_unit_allows(fresh_daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon = fresh_daemon
    daemon.start(through=[sys.executable, str(CONFINED), str(UNIT)])
    server = DhcpServer(daemon, tmp_path)
    server.start()
    daemon.api.network("lan", "macvlan", **LAN)
    web = daemon.sandbox("lan", "web")
    assert daemon.outside.reaches(web.address)
    daemon.api.leave("lan", "web", web.container)
    assert daemon.dhcp_clients() == []
    eventually(lambda: server.count("DHCPRELEASE", web.mac) == 1)


def test_client_outlives_the_daemon(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    web = daemon.sandbox("lan", "web")
    (pid,) = daemon.dhcp_clients()
    obtained = lease(daemon)["obtained"]
    daemon.kill()
    os.kill(pid, signal.SIGUSR1)  # renew
    eventually(lambda: server.count("DHCPACK", web.mac) == 2)
    daemon.start()
    assert daemon.dhcp_clients() == [pid]
    eventually(lambda: lease(daemon)["obtained"] > obtained, WITHIN)
    assert daemon.api.reported("lan", "web")["address"].startswith(web.address)
    assert daemon.outside.reaches(web.address)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "killed"])
def test_killed_client_is_started_again(daemon: RunningDaemon, server: DhcpServer, lan: str, restart: bool) -> None:
    web = daemon.sandbox("lan", "web")
    (pid,) = daemon.dhcp_clients()
    if restart:
        daemon.kill()
    os.kill(pid, signal.SIGKILL)
    if restart:
        daemon.start()
    eventually(lambda: server.count("DHCPACK", web.mac) == 2, WITHIN)
    assert len(daemon.dhcp_clients()) == 1
    assert daemon.api.reported("lan", "web")["address"].startswith(web.address)
    assert daemon.outside.reaches(web.address)


def test_changed_address_is_followed(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    web, db = daemon.sandbox("lan", "web"), daemon.sandbox("lan", "db")
    (pid, *_) = [pid for pid in daemon.dhcp_clients() if os.stat(f"/proc/{pid}/ns/net").st_ino == inode(web)]
    server.stop()
    server.forget()
    server.start(first="198.51.100.200", last="198.51.100.210")
    os.kill(pid, signal.SIGUSR1)  # the server refuses the renewal, and offers another one
    eventually(lambda: (daemon.api.reported("lan", "web")["address"] or "").startswith("198.51.100.2"), 40)
    address = daemon.api.reported("lan", "web")["address"].partition("/")[0]
    eventually(lambda: address in web.sh("ip", "address") and web.address not in web.sh("ip", "address"), WITHIN)
    eventually(lambda: address in resolved(daemon, db, "web"), WITHIN)
    assert web.address not in resolved(daemon, db, "web")
    assert daemon.outside.reaches(address)
    eventually(lambda: daemon.api.post("/reconcile", fix=False)["drift"] == [], WITHIN)


def inode(sandbox: Sandbox) -> int:
    return int(sandbox.sh("stat", "-Lc", "%i", "/proc/self/ns/net"))


def test_lost_lease_takes_the_address_away(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    web, db = daemon.sandbox("lan", "web"), daemon.sandbox("lan", "db")
    (pid, *_) = [pid for pid in daemon.dhcp_clients() if os.stat(f"/proc/{pid}/ns/net").st_ino == inode(web)]
    server.stop()
    os.kill(pid, signal.SIGUSR2)  # release, as at the end of a lease that no one renews
    eventually(lambda: daemon.api.reported("lan", "web")["address"] is None, WITHIN)
    eventually(lambda: web.address not in web.sh("ip", "address"), WITHIN)
    assert web.address not in resolved(daemon, db, "web")
    eventually(lambda: any("endpoint web on network lan has no address" in each for each in problems(daemon)), WITHIN)
    server.start()
    os.kill(pid, signal.SIGUSR1)
    eventually(lambda: daemon.api.reported("lan", "web")["address"] is not None, 40)
    eventually(lambda: problems(daemon) == [], WITHIN)
    assert daemon.outside.reaches(daemon.api.reported("lan", "web")["address"].partition("/")[0])


def lapse_is_named(daemon: RunningDaemon, address: str) -> bool:
    """Whether a lease is named that no one renews, while its address is still there: for two seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        named = any("is not renewed by" in each for each in problems(daemon))
        current = daemon.api.reported("lan", "web")["address"]
        if current is None or named:
            return bool(current == address)
        time.sleep(0.05)
    return False


@pytest.mark.timeout(300)
def test_short_lease_is_renewed_and_ends(daemon: RunningDaemon, tmp_path: Path) -> None:
    server = ShortLeases(daemon, tmp_path)
    daemon.api.network("lan", "macvlan", **LAN)
    daemon.sandbox("lan", "web")
    first = lease(daemon)["obtained"]
    # where the machine is too busy for the renewal, the lease ends, and the client obtains another one
    eventually(lambda: (lease(daemon) or {"obtained": 0})["obtained"] > first, WITHIN)
    for _ in range(TRIES):
        eventually(lambda: problems(daemon) == [], WITHIN)
        address = daemon.api.reported("lan", "web")["address"]
        server.stop()
        if lapse_is_named(daemon, address):
            break
        server = ShortLeases(daemon, tmp_path)
        eventually(lambda: daemon.api.reported("lan", "web")["address"] is not None, 40)
    else:
        pytest.fail("no lease was named before its end")
    eventually(lambda: daemon.api.reported("lan", "web")["address"] is None, 30)
    eventually(lambda: any("has no address" in each for each in problems(daemon)), WITHIN)


def test_deleted_interface_is_made_again_with_its_lease(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    web = daemon.sandbox("lan", "web")
    web.sh("ip", "link", "delete", "eth0")
    daemon.api.post("/reconcile", fix=True)
    eventually(lambda: daemon.outside.reaches(web.address, 0.5), WITHIN)
    eventually(lambda: len(daemon.dhcp_clients()) == 1 and server.count("DHCPACK", web.mac) == 2, 40)
    assert daemon.api.reported("lan", "web")["address"].startswith(web.address)


def test_nothing_is_left_after_a_forced_deletion(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    before = set(daemon.links())
    theirs = daemon.host.container()
    daemon.sandbox("lan", "web")
    daemon.api.endpoint("lan", "db")
    daemon.api.join("lan", "db", "c2", netns=theirs.path)
    assert len(daemon.dhcp_clients()) == 2
    daemon.cli("network", "rm", "--force", "lan")
    assert daemon.dhcp_clients() == []
    assert set(daemon.links()) == before
    assert list((daemon.run / "dhcp").iterdir()) == []
    assert len(daemon.place(theirs.path).sh("ip", "-br", "link").splitlines()) == 1


def test_down_ends_the_clients(fresh_daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon = fresh_daemon
    daemon.start()
    server = DhcpServer(daemon, tmp_path)
    server.start()
    daemon.api.network("lan", "macvlan", **LAN)
    web = daemon.sandbox("lan", "web")
    daemon.kill()
    daemon.down()
    assert daemon.dhcp_clients() == []
    eventually(lambda: server.count("DHCPRELEASE", web.mac) == 1)


def test_container_that_exits_ends_its_client(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    process = daemon.host.popen("sleep", "600")
    web = daemon.sandbox("lan", "web", join={"watch_pid": process.pid})
    process.kill()
    process.wait()
    eventually(lambda: daemon.dhcp_clients() == [])
    eventually(lambda: server.count("DHCPRELEASE", web.mac) == 1)
    assert daemon.api.reported("lan", "web")["address"] is None


def test_client_does_not_count_as_a_process_inside(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    daemon.api.endpoint("lan", "web")
    key = daemon.api.join("lan", "web", "c1", auto_remove=True)
    process = daemon.host.inside(key, daemon.host.start_here, "sleep", "600")
    eventually(lambda: is_occupied(daemon))
    process.kill()
    process.wait()
    eventually(lambda: daemon.api.get("/sandboxes") == [], WITHIN)
    eventually(lambda: daemon.dhcp_clients() == [])


def is_occupied(daemon: RunningDaemon) -> bool:
    """Return whether the daemon has found a process in a sandbox."""
    query = "select value from entries where key like 'sandbox/%'"
    state = str(daemon.state / "sandnet.db")
    return '"occupied":true' in daemon.host.sh("sqlite3", "-readonly", state, query)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"subnet": "198.51.100.0/24"}, "contradiction"),
        ({"ip_range": "198.51.100.0/25"}, "contradiction"),
        ({"ipam_driver": "udp"}, "not supported"),
    ],
)
def test_contradicting_options_are_refused(daemon: RunningDaemon, options: JSON, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        daemon.api.network("lan", "macvlan", **{**LAN, **options})


def test_other_drivers_have_no_dhcp(daemon: RunningDaemon) -> None:
    with pytest.raises(RefusedError, match="no_dhcp_server"):
        daemon.api.network("lan", "bridge", ipam_driver="dhcp")


def test_requested_address_is_the_servers_matter(daemon: RunningDaemon, lan: str) -> None:
    with pytest.raises(RefusedError, match="by_dhcp"):
        daemon.api.endpoint("lan", "web", address="198.51.100.7")
    assert daemon.sandbox("lan", "web", mac="02:11:22:33:44:55").mac == "02:11:22:33:44:55"


def test_ipv6_addresses_are_allocated_beside_it(daemon: RunningDaemon, server: DhcpServer) -> None:
    prefix = OUTSIDE_ADDRESS6.rpartition("::")[0] + "::/64"
    daemon.api.network("lan", "macvlan", **LAN, subnet_ipv6=prefix)
    web = daemon.sandbox("lan", "web", address_ipv6=OUTSIDE_ADDRESS6.rpartition("::")[0] + "::77")
    assert server.has_leased(web.address)
    assert daemon.outside.reaches(web.address)
    assert daemon.outside.reaches(web.address6)
    daemon.api.leave("lan", "web", web.container)
    left = daemon.api.reported("lan", "web")
    assert (left["address"], left["address_ipv6"].partition("/")[0]) == (None, web.address6)
    answer = resolved(daemon, daemon.sandbox("lan", "db"), "web")
    assert web.address6 in answer
    assert web.address not in answer


def test_segments_name_server_is_asked(daemon: RunningDaemon, server: DhcpServer, lan: str) -> None:
    server.stop()
    answers = "--address=/printer.example.org/198.51.100.77"
    server.start(f"--dhcp-option=option:dns-server,{OUTSIDE_ADDRESS}", answers, port=53)
    web = daemon.sandbox("lan", "web")
    assert lease(daemon)["dns"] == [OUTSIDE_ADDRESS]
    assert OUTSIDE_ADDRESS in resolved(daemon, web, "printer.example.org")
    assert web.sh("dig", "+short", "@127.0.0.11", "printer.example.org") == "198.51.100.77\n"


def test_commands_and_dockers_api_ask_for_it(daemon: RunningDaemon, server: DhcpServer) -> None:
    daemon.cli("network", "create", "-d", "macvlan", "-o", "parent=uplink", "--ipam-driver", "dhcp", "lan")
    daemon.sandbox("lan", "web")
    body = {"Name": "wan", "Driver": "macvlan", "IPAM": {"Driver": "dhcp"}, "Options": {"parent": "uplink"}}
    assert daemon.api.http.post("/v1.44/networks/create", json=body).status_code == 201
    daemon.sandbox("wan", "web")
    for name in ("lan", "wan"):
        assert daemon.api.http.get(f"/v1.44/networks/{name}").json()["IPAM"]["Driver"] == "dhcp"
    assert "ipam_driver: dhcp" in daemon.cli("export")


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        (["--dhcp-option=option:domain-name,a b;$(touch /tmp/pwned)"], "255.255.255.0"),
        (["--dhcp-option=option:router,127.0.0.1"], "255.255.255.0"),
        (["--dhcp-option=option:dns-server,127.0.0.1,0.0.0.0,224.0.0.1"], "255.255.255.0"),
    ],
)
def test_values_that_cannot_be_are_left_out(
    daemon: RunningDaemon, server: DhcpServer, lan: str, options: list[str], mask: str
) -> None:
    server.stop()
    server.start(*options, mask=mask)
    web = daemon.sandbox("lan", "web")
    found = lease(daemon)
    assert found["domain"] in ("", "bad")
    assert found["router"] in (None, OUTSIDE_ADDRESS)
    assert found["dns"] == [] or found["dns"] == [OUTSIDE_ADDRESS]
    assert not Path("/tmp/pwned").exists()
    assert "127.0.0.1" not in web.sh("ip", "route")
