"""A number of places that askers share, so that one cannot take them from the others."""

from __future__ import annotations


class Shares:
    """Places, of which one asker gets no more than are left for all others.

    One asker that takes all it can get leaves the half, two that take by turns leave a third, and so on. Whoever holds
    more than is left gets no more before others have given back (the dynamic thresholds of shared buffers: Choudhury
    and Hahne, IEEE/ACM Transactions on Networking 6, 1998).

    Args:
        total: places of all askers together.
        most: places of one asker at most.
    """

    def __init__(self, total: int, most: int) -> None:
        self._total = total
        self._most = most
        self.taken = 0
        """Places of all askers that are taken."""

    def take(self, own: int) -> bool:
        """Take a place for an asker that has ``own`` already; false: it may have no more now."""
        if own >= self._most or own >= self._total - self.taken:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """Return a place."""
        self.taken -= 1
