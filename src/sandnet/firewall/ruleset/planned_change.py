"""Changes of elements that are computed on the event loop and applied by any thread.

A caller plans within :meth:`RulesetTransaction.changing`: memory has then what the kernel is to get. It applies
the plan in a job of its own, together with what else that job does in the kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandnet.errors import Error
from sandnet.firewall.ruleset.elements import Difference, ElementMap, merge
from sandnet.kernel.base import RULES_MISSING, Firewall

_log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class PlannedChange:
    """A change that memory has and the kernel does not have yet.

    Args:
        firewall: changes the kernel; ``None``: nothing changes.
        elements: what changes.
        undo: sets memory back to what the kernel has; called on the event loop if the change was not applied.
        end: called on the event loop at the end in any case.
        absent: the elements to remove may be absent.
    """

    def __init__(
        self,
        firewall: Firewall | None,
        elements: Difference,
        undo: Callable[[], None] = _nothing,
        end: Callable[[], None] = _nothing,
        *,
        absent: bool = False,
    ) -> None:
        self._elements = elements
        self._firewall = firewall
        self._absent = absent
        self._applied = False
        self._undo = undo
        self._end = end

    def apply(self, *others: PlannedChange) -> None:
        """Change the kernel, with other plans in one transaction; blocking, on the calling thread.

        What is applied already is left out.

        Raises:
            Error: as :meth:`sandnet.kernel.base.Firewall.change`; nothing has happened then.
        """
        waiting = [change for change in (self, *others) if not change._applied]
        removed: ElementMap = {}
        added: ElementMap = {}
        for change in waiting:
            merge(removed, change._elements.removed)
            merge(added, change._elements.added)
        firewall = next((change._firewall for change in waiting if change._firewall), None)
        if firewall and (removed or added):
            firewall.change(removed, added, absent=any(change._absent for change in waiting))
        for change in waiting:
            change._applied = True

    def try_apply(self) -> None:
        """Apply as :meth:`apply`; a refusal is logged, and memory keeps the change.

        Raises:
            Error: the kernel has lost the tables.
        """
        try:
            self.apply()
        except Error as failure:
            if failure.code == RULES_MISSING:
                raise
            _log.warning("the packet filter still has elements that are to be removed: %s", failure)
            self._applied = True

    @contextmanager
    def pending(self) -> Iterator[None]:
        """Apply the change within the block. If it is not applied, memory is set back at the end of the block.

        Memory keeps the change if the kernel has lost the tables: the rewrite that follows includes it.
        """
        lost = False
        try:
            yield
        except Error as failure:
            lost = failure.code == RULES_MISSING
            raise
        finally:
            if not self._applied and not lost:
                self._undo()
            self._end()


class AttemptedChange:
    """A change at the beginning of a job that goes on when the kernel refuses it; memory is set back then.

    Args:
        change: the plan.
    """

    def __init__(self, change: PlannedChange) -> None:
        self._change = change
        self._lost: Error | None = None

    def attempt(self) -> None:
        """Apply the change; a refusal is logged."""
        try:
            self._change.apply()
        except Error as failure:
            if failure.code == RULES_MISSING:
                self._lost = failure
            _log.warning("the packet filter still spreads flows over backends that leave: %s", failure)

    def then(self, step: Callable[[], None]) -> None:
        """Run the step.

        Raises:
            Error: the kernel had lost the tables at the attempt; or as the step itself.
        """
        step()
        if self._lost:
            raise self._lost


NO_CHANGE = PlannedChange(None, Difference({}, {}))
"""The plan for what the kernel has already."""
