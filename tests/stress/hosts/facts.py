"""What the answers of several hosts promise, and whether it is so once all hosts have come to rest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.lab_truth import Truth


@dataclass
class Fact:
    """A creation or a join that was acknowledged."""

    kind: str
    """``network``, ``endpoint`` or ``container``."""
    key: str
    """Id of a network or an endpoint; of a container its own id."""
    parent: str = ""
    """The network of an endpoint; the endpoint of a container."""
    host: int = 0
    """The host whose lease, and whose power, it needs; 0: it needs none."""
    boot: int = 0
    """The boot of that host at which it was requested."""
    address: str = ""
    alone: bool = False
    """Of a container: whether it is the only one of its endpoint."""
    is_doubtful: bool = False
    """Whether a removal was requested, which may have been applied."""


class UntrueError(AssertionError):
    """Something that an answer promised is not so."""


class Facts:
    """What all clients together have been promised; several threads use it."""

    def __init__(self, hosts: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._facts: dict[str, Fact] = {}
        self._doubted: set[str] = set()
        """What someone asked to remove, perhaps before its creation was answered."""
        self._removed: set[str] = set()
        """What was acknowledged to be removed: no id ever comes back."""
        self.boots = dict.fromkeys(hosts, 0)
        self._leases: Mapping[int, int] = {}
        """The numbers of the hosts' leases when they had come to rest before: the same number means that the lease has
        lasted all the time."""

    def add(self, fact: Fact) -> None:
        """Take note of an acknowledged creation.

        Raises:
            UntrueError: its address is another's.
        """
        with self._lock:
            fact.is_doubtful = fact.key in self._doubted
            kept = fact.parent not in self._doubted  # the deletion of a network deletes its endpoints one by one
            if fact.kind == "endpoint" and fact.address and kept and not fact.is_doubtful:
                for other in self._facts.values():
                    same = (other.kind, other.parent, other.address) == (fact.kind, fact.parent, fact.address)
                    if same and not other.is_doubtful and not other.host:
                        raise UntrueError(f"{fact.address} is given out twice: to {fact.key} and {other.key}")
            self._facts.setdefault(fact.key, fact)

    @contextmanager
    def removal(self, key: str) -> Iterator[None]:
        """The request to remove something; if the block ends without an error, it is removed."""
        with self._lock:
            self._doubted.add(key)
            if key in self._facts:
                self._facts[key].is_doubtful = True
        yield
        with self._lock:
            self._removed.add(key)

    def lose_power(self, number: int) -> None:
        """Expect nothing more of what a host's processes have."""
        with self._lock:
            self.boots[number] += 1

    def faults(self, truth: Truth) -> list[str]:
        """What is not as it was promised, as texts."""
        with self._lock:
            missing = [fact for key, fact in self._facts.items() if self._is_due(fact, truth) and key not in truth.keys]
            found = [f"{fact.kind} {fact.key} was acknowledged, and is gone ({fact})" for fact in missing]
            found += [f"{key} was removed, and is there" for key in self._removed & truth.keys]
            alone = Counter(
                fact.parent
                for fact in self._facts.values()
                if fact.kind == "container" and fact.alone and fact.key in truth.keys
            )
            return [*found, *(f"endpoint {key} has {n} containers" for key, n in alone.items() if n > 1)]

    def _is_due(self, fact: Fact, truth: Truth) -> bool:
        """Whether what was promised must be there."""
        if fact.is_doubtful:
            return False
        if fact.host and (fact.boot != self.boots[fact.host] or self._lease_ended(fact.host, truth)):
            return False
        parent = self._facts.get(fact.parent)
        if parent:
            return self._is_due(parent, truth)
        # An endpoint whose creation was not acknowledged may have ended with its network, or with the process that
        # owned it: nobody knows which.
        return not fact.parent or (fact.parent in truth.keys and fact.parent not in self._doubted)

    def _lease_ended(self, number: int, truth: Truth) -> bool:
        return self._leases.get(number, truth.leases.get(number)) != truth.leases.get(number)

    def settle(self, truth: Truth) -> None:
        """Take what there is as promised from now on, and nothing else."""
        with self._lock:
            self._facts = {key: fact for key, fact in self._facts.items() if key in truth.keys}
            for fact in self._facts.values():
                fact.is_doubtful = False
            self._removed.clear()
            self._doubted.clear()
            self._leases = dict(truth.leases)

    def keys(self, kind: str) -> list[Fact]:
        """What has been promised of a kind."""
        with self._lock:
            return [fact for fact in self._facts.values() if fact.kind == kind]
