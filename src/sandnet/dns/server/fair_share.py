"""Fair sharing of a limited number of slots among clients, so that one client cannot starve the others."""

from __future__ import annotations


class Shares:
    """Slots, of which one client gets at most as many as are left free for all others.

    One client that takes all it can get leaves half of the slots free, two that alternate leave a third, and so on. A
    client that holds more slots than are free gets no more before others release theirs (the dynamic thresholds of
    shared buffers: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998).

    Args:
        total: slots of all clients together.
        most: maximum slots of one client.
    """

    def __init__(self, total: int, most: int) -> None:
        self._total = total
        self._most = most
        self.taken = 0
        """Slots in use by all clients."""

    def take(self, own: int) -> bool:
        """Take a slot for a client that holds ``own`` already; return false if it may have no more now."""
        if own >= self._most or own >= self._total - self.taken:
            return False
        self.taken += 1
        return True

    def release(self) -> None:
        """Release a slot."""
        self.taken -= 1
