"""Changes of elements that are computed on the event loop and applied by any thread.

A caller plans within :meth:`RulesetTransaction.changing`: memory has then what the kernel is to get. It applies
the plan in a job of its own, together with what else that job does in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandnet.errors import Error
from sandnet.kernel.base import RULES_MISSING


def _nothing() -> None:
    pass


class PlannedChange:
    """A change that memory has and the kernel does not have yet.

    Args:
        write: changes the kernel, in one transaction; called on any thread.
        undo: sets memory back to what the kernel has; called on the event loop if the change was not applied.
        end: called on the event loop at the end in any case.
    """

    def __init__(
        self, write: Callable[[], None], undo: Callable[[], None] = _nothing, end: Callable[[], None] = _nothing
    ) -> None:
        self._write = write
        self._undo = undo
        self._end = end
        self._applied = False

    def apply(self) -> None:
        """Change the kernel, as one transaction; blocking, on the calling thread. A second call does nothing.

        Raises:
            Error: as :meth:`sandnet.kernel.base.Firewall.change`; nothing has happened then.
        """
        if not self._applied:
            self._write()
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


NO_CHANGE = PlannedChange(_nothing)
"""The plan for what the kernel has already."""
