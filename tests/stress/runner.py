"""Clients that make and unmake things at once, while they and the daemon are killed, and what must be true then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.stress.clients import Answer, AwayError, Cut, ask
from tests.stress.history import History, Operation
from tests.stress.host_state import disagreements, unfinished
from tests.stress.oracle import Judge
from tests.stress.workload import FOUND, Workload, every_double
from tests.support.daemon import PREDEFINED, RunningDaemon

CLIENTS = 32
CUT = 0.06
"""How many of the clients are killed during a request."""
TWICE = 0.06
"""How many requests are sent twice at the same time."""
QUIET = 20.0
"""Seconds after the last request in which the kernel must be what the records say."""


class UntrueError(AssertionError):
    """Something that must be true is not."""


@dataclass
class Tally:
    """What a campaign has done so far."""

    operations: int = 0
    done: int = 0
    unanswered: int = 0
    kills: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def count(self, operation: Operation) -> None:
        self.operations += 1
        self.done += operation.is_done
        self.unanswered += operation.status == 0
        if operation.status:
            self.slowest = max(self.slowest, operation.ended - operation.began)
            if not operation.is_done:
                self.refusals[operation.code] += 1

    def __str__(self) -> str:
        refused = ", ".join(f"{code} {count}" for code, count in self.refusals.most_common())
        return (
            f"{self.operations} operations: {self.done} done, {self.unanswered} unanswered, {self.kills} kills of the "
            f"daemon, slowest answer {self.slowest:.2f} s; refused: {refused}"
        )


class Campaign:
    """Rounds of random operations on one host, each followed by a settlement.

    Args:
        daemon: a host with a running daemon on which nothing else is done.
        seed: decides what each client asks for. The order in which requests take effect is the machine's.
    """

    def __init__(self, daemon: RunningDaemon, seed: int) -> None:
        self._daemon, self.seed = daemon, seed
        self._universe = Workload({name: daemon.host.container().path for name in FOUND})
        self._random = Random(seed)
        self._history = History()
        self._there: set[str] = set()
        """What is there by all appearances."""
        self._born = time.monotonic()
        self._up = asyncio.Event()
        self._up.set()
        self._left = 0
        self._fatal: set[int] = set()
        """With how many operations left the daemon is killed."""
        self._doubles: list[str] = []
        self.tally = Tally()

    @property
    def _socket(self) -> Path:
        return self._daemon.run / "sandnet.sock"

    def _now(self) -> float:
        return time.monotonic() - self._born

    # A round.

    async def round(self, operations: int, kills: int = 0) -> None:
        """Random operations by all clients, then a settlement.

        Raises:
            UntrueError: something was or is not true; the message has the seed and reports of what happened.
        """
        self._left = operations
        self._fatal = {self._random.randrange(operations) for _ in range(kills)}
        seeds = [self._random.getrandbits(64) for _ in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for client, seed in enumerate(seeds):
                group.create_task(self._client(client, Random(seed)))
        await self.settle()

    async def _client(self, client: int, random: Random) -> None:
        while self._left > 0:
            self._left -= 1
            if self._left in self._fatal:
                await self.kill()
            operation = self._universe.choose(client, random, self._there)
            cut = Cut.at_random(random) if random.random() < CUT else None
            if random.random() < TWICE:
                again = Operation(**{**vars(operation), "client": client})
                await asyncio.gather(self._perform(operation, cut), self._perform(again, None))
            else:
                await self._perform(operation, cut)

    async def _perform(self, operation: Operation, cut: Cut | None) -> None:
        await self._up.wait()
        operation.began = self._now()
        self._history.add(operation)
        self._there |= {operation.makes} - {""}
        self._there -= {operation.unmakes}
        try:
            answer = await ask(self._socket, operation.method, operation.path, operation.body, cut)
        except AwayError:  # not sent: as if it had been refused
            operation.ended, operation.status, operation.code = self._now(), 503, "stopping"
            return
        except TimeoutError:
            raise UntrueError(self._report(["no answer at all"], [operation])) from None
        if answer:
            self._note(operation, answer)
        self.tally.count(operation)

    def _note(self, operation: Operation, answer: Answer) -> None:
        operation.ended, operation.status = self._now(), answer.status
        operation.code, operation.message = answer.reported("code"), answer.reported("message")
        if not operation.is_done and operation.code not in ("name_taken", "already_joined"):
            self._there -= {operation.makes}
        if operation.code.endswith("in_use"):
            self._there |= {operation.unmakes}
        if operation.is_done and operation.method == "GET":
            self._doubles += [f"{double} twice in {operation.path}" for double in every_double(answer.body)]

    async def kill(self) -> None:
        """SIGKILL and a new start. What was under way then is over when the new daemon serves."""
        self._up.clear()
        self._daemon.kill()
        self.tally.kills += 1
        await asyncio.to_thread(self._daemon.start)
        self._end_all()
        self._up.set()

    def _end_all(self) -> None:
        for operation in self._history.operations:
            operation.ended = min(operation.ended, self._now())

    # What must be true.

    async def settle(self) -> None:
        """Wait until nothing is under way, and judge all that happened since the last time.

        Raises:
            UntrueError: something was or is not true.
        """
        found = await self._quiescence()
        self._end_all()
        wrong = [*Judge(self._history).falsehoods(), *self._history.contradictions(self._now(), found), *self._doubles]
        if wrong:
            raise UntrueError(self._report(wrong, self._history.of(self._history.things())))
        self._history = History(there=found)
        self._there = set(found)

    async def _quiescence(self) -> set[str]:
        """What there is once records, kernel and lists agree. Requests whose clients are gone end in the meantime."""
        deadline = time.monotonic() + QUIET
        before = None
        while True:
            found, wrong = await self._look()
            if not wrong and found == before:
                return found
            before = None if wrong else found
            if time.monotonic() > deadline:
                raise UntrueError(self._report(wrong, self._history.operations))
            await asyncio.sleep(0.05)

    async def _look(self) -> tuple[set[str], Sequence[str]]:
        networks = await self._list("/networks?verbose=true")
        sandboxes = await self._list("/sandboxes?verbose=true")
        wrong = [f"{double} twice" for double in [*every_double(networks), *every_double(sandboxes)]]
        under_way = await self._under_way()
        left = [*unfinished(self._daemon), *([f"{under_way} changes are under way"] if under_way else [])]
        facts = [] if left else await asyncio.to_thread(disagreements, self._daemon, networks, sandboxes)
        return things_in(networks), [*wrong, *left, *facts]

    async def _under_way(self) -> object:
        answer = await ask(self._socket, "GET", "/healthz?verbose=true")
        return answer.body["operations"] if answer and isinstance(answer.body, dict) else "all"

    async def _list(self, path: str) -> list[dict[str, object]]:
        answer = await ask(self._socket, "GET", path)
        if answer is None or answer.status != 200 or not isinstance(answer.body, list):
            raise UntrueError(self._report([f"{path} cannot be listed: {answer}"], []))
        return answer.body

    def _report(self, wrong: Sequence[str], operations: Sequence[Operation]) -> str:
        journal = self._daemon.folder / "journal"
        journal.write_text("".join(f"{op}\n" for op in self._history.operations))
        shown = [str(op) for op in operations if any(name and name in line for line in wrong for name in _names(op))]
        parts = [f"seed {self.seed}, {self.tally}", *wrong[:20], f"journal, all of it in {journal}:", *shown[:150]]
        with suppress(OSError):
            parts += ["log:", *self._daemon.log.splitlines()[-30:]]
        return "\n".join(parts)

    # The end.

    async def clear(self) -> None:
        """Remove everything; it must go at once."""
        for depth in (2, 1, 0):
            await asyncio.gather(*(self._remove(each) for each in self._there if each.count("/") == depth))
        await self.settle()
        if self._there:
            raise UntrueError(self._report([f"still there: {self._there}"], []))

    async def _remove(self, thing: str) -> None:
        operation = self._universe.unmake(0, thing)
        operation.began = self._now()
        self._history.add(operation)
        answer = await ask(self._socket, operation.method, operation.path)
        if answer is None or answer.status != 200:
            raise UntrueError(self._report([f"{thing} cannot be removed: {answer}"], []))
        operation.ended, operation.status = self._now(), answer.status


def things_in(networks: Sequence[dict[str, object]]) -> set[str]:
    """Networks, endpoints and attachments by path."""
    found = set()
    for network in networks:
        if network["name"] in PREDEFINED:
            continue
        found.add(str(network["name"]))
        endpoints = network["endpoints"]
        for endpoint in endpoints if isinstance(endpoints, list) else []:
            path = f"{network['name']}/{endpoint['name']}"
            found |= {path, *(f"{path}/{backend['id']}" for backend in endpoint["backends"])}
    return found


def _names(operation: Operation) -> set[str]:
    return {operation.makes, operation.unmakes, operation.wants}
