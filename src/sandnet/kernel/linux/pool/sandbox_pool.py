"""The pool of prepared sandboxes, in the kernel."""

from __future__ import annotations

from sandnet.kernel.linux.pool.preparation import Listen, close_sandbox, prepare_sandbox
from sandnet.kernel.netlink.socket import map_errors
from sandnet.kernel.types import PoolStatus, PreparedSandbox


class LinuxSandboxPool:
    """The Linux implementation of :class:`sandnet.kernel.namespace_protocols.SandboxPool`.

    Args:
        listen: where the resolver listens inside; ``None``: its sockets are not opened ahead of time.
    """

    def __init__(self, listen: Listen | None = None) -> None:
        self._listen = listen
        self._misses = 0
        self._inline = 0
        self._discarded = 0

    def take(self) -> PreparedSandbox | None:
        """Return a prepared sandbox; ``None``: there is none."""
        self._misses += 1
        return None

    def prepare(self) -> PreparedSandbox:
        """Make a prepared sandbox now.

        Raises:
            Error: ``EXHAUSTED`` or ``UNAVAILABLE``, as in the protocol.
        """
        with map_errors("prepare a sandbox"):
            prepared = prepare_sandbox(self._listen)
        self._inline += 1
        return prepared

    def discard(self, prepared: PreparedSandbox) -> None:
        """Close the descriptors."""
        close_sandbox(prepared)

    def status(self) -> PoolStatus:
        """Return the pool's state and its counts."""
        return PoolStatus(0, 0, 0, 0, self._misses, self._inline, self._discarded, 0, 0, "")
