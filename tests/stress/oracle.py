"""Whether an answer was true: a success of what could succeed, a refusal for a reason that held at some moment."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from tests.stress.history import History, Operation
from tests.stress.workload import PORTS, ROOM, TWINS, network_of, parent

BUSY = {"busy", "overloaded", "deadline", "stopping"}
"""Refusals that a daemon under pressure may give at any time."""


class Judge:
    """Judges the operations of one history, when all have an end."""

    def __init__(self, history: History) -> None:
        self._history = history

    def falsehoods(self) -> Iterator[str]:
        """What cannot be, each in words."""
        for op in self._history.operations:
            if op.status == 0 or op.code in BUSY:
                continue
            wrong = self._success(op) if op.is_done else self._refusal(op)
            if wrong:
                yield f"{wrong}:\n  {op}"

    def _success(self, op: Operation) -> str:
        history = self._history
        if op.makes and history.surely_there(op.makes, op.began, op.ended):
            return f"{op.makes} was made, and was there already"
        if op.makes and parent(op.makes) and self._surely_gone(parent(op.makes), op):
            return f"{op.makes} was made in {parent(op.makes)}, which was not there"
        thing = op.unmakes or op.wants
        if thing and self._surely_gone(thing, op):
            return f"{thing} was not there"
        for below in history.below(op.unmakes) if op.unmakes else ():
            if history.surely_there(below, op.began, op.ended):
                return f"{op.unmakes} was removed with {below} in it"
        return ""

    def _refusal(self, op: Operation) -> str:
        thing = op.makes or op.unmakes or op.wants
        match op.status, op.code:
            case 404, "network_not_found" | "endpoint_not_found" | "service_not_found" | "not_attached":
                return self._missing(op, thing)
            case 403, "name_taken":
                return "nothing has the name" if self._surely_gone(thing, op) else ""
            case 403, "network_in_use" | "endpoint_in_use":
                return self._none("in use by nothing", self._history.below(thing), op)
            case 400, "already_joined":
                others = [thing] if "/backend" in op.path else self._history.below(parent(thing))
                return self._none("joined by nobody", others, op)
            case 409, "subnet_taken":
                return self._none("nobody has the subnet", TWINS.get(thing, ()), op)
            case 409, "port_taken":
                return self._none("nobody has the port", PORTS.rivals(thing), op)
            case 409, "pool_exhausted":
                return self._roomy(op, network_of(thing))
        return "an answer that nobody should get"

    def _missing(self, op: Operation, thing: str) -> str:
        """One of it and those it is in must have been away for a moment."""
        level = {"network_not_found": 1, "not_attached": 3}.get(op.code, 2)
        wanted = "/".join(thing.split("/")[:level])
        there = self._history.surely_there(wanted, op.began, op.ended)
        return f"{wanted} was there" if there else ""

    def _none(self, wrong: str, things: Iterator[str] | list[str] | tuple[str, ...], op: Operation) -> str:
        return wrong if all(self._surely_gone(each, op) for each in things) else ""

    def _roomy(self, op: Operation, network: str) -> str:
        """Endpoints hold an address each, and each further container of a service one more."""
        endpoints = list(self._history.below(network))
        things = chain(endpoints, *(self._history.below(each) for each in endpoints))
        holders = sum(not self._surely_gone(each, op) for each in things)
        return "" if holders >= ROOM else f"only {holders} may have had an address"

    def _surely_gone(self, thing: str, op: Operation) -> bool:
        return self._history.surely_gone(thing, op.began, op.ended, besides=op)
