"""Networks of several hosts: seen, used and deleted from any of them, by daemons that share an etcd cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from tests.support.daemon import PREDEFINED, Api, RefusedError
from tests.support.lab import BUSY, SLEEPER, RunningLab, started_lab

pytestmark = pytest.mark.timeout(400)
SERVER = """
import socket, sys
listener = socket.create_server(("", 80))
while True:
    connection, _ = listener.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""
"""Sends its argument to each client."""
ANSWER = "answer-of-host-"
MOVE = 30.0
"""Until a host reaches what has moved to another: a second, and more for a busy machine. Entries that the kernel had
learned would be wrong for minutes."""


@pytest.fixture(scope="module")
def common_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with started_lab(tmp_path_factory.mktemp("labs")) as lab:
        yield lab


@pytest.fixture
def lab(common_lab: RunningLab) -> Iterator[RunningLab]:
    """Three hosts without networks; what a test has made is removed by one of them."""
    yield common_lab
    for number in common_lab.hosts:
        for program in (SLEEPER, ANSWER):
            common_lab.run(number, "pkill", "-f", program)
    api = common_lab.client(1)
    common_lab.wait_until(lambda: not api.get("/sandboxes"))
    common_lab.wait_until(lambda: removed(common_lab))


def removed(lab: RunningLab) -> bool:
    """Delete all networks but the predefined ones, and report whether that was possible."""
    api = lab.client(1)
    try:
        api.clear()
    except RefusedError:
        return False
    return all(names(lab, number) == set() for number in lab.hosts)


def names(lab: RunningLab, number: int) -> set[str]:
    """Names of the networks that a host lists, without the predefined ones."""
    return {net["name"] for net in lab.client(number).get("/networks")} - set(PREDEFINED)


