"""Random operations on the hosts of a lab beside bad luck, in rounds; after each one the promises are looked at."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx

from sandnet.errors import Error
from tests.stress.hosts.bad_luck import BadLuck, dwell
from tests.stress.hosts.facts import Fact, Facts, UntrueError
from tests.support.daemon import PREDEFINED, RefusedError
from tests.support.lab import LEASE, RunningLab
from tests.support.lab_truth import HEALED, Truth

CLIENTS = 5
NETWORKS = [f"net{number}" for number in range(4)]
NAMES = [f"e{number}" for number in range(6)]
AT_ONCE = 2
"""Kinds of bad luck at a time."""
QUIET = 60.0
"""Seconds after the last request and the end of bad luck in which all hosts must be what the store says."""
LATE = 15.0
"""Seconds after which a refusal counts as none at all, on a busy machine; two are promised."""
SHOWN = 60
"""Lines of the journal in a message."""


class Campaign:
    """A campaign.

    Args:
        lab: hosts on which nothing else is done.
        seed: decides what each client asks for, and what bad luck there is. The order is the machine's.
        journal: the file that gets a line for each request.
    """

    def __init__(self, lab: RunningLab, seed: int, journal: Path) -> None:
        self.seed, self._lab, self._journal = seed, lab, journal
        self._random = Random(seed)
        self._facts = Facts(lab.hosts)
        self._apis = {number: lab.client(number, patient=False) for number in lab.hosts}
        self._luck = [BadLuck(lab, self._facts, self._renew, Random(self._random.random())) for _ in range(AT_ONCE)]
        self._born = time.monotonic()
        self._until = 0.0
        self._containers = 0
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self.tally: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        """The slowest answer by kind: ``done``, or the code of a refusal."""

    def _renew(self, number: int) -> None:
        self._apis[number] = self._lab.client(number, patient=False)

    def _note(self, line: str) -> None:
        with self._lock:
            self._lines.append(f"{time.monotonic() - self._born:8.2f} {line}")

    # A round.

    def round(self, seconds: float) -> None:
        """Do things, and let things happen, for a while; then see whether all is as it was promised.

        Raises:
            UntrueError: it is not; the message has the seed and what has happened.
        """
        self._until = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS + AT_ONCE) as pool:
            jobs = [pool.submit(self._client, Random(self._random.random())) for _ in range(CLIENTS)]
            jobs += [pool.submit(self._suffer, luck, Random(self._random.random())) for luck in self._luck]
        failures: list[BaseException] = [failure for job in jobs if (failure := job.exception())]
        self._write_journal()
        if failures:
            raise UntrueError(self._report([repr(failure) for failure in failures])) from failures[0]
        self.settle()

    def _suffer(self, luck: BadLuck, random: Random) -> None:
        times = dwell(random, LEASE)
        while (left := self._until - time.monotonic()) > 0:
            with suppress(Error):  # the other bad luck has killed or started the same just then
                name, undo = luck.begin()
                with self._lock:
                    self.tally[name.partition(" (")[0]] += 1
                self._note(f"!! {name}")
                time.sleep(max(0.0, min(left, next(times))))
                undo()
                self._note(f"!! end of: {name}")
            time.sleep(random.uniform(0, 2))

    def _client(self, random: Random) -> None:
        actions: list[tuple[Callable[[Random, int], None], int]] = [
            (self._create_network, 2),
            (self._delete_network, 1),
            (self._create_endpoint, 6),
            (self._delete_endpoint, 3),
            (self._join, 10),
            (self._leave, 6),
            (self._change, 2),
        ]
        try:
            while time.monotonic() < self._until:
                action = random.choices([each for each, _ in actions], [weight for _, weight in actions])[0]
                number = random.choice(self._lab.hosts)
                self._perform(action, random, number)
        finally:  # the others stop, too, when this one fails
            self._until = 0.0

    def _perform(self, action: Callable[[Random, int], None], random: Random, number: int) -> None:
        began, name = time.monotonic(), action.__name__[1:]
        try:
            action(random, number)
            result = "done"
        except RefusedError as refused:
            result = str(refused.body.get("code", refused.status) if isinstance(refused.body, dict) else refused.status)
            if refused.status == 500:
                raise
        except httpx.TransportError as failure:
            result = type(failure).__name__
            if isinstance(failure, httpx.ReadTimeout) and not self._is_excused(number):
                raise
            time.sleep(0.05)  # its daemon is away
        seconds = time.monotonic() - began
        with self._lock:
            self.tally["operations"] += 1
            self.tally[result] += 1
            self.slowest[result] = max(self.slowest.get(result, 0.0), seconds)
        self._note(f"h{number} {name}: {result} ({seconds:.2f} s)")

    def _is_excused(self, number: int) -> bool:
        """Whether the daemon of a host has been stopped or killed of late, so that it could not answer."""
        return self._lab.host(number).daemon != "ready"

    # Operations.

    def _any_network(self, random: Random, number: int) -> dict[str, Any] | None:
        found = [each for each in self._apis[number].get("/networks") if each["name"] not in PREDEFINED]
        return random.choice(found) if found else None

    def _any_endpoint(self, random: Random, number: int) -> tuple[str, str] | None:
        network = self._any_network(random, number)
        found = self._apis[number].get(f"/networks/{network['id']}/endpoints") if network else []
        return (network["id"], random.choice(found)["id"]) if network and found else None

    def _create_network(self, random: Random, number: int) -> None:
        options: dict[str, Any] = {"ipv6": True} if random.random() < 0.3 else {}
        if random.random() < 0.4:
            options["subnet"] = f"10.70.{random.randrange(3)}.0/24"
        key = self._apis[number].network(random.choice(NETWORKS), "overlay", **options)
        self._note(f"h{number} made network {key[:12]}")
        self._facts.add(Fact("network", key))

    def _delete_network(self, random: Random, number: int) -> None:
        if network := self._any_network(random, number):
            with self._facts.removal(network["id"]):
                query = _forced(random)
                self._note(f"h{number} deletes network {network['id'][:12]}{query}")
                self._apis[number].delete(f"/networks/{network['id']}{query}")

    def _create_endpoint(self, random: Random, number: int) -> None:
        network, more, boot = self._any_network(random, number), {}, self._facts.boots[number]
        if network is None:
            return
        ports = [{"proto": 6, "port": 80, "host_port": random.randint(8000, 8004)}] if random.random() < 0.2 else []
        owned = random.random() < 0.2
        if owned:
            more["watch_pid"] = 1  # of the host: it ends with its power
        api = self._apis[number]
        key = api.endpoint(network["id"], random.choice(NAMES), *ports, **more)
        address = api.get(f"/networks/{network['id']}/endpoints/{key}", verbose="true")["address"]
        self._note(f"h{number} made endpoint {key[:12]} with {address} on {network['id'][:12]}")
        host = number if owned else 0
        self._facts.add(Fact("endpoint", key, network["id"], host, boot, address))

    def _delete_endpoint(self, random: Random, number: int) -> None:
        if found := self._any_endpoint(random, number):
            network, key = found
            with self._facts.removal(key):
                query = _forced(random)
                self._note(f"h{number} deletes endpoint {key[:12]}{query}")
                self._apis[number].delete(f"/networks/{network}/endpoints/{key}{query}")

    def _join(self, random: Random, number: int) -> None:
        found, boot = self._any_endpoint(random, number), self._facts.boots[number]
        if found is None:
            return
        network, key = found
        with self._lock:
            self._containers += 1
            container = f"c{self._containers}"
        alone = random.random() < 0.6
        self._note(f"h{number} joins {container} to {key[:12]} on {network[:12]}, alone: {alone}")
        if alone:
            self._apis[number].join(network, key, container)
        else:
            self._apis[number].post(f"/services/{key}/backend", container_id=container)
        self._note(f"h{number} joined {container}")
        self._facts.add(Fact("container", container, key, number, boot, alone=alone))

    def _leave(self, random: Random, number: int) -> None:
        api = self._apis[number]
        if not (sandboxes := api.get("/sandboxes", verbose="true")):
            return
        sandbox = random.choice(sandboxes)
        for interface in sandbox["interfaces"]:
            with self._facts.removal(sandbox["id"]):
                self._note(f"h{number} leaves {sandbox['id']}")
                api.leave(interface["network"], interface["endpoint"], sandbox["id"])

    def _change(self, random: Random, number: int) -> None:
        if found := self._any_endpoint(random, number):
            rate = random.choice([0, 1_000_000, 50_000_000])
            self._apis[number].patch(f"/networks/{found[0]}/endpoints/{found[1]}", bandwidth={"egress_rate": rate})

    # Afterwards.

    def settle(self) -> None:
        """Let all hosts come to rest, and look at them.

        Raises:
            UntrueError: something is not as it should be.
        """
        self._note("!! end of all bad luck")
        self._luck[0].end()
        truth, found = self._at_rest()
        found += [*(self._facts.faults(truth) if truth else ()), *self._healed()]
        if not found:
            found = [f"host {n}: {text}" for n in self._lab.hosts if (text := self._drift(n))]
        self._write_journal()
        if found or truth is None:
            raise UntrueError(self._report([*found, *self._health()]))
        self._facts.settle(truth)

    def _at_rest(self) -> tuple[Truth | None, list[str]]:
        """Wait until hosts and store agree; what differs still, at the end of the time."""
        deadline = time.monotonic() + LEASE + QUIET
        truth, found = None, ["the store does not answer"]
        while time.monotonic() < deadline:
            try:
                truth = Truth(self._lab)
                found = truth.faults()
            except (AssertionError, ValueError, Error, httpx.TransportError, StopIteration) as failure:
                found = [f"cannot look: {failure!r}"]
            if not found:
                break
            time.sleep(1)
        return truth, found

    def _drift(self, number: int) -> str:
        """What ``sandnet doctor`` reports on a host; empty: nothing."""
        for _ in range(5):  # what is repaired by itself may take a moment
            done = self._lab.run(number, "sandnet", "doctor")
            if done.returncode == 0:
                return ""
            time.sleep(1)
        return done.stdout + done.stderr

    def _healed(self) -> list[str]:
        """What hosts should not have had to heal: a fault of their own."""
        lines = [(number, line) for number in self._lab.hosts for line in self._lab.log(number).splitlines()]
        return [f"host {number}: {line}" for number, line in lines if HEALED in line]

    def _health(self) -> list[str]:
        """What the hosts themselves find wrong."""
        problems = {number: self._apis[number].get("/healthz")["problems"] for number in self._lab.hosts}
        return [f"host {number} reports: {each}" for number, found in problems.items() for each in found]

    def clear(self) -> None:
        """Remove everything, and see that neither store nor kernels keep anything.

        Raises:
            UntrueError: they do.
        """
        apis = {number: self._lab.client(number) for number in self._lab.hosts}
        for api in apis.values():
            for sandbox in api.get("/sandboxes", verbose="true"):
                for interface in sandbox["interfaces"]:
                    api.leave(interface["network"], interface["endpoint"], sandbox["id"])
        truth, api = Truth(self._lab), apis[1]
        for key, shared in truth.endpoints.items():
            with suppress(RefusedError):  # the host that owned it has just deleted it
                api.delete(f"/networks/{shared.endpoint.network_id}/endpoints/{key}")
        for key in truth.networks:
            api.delete(f"/networks/{key}")
        self._facts.settle(Truth(self._lab))
        self.settle()
        left = [
            e.key
            for e in Truth(self._lab).entries
            if not e.key.startswith(("host/", "alive/", "fence/", "generation", "format"))
        ]
        if left:
            raise UntrueError(self._report([f"the store keeps {left}"]))

    def _write_journal(self) -> None:
        with self._lock, self._journal.open("w") as file:
            file.writelines(f"{line}\n" for line in self._lines)

    def _report(self, found: list[str]) -> str:
        with self._lock:
            tail = self._lines[-SHOWN:]
        return "\n".join([f"seed {self.seed}; all requests are in {self._journal}", *found, "", *tail])


def _forced(random: Random) -> str:
    """The query of a deletion: now and then it is forced."""
    return "?force=true" if random.random() < 0.2 else ""
