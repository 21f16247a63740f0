"""Real containerd and Podman on sandnet's networks, by the CNI plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import HOST_ADDRESS, RunningDaemon
from tests.support.network_host import eventually
from tests.support.privileges import needs_runtimes
from tests.support.runtime_machine import RuntimeMachine, missing

pytestmark = needs_runtimes


@pytest.fixture(scope="module")
def machine(directories: pytest.TempPathFactory) -> Iterator[RuntimeMachine]:
    """A machine on which containerd and the daemon run."""
    if absent := missing():
        pytest.skip(f"not installed: {absent}")
    daemon = RunningDaemon(directories.mktemp("w"))
    made = RuntimeMachine(daemon)
    try:
        made.start_daemon()
        made.start_containerd()
        yield made
    finally:
        made.close()
        daemon.close()


@pytest.fixture(scope="module")
def podman_machine(machine: RuntimeMachine) -> RuntimeMachine:
    """The same, with Podman."""
    if not machine.start_podman():
        pytest.skip("this Podman has no CNI (it has none from 5 on)")
    return machine


def services(machine: RuntimeMachine) -> set[str]:
    return {each["name"] for each in machine.daemon.api.get("/services")}


def pings(target: str) -> tuple[str, ...]:
    return ("/bin/ping", "-c", "1", "-W", "15", target)


@pytest.mark.attaches("containerd")
def test_containerd_containers_reach_each_other_by_name(machine: RuntimeMachine) -> None:
    for name in ("c1", "c2"):
        machine.ctr_run(name, "/bin/sleep", "1000")
    one, two = machine.ctr_name("c1"), machine.ctr_name("c2")
    assert {one, two} <= services(machine)
    assert "1 packets received" in machine.ctr_exec("c1", *pings(two))
    address = machine.daemon.api.reported("web", one)["address"].partition("/")[0]
    assert "1 packets received" in machine.ctr_exec("c2", *pings(address))
    assert "1 packets received" in machine.ctr_run("c3", *pings(one), detached=False)
    assert machine.ctr_name("c3") not in services(machine)  # in the foreground ctr sends DEL
    for name in ("c1", "c2"):
        machine.ctr_remove(name)
    eventually(lambda: not services(machine))


def test_container_without_del_is_reclaimed_after_a_kill(machine: RuntimeMachine) -> None:
    machine.ctr_run("d1", "/bin/sleep", "1000")
    machine.ctr_run("d2", "/bin/sleep", "1000")
    machine.kill_daemon()
    machine.ctr_remove("d1")
    machine.start_daemon()
    eventually(lambda: services(machine) == {machine.ctr_name("d2")})
    machine.ctr_remove("d2")
    eventually(lambda: not (services(machine) or machine.daemon.api.get("/sandboxes")))


@pytest.mark.attaches("podman")
def test_podman_containers_have_names_addresses_and_ports(podman_machine: RuntimeMachine) -> None:
    machine = podman_machine
    web = machine.podman_run("web1", "--publish", "8080:80", command=("httpd", "-f", "-p", "80", "-h", "/www"))
    assert machine.podman_run("db", "--ip", "10.88.0.77") == "10.88.0.77"
    machine.podman_run("other", "--network", "web:alias=cache,mac=02:11:22:33:44:55")
    assert services(machine) == {"web1", "db", "other"}
    for target in ("db", "cache", "other", web):
        assert "1 packets received" in machine.podman("exec", "db", *pings(target))
    assert "02:11:22:33:44:55" in machine.podman("exec", "other", "ip", "link", "show", "eth0")
    fetch = ("busybox", "wget", "-q", "-O", "-")
    assert machine.sh(*fetch, "http://127.0.0.1:8080/") == "hello"
    assert machine.daemon.outside.sh(*fetch, f"http://{HOST_ADDRESS}:8080/") == "hello\n"
    machine.podman("rm", "--force", "--time", "0", "web1")
    assert services(machine) == {"db", "other"}
    machine.podman("rm", "--force", "--all", "--time", "0")
    assert not services(machine)


def test_containers_of_two_runtimes_share_a_network(podman_machine: RuntimeMachine) -> None:
    machine = podman_machine
    machine.podman_run("db")
    machine.ctr_run("c1", "/bin/sleep", "1000")
    assert "1 packets received" in machine.ctr_exec("c1", *pings("db"))
    assert "1 packets received" in machine.podman("exec", "db", *pings(machine.ctr_name("c1")))
    machine.podman("rm", "--force", "--all", "--time", "0")
    machine.ctr_remove("c1")
    eventually(lambda: not services(machine))


def test_podman_starts_a_container_once_the_daemon_is_back(podman_machine: RuntimeMachine) -> None:
    machine = podman_machine
    machine.kill_daemon()
    with pytest.raises(AssertionError, match="cannot reach the daemon"):
        machine.podman_run("late")
    machine.start_daemon()
    machine.podman("start", "late")
    assert services(machine) == {"late"}
    machine.podman("rm", "--force", "--all", "--time", "0")
    assert not services(machine)