class TestNetwork:
    def test_network_is_seen_and_deleted_on_every_host(self, lab: RunningLab) -> None:
        lab.sandnet(1, "network", "create", "-d", "overlay", "blue")
        lab.wait_until(lambda: all(names(lab, number) == {"blue"} for number in lab.hosts), BUSY)
        found = [lab.client(number).get("/networks", name="blue")[0] for number in lab.hosts]
        assert found[0] == found[1] == found[2]
        lab.sandnet(3, "network", "rm", "blue")
        lab.wait_until(lambda: not any(names(lab, number) for number in lab.hosts), BUSY)

    def test_name_of_a_network_is_refused_on_another_host(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        with pytest.raises(RefusedError, match="blue") as refused:
            lab.client(2).network("blue", "overlay")
        assert refused.value.body["code"] == "name_taken"

    def test_one_of_two_hosts_wins_a_name_at_the_same_instant(self, lab: RunningLab) -> None:
        def create(number: int, name: str) -> int:
            try:
                lab_apis[number].network(name, "overlay")
            except RefusedError as refused:
                return refused.status
            return 200

        lab_apis = {number: lab.client(number) for number in lab.hosts}
        wanted = {f"blue-{attempt}" for attempt in range(10)}  # each time at another moment of the hosts' work
        with ThreadPoolExecutor(3) as pool:
            for name in sorted(wanted):
                assert sorted(pool.map(create, lab.hosts, [name] * 3)) == [200, 403, 403]
        lab.wait_until(lambda: all(names(lab, number) == wanted for number in lab.hosts), BUSY)

    def test_cni_configuration_makes_a_network_of_all_hosts(self, lab: RunningLab) -> None:
        configuration = json.dumps({"cniVersion": "1.0.0", "name": "blue", "type": "sandnet-cni", "driver": "overlay"})
        call = "CNI_COMMAND={} CNI_CONTAINERID=c{} CNI_NETNS=/run/netns/c{} CNI_IFNAME=eth0 CNI_PATH=/ sandnet-cni"
        for number in (1, 2):
            lab.sh(number, "ip", "netns", "add", f"c{number}")
            add = call.format("ADD", number, number)
            result = json.loads(lab.sh(number, "sh", "-c", f"printf %s '{configuration}' | {add}"))
            lab.wait_until(lambda: "blue" in names(lab, 2), BUSY)
        lab.wait_until(lambda: "c1" in lab.sandnet(2, "endpoint", "ls", "blue"), BUSY)
        address = result["ips"][0]["address"].partition("/")[0]
        echoes = ("ip", "netns", "exec", "c1", "ping", "-c3", "-i0.2", "-W2", address)
        lab.wait_until(lambda: "3 received" in lab.run(1, *echoes).stdout, BUSY)
        for number in (1, 2):
            delete = call.format("DEL", number, number)
            lab.sh(number, "sh", "-c", f"printf %s '{configuration}' | {delete}")
            lab.sh(number, "ip", "netns", "delete", f"c{number}")

    def test_network_with_an_endpoint_of_another_host_stays(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        lab.wait_until(lambda: "blue" in names(lab, 2), BUSY)
        lab.start_sleeper(2, "blue", "web")
        with pytest.raises(RefusedError, match="web"):
            lab.client(1).delete("/networks/blue")


class TestEndpoint:
    def test_name_of_an_endpoint_is_refused_on_another_host(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        lab.client(1).endpoint("blue", "web")
        lab.wait_until(lambda: "blue" in names(lab, 2), BUSY)
        with pytest.raises(RefusedError, match="web") as refused:
            lab.client(2).endpoint("blue", "web")
        assert refused.value.body["code"] == "name_taken"

    def test_addresses_of_endpoints_of_several_hosts_differ(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        lab.wait_until(lambda: all("blue" in names(lab, number) for number in lab.hosts), BUSY)
        apis = {number: lab.client(number) for number in lab.hosts}
        with ThreadPoolExecutor(3) as pool:
            list(
                pool.map(lambda number: [apis[number].endpoint("blue", f"e{number}-{k}") for k in range(5)], lab.hosts)
            )
        lab.wait_until(lambda: len(apis[1].get("/networks/blue/endpoints")) == 15, BUSY)
        found = [each["address"] for each in apis[1].get("/networks/blue/endpoints", verbose="true")]
        assert len(set(found)) == 15

    def test_process_reaches_one_on_another_host_by_its_name(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        lab.start_sleeper(1, "blue", "web")
        lab.wait_until(lambda: "blue" in names(lab, 2), BUSY)
        lab.start_sleeper(2, "blue", "db")
        lab.wait_until(lambda: "web" in lab.sandnet(2, "endpoint", "ls", "blue"), BUSY)
        for number, name in ((2, "web"), (1, "db")):
            echoes = ("sandnet", "run", "--net", "blue", "--", "ping", "-c3", "-i0.2", "-W2", name)
            lab.wait_until(lambda number=number, echoes=echoes: "3 received" in lab.run(number, *echoes).stdout, BUSY)  # type: ignore[misc]

    def test_name_goes_with_the_process_on_its_host(self, lab: RunningLab) -> None:
        lab.client(1).network("blue", "overlay")
        lab.start_sleeper(1, "blue", "web")
        lab.wait_until(lambda: "blue" in names(lab, 2), BUSY)
        client = lab.start_sleeper(2, "blue", "db")
        lab.wait_until(lambda: lab.resolved(2, client, "web"), BUSY)
        lab.sh(1, "pkill", "-f", SLEEPER)
        lab.wait_until(lambda: not lab.resolved(2, client, "web"), BUSY)


def peer_entries(lab: RunningLab, number: int, endpoint: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The hosts to which a host's kernel sends frames for an endpoint, and the MACs that it answers for its address."""
    entries = json.loads(lab.sh(number, "bridge", "-j", "fdb", "show"))
    hosts = {each["dst"] for each in entries if each["mac"] == endpoint["mac"] and "dst" in each}
    address = endpoint["address"].partition("/")[0]
    neighbours = json.loads(lab.sh(number, "ip", "-j", "neigh", "show", "nud", "permanent"))
    return hosts, {each["lladdr"] for each in neighbours if each["dst"] == address}


class TestSameInstant:
    """Three hosts ask for the same, again and again, each time at another moment of their work: one gets it, and the
    others are told what has it."""

    ROUNDS = 12

    @pytest.fixture
    def raced(self, lab: RunningLab) -> RunningLab:
        lab.client(1).network("blue", "overlay")
        lab.wait_until(lambda: all("blue" in names(lab, number) for number in lab.hosts), BUSY)
        return lab

    def race(self, lab: RunningLab, change: Callable[[Api, int, int], object]) -> list[list[RefusedError]]:
        """The refusals of each round; all but one host get one."""
        apis = {number: lab.client(number) for number in lab.hosts}

        def attempt(number: int, turn: int) -> RefusedError | None:
            try:
                change(apis[number], number, turn)
            except RefusedError as refused:
                return refused
            return None

        with ThreadPoolExecutor(len(lab.hosts)) as pool:
            rounds = [
                [each for each in pool.map(attempt, lab.hosts, [turn] * len(lab.hosts)) if each]
                for turn in range(self.ROUNDS)
            ]
        assert [len(refusals) for refusals in rounds] == [len(lab.hosts) - 1] * self.ROUNDS
        return rounds

    @pytest.mark.parametrize("kind", ["endpoints", "services"])
    def test_one_host_gets_a_name(self, raced: RunningLab, kind: str) -> None:
        def create(api: Api, number: int, turn: int) -> None:
            if kind == "endpoints":
                api.endpoint("blue", f"e{turn}")
            else:
                api.post("/services", name=f"e{turn}", network_name="blue")

        for turn, refusals in enumerate(self.race(raced, create)):
            assert {each.body["code"] for each in refusals} == {"name_taken"}
            assert all(f"e{turn}" in each.message for each in refusals)
        raced.wait_until(
            lambda: all(
                len(raced.client(number).get("/networks/blue/endpoints")) == self.ROUNDS for number in raced.hosts
            ),
            BUSY,
        )

    def test_one_host_gets_an_address(self, raced: RunningLab) -> None:
        subnet = raced.client(1).reported("blue")["subnets"][0].rpartition(".")[0]

        def create(api: Api, number: int, turn: int) -> None:
            api.endpoint("blue", f"e{turn}-{number}", address=f"{subnet}.{100 + turn}")

        for turn, refusals in enumerate(self.race(raced, create)):
            assert {each.body["code"] for each in refusals} == {"address_taken"}
            assert all(f"{subnet}.{100 + turn}" in each.message for each in refusals)
            assert all(f"is held by endpoint e{turn}-" in each.message for each in refusals)

    def test_one_host_gets_a_subnet(self, raced: RunningLab) -> None:
        def create(api: Api, number: int, turn: int) -> None:
            api.network(f"n{turn}-{number}", "overlay", subnet=f"10.77.{turn}.0/24")

        for turn, refusals in enumerate(self.race(raced, create)):
            assert {each.status for each in refusals} == {409}
            assert all(f"n{turn}-" in each.message for each in refusals), [each.message for each in refusals]

    def test_one_host_gets_one_of_overlapping_subnets(self, raced: RunningLab) -> None:
        def create(api: Api, number: int, turn: int) -> None:
            subnet = f"10.{80 + turn}.0.0/{16 + number}"
            api.network(f"o{turn}-{number}", "overlay", subnet=subnet, vni=5000 + 10 * turn + number)

        for turn, refusals in enumerate(self.race(raced, create)):
            assert {each.status for each in refusals} == {409}
            assert all(f"o{turn}-" in each.message for each in refusals), [each.message for each in refusals]

    def test_one_host_gets_an_endpoint(self, raced: RunningLab) -> None:
        """The others are told which container has it, and where."""
        for turn in range(self.ROUNDS):
            raced.client(1).endpoint("blue", f"e{turn}")
        raced.wait_until(
            lambda: all(
                len(raced.client(number).get("/networks/blue/endpoints")) == self.ROUNDS for number in raced.hosts
            ),
            BUSY,
        )
        taken: dict[int, tuple[str, int]] = {}

        def join(api: Api, number: int, turn: int) -> None:
            api.join("blue", f"e{turn}", f"c{turn}-{number}")
            taken[turn] = (f"c{turn}-{number}", number)

        try:
            for turn, refusals in enumerate(self.race(raced, join)):
                container, number = taken[turn]
                assert {each.body["code"] for each in refusals} == {"joined_elsewhere"}
                assert all(container in each.message and f"h{number}" in each.message for each in refusals)
        finally:
            for turn, (container, number) in taken.items():
                raced.client(number).leave("blue", f"e{turn}", container)


class TestMove:
    """An endpoint with its address, whose container ends on one host and starts on another."""

    @pytest.fixture
    def moving(self, lab: RunningLab) -> Iterator[RunningLab]:
        """The lab with an endpoint ``db`` that is joined nowhere, and a container on each host."""
        lab.client(1).network("blue", "overlay", ipv6=True)
        lab.client(1).endpoint("blue", "db")
        lab.wait_until(lambda: all("blue" in names(lab, number) for number in lab.hosts), BUSY)
        lab.containers = {number: lab.start_sleeper(number, "blue", f"web{number}") for number in lab.hosts}
        yield lab
        for number in lab.hosts:
            with suppress(RefusedError):
                lab.client(number).leave("blue", "db", "moving")

    def test_peers_reach_it_on_its_new_host(self, moving: RunningLab) -> None:
        lab = moving
        lab.client(1).join("blue", "db", "moving")
        db = lab.client(3).get("/networks/blue/endpoints/db", verbose="true")
        for number in lab.hosts:  # so that all have it among their neighbours
            lab.wait_until(lambda number=number: self.reaches(lab, number, db), BUSY)  # type: ignore[misc]
        for before, after in ((1, 2), (2, 3), (3, 1)):
            lab.client(before).leave("blue", "db", "moving")
            lab.client(after).join("blue", "db", "moving")
            for number in lab.hosts:
                lab.wait_until(lambda number=number: self.reaches(lab, number, db), MOVE)  # type: ignore[misc]
            for number in set(lab.hosts) - {after}:
                assert peer_entries(lab, number, db) == ({f"10.200.0.{after}"}, {db["mac"]})
            assert peer_entries(lab, after, db)[0] == set()

    @staticmethod
    def reaches(lab: RunningLab, number: int, endpoint: dict[str, Any]) -> bool:
        """Whether the container of a host reaches the endpoint by its name, at both addresses that it always had."""
        inside = ("sandnet", "sandbox", "exec", lab.containers[number], "--")
        for family, address in (("-4", endpoint["address"]), ("-6", endpoint["address_ipv6"])):
            done = lab.run(number, *inside, "ping", family, "-c1", "-W1", "-n", endpoint["name"])
            if done.returncode or address.partition("/")[0] not in done.stdout:
                return False
        return True


class TestAdditionalAddresses:
    def test_every_host_reaches_them_where_the_container_is(self, lab: RunningLab) -> None:
        more = ["10.77.0.50", "10.77.0.51", "fd00:77::50"]
        lab.client(1).network("blue", "overlay", subnet="10.77.0.0/24", ipv6=True, subnet_ipv6="fd00:77::/64")
        lab.client(1).endpoint("blue", "db", additional_addresses=more)
        lab.wait_until(lambda: all("blue" in names(lab, number) for number in lab.hosts), BUSY)
        lab.containers = {number: lab.start_sleeper(number, "blue", f"web{number}") for number in lab.hosts}

        def pings(number: int) -> bool:
            inside = ("sandnet", "sandbox", "exec", lab.containers[number], "--", "ping", "-c1", "-W1", "-n")
            return all(lab.run(number, *inside, address).returncode == 0 for address in more)

        def joined(number: int) -> bool:  # a host that has not read of the leave on another one refuses
            try:
                lab.client(number).join("blue", "db", "moving")
            except RefusedError:
                return False
            return True

        for place in (1, 2):
            lab.wait_until(lambda place=place: joined(place), BUSY)  # type: ignore[misc]
            for number in lab.hosts:
                lab.wait_until(lambda number=number: pings(number), BUSY)  # type: ignore[misc]
            for number in set(lab.hosts) - {place}:
                found = json.loads(lab.sh(number, "ip", "-j", "neigh", "show", "nud", "permanent"))
                assert set(more) <= {each["dst"] for each in found}
            lab.client(place).leave("blue", "db", "moving")
        for number in lab.hosts:
            with pytest.raises(RefusedError, match="address_taken"):
                lab.client(number).endpoint("blue", "other", address=more[1])
        lab.client(3).delete("/networks/blue/endpoints/db")
        lab.wait_until(lambda: all(each["name"] != "db" for each in lab.client(1).get("/services")), BUSY)
        lab.client(1).endpoint("blue", "other", additional_addresses=more)


class TestChanges:
    """A network that is changed on one host has containers on two."""

    @pytest.fixture
    def used(self, lab: RunningLab) -> RunningLab:
        lab.client(1).network("blue", "overlay", subnet="10.60.0.0/24")
        lab.wait_until(lambda: all("blue" in names(lab, number) for number in lab.hosts), BUSY)
        lab.containers = {number: lab.start_sleeper(number, "blue", f"web{number}") for number in (1, 2)}
        lab.wait_until(lambda: lab.resolved(1, lab.containers[1], "web2"), BUSY)
        return lab

    @pytest.mark.parametrize("changing", [1, 3])
    def test_mtu_reaches_links_in_use_on_all_hosts(self, used: RunningLab, changing: int) -> None:
        """Containers on other hosts kept the former one until the comparison of each minute."""
        used.client(changing).patch("/networks/blue", options={"mtu": 1300})
        for number in (1, 2):
            used.wait_until(lambda number=number: self.mtus(used, number) == {1300}, BUSY)  # type: ignore[misc]
        inside = ("sandnet", "sandbox", "exec", used.containers[1], "--")
        used.wait_until(
            lambda: used.run(1, *inside, "ping", "-c1", "-W1", "-M", "do", "-s", "1272", "web2").returncode == 0,
            BUSY,
        )
        assert used.run(1, *inside, "ping", "-c1", "-W1", "-M", "do", "-s", "1273", "web2").returncode != 0
        for number in used.hosts:
            assert used.client(number).reported("blue")["options"]["mtu"] == 1300
            used.wait_until(lambda number=number: "nothing differs" in used.sandnet(number, "doctor"), BUSY)  # type: ignore[misc]

    @staticmethod
    def mtus(lab: RunningLab, number: int) -> set[int]:
        """The MTUs of the links of overlay networks on a host, and of its container's."""
        links = json.loads(lab.sh(number, "ip", "-j", "link", "show"))
        bridge = next(each["master"] for each in links if each["ifname"].startswith("snvx"))
        own = {each["mtu"] for each in links if bridge in (each["ifname"], each.get("master"))}
        inside = lab.sandnet(number, "sandbox", "exec", lab.containers[number], "--", "cat", "/sys/class/net/eth0/mtu")
        return own | {int(inside)}

    def test_rates_reach_containers_on_all_hosts(self, used: RunningLab) -> None:
        used.client(3).patch("/networks/blue", options={"egress_rate": 8_000_000, "ingress_rate": 16_000_000})
        for number in (1, 2):
            used.wait_until(lambda number=number: self.rates(used, number) == {8_000_000, 16_000_000}, BUSY)  # type: ignore[misc]
        used.client(1).patch("/networks/blue", options={"egress_rate": 0, "ingress_rate": 0})
        for number in (1, 2):
            used.wait_until(lambda number=number: self.rates(used, number) == set(), BUSY)  # type: ignore[misc]
            used.wait_until(lambda number=number: "nothing differs" in used.sandnet(number, "doctor"), BUSY)  # type: ignore[misc]

    @staticmethod
    def rates(lab: RunningLab, number: int) -> set[int]:
        """The limits in the kernel of a host, in bits per second."""
        found = json.loads(lab.sh(number, "tc", "-j", "qdisc", "show"))
        return {each["options"]["rate"] * 8 for each in found if each["kind"] == "tbf"}


class TestPublishedPort:
    def test_each_host_with_a_backend_publishes_the_port(self, lab: RunningLab) -> None:
        lab.sandnet(1, "network", "create", "-d", "overlay", "blue")
        lab.sandnet(1, "service", "publish", "-p", "8080:80", "web.blue")
        lab.wait_until(lambda: "web" in lab.sandnet(2, "service", "ls"), BUSY)
        for number in (1, 2):
            program = (sys.executable, "-c", SERVER, f"{ANSWER}{number}")
            lab.sandnet(number, "run", "-d", "--service", "web.blue", "--", *program)
        expected = [f"{ANSWER}1", f"{ANSWER}2"]
        lab.wait_until(lambda: [answer(lab, number) for number in (1, 2)] == expected, BUSY)
        assert answer(lab, 3) == ""
        assert "8080" in lab.sandnet(2, "service", "info", "web.blue")
        lab.sh(2, "pkill", "-f", ANSWER)
        lab.wait_until(lambda: answer(lab, 2) == "", BUSY)
        lab.wait_until(lambda: answer(lab, 1) == f"{ANSWER}1", BUSY)


def answer(lab: RunningLab, number: int) -> str:
    """What a client on host 3 gets at the published port of a host."""
    words = f"exec cat </dev/tcp/{lab.host(number).address}/8080"
    return lab.run(3, "timeout", "3", "bash", "-c", words).stdout
