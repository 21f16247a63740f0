"""What must be true of things that many clients make and unmake at once.

No one knows in which order concurrent requests took effect. What is known is when each was sent and when it was
answered, and that bounds where a thing can have been: a request that succeeded took effect at some moment in
between, one that was never answered did so or did not. From that alone every answer can be judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

DONE = 200


@dataclass(eq=False)
class Operation:
    """One request, from the moment it was sent."""

    client: int
    method: str
    path: str
    body: dict[str, object] | None = None
    makes: str = ""
    """The thing that is there if it succeeds: ``n1``, ``n1/p2`` or ``n1/p2/k3``."""
    unmakes: str = ""
    """The thing that is gone if it succeeds."""
    wants: str = ""
    """The thing that it only changes."""
    began: float = 0.0
    ended: float = inf
    """When it was answered or, without an answer, when it was over at the latest."""
    status: int = 0
    """0: no answer."""
    code: str = ""
    message: str = ""

    @property
    def is_done(self) -> bool:
        return self.status == DONE

    @property
    def may_be_done(self) -> bool:
        return self.status in (0, DONE)

    def __str__(self) -> str:
        answer = f"{self.status} {self.code} {self.message}" if self.status else "no answer"
        return (
            f"{self.began:9.3f} {self.ended:9.3f} client {self.client:2} {self.method} {self.path} "
            f"{self.body or ''} -> {answer}"
        )


@dataclass
class History:
    """All requests since a moment at which everything was known."""

    there: set[str] = field(default_factory=set)
    """What was there at that moment."""
    operations: list[Operation] = field(default_factory=list)
    _makes: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _unmakes: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))

    def add(self, operation: Operation) -> None:
        """One more, when it is sent."""
        self.operations.append(operation)
        self._makes[operation.makes].append(operation)
        self._unmakes[operation.unmakes].append(operation)

    def things(self) -> set[str]:
        """Everything that was there or was meant to be."""
        return {thing for thing in {*self.there, *self._makes, *self._unmakes} if thing}

    def below(self, thing: str) -> Iterator[str]:
        """Endpoints of a network, or attachments of an endpoint."""
        depth = thing.count("/") + 1
        return (each for each in self.things() if each.startswith(f"{thing}/") and each.count("/") == depth)

    def surely_there(self, thing: str, begin: float, end: float, besides: Operation | None = None) -> bool:
        """Whether it was there all the time from ``begin`` to ``end``, whatever the order of events."""
        made = [(op.began, op.ended) for op in self._makes[thing] if op.is_done and op.ended <= begin]
        made += [(-inf, -inf)] if thing in self.there else []
        gone = [op for op in self._unmakes[thing] if op.may_be_done and op is not besides]
        return any(all(op.ended < since or op.began > end for op in gone) for since, _ in made)

    def surely_gone(self, thing: str, begin: float, end: float, besides: Operation | None = None) -> bool:
        """Whether it was away all that time. A creation that is refused in the end may be seen until it is."""
        gone = [op.began for op in self._unmakes[thing] if op.is_done and op.ended <= begin]

        def is_over(made: float) -> bool:
            return any(since >= made for since in gone)

        trials = [op for op in self._makes[thing] if op.began <= end and op is not besides]
        if any(not op.may_be_done and op.ended >= begin for op in trials):
            return False
        return all(is_over(op.ended) for op in trials if op.may_be_done) and (thing not in self.there or bool(gone))

    def miscounted(self, thing: str, there: bool) -> bool:
        """Whether more of it was made than unmade, or the other way round, than can lead to what is there."""
        balance = (thing in self.there) + sum(op.is_done for op in self._makes[thing])
        balance -= sum(op.is_done for op in self._unmakes[thing])
        unsure_made = sum(op.status == 0 for op in self._makes[thing])
        unsure_gone = sum(op.status == 0 for op in self._unmakes[thing])
        return not there - unsure_made <= balance <= there + unsure_gone

    def contradictions(self, now: float, found: set[str]) -> Iterator[str]:
        """Where what is there now, when nothing is under way, cannot be."""
        for thing in self.things() | found:
            if thing in found and self.surely_gone(thing, now, now):
                yield f"{thing} is there, and must not be"
            elif thing not in found and self.surely_there(thing, now, now):
                yield f"{thing} is not there, and must be"
            elif self.miscounted(thing, thing in found):
                yield f"{thing}: the successes do not add up to it being {'there' if thing in found else 'away'}"

    def of(self, things: Iterable[str]) -> list[Operation]:
        """What was done to these."""
        wanted = set(things)
        return [op for op in self.operations if wanted & {op.makes, op.unmakes, op.wants}]
