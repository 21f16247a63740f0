"""Peers that are a process for each call, with JSON on their standard input: netavark and the CNI plugins."""

from __future__ import annotations

from bench.host import Namespace


class ProcessPeer:
    """The host namespace of such a peer, and a fresh namespace for each container."""

    def __init__(self) -> None:
        self._host = Namespace()
        self._container: Namespace | None = None

    def create_network(self, number: int) -> None:
        """There are no networks apart from attachments."""

    def delete_network(self, number: int) -> None:
        """Do nothing, as for :meth:`create_network`."""

    def prepare(self, number: int) -> None:
        """Make the container's namespace."""
        self._container = Namespace()

    def clear(self, number: int) -> None:
        """Let it go."""
        if self._container:
            self._container.close()
            self._container = None

    @property
    def _path(self) -> str:
        return self._container.path if self._container else ""

    def close(self) -> None:
        """Let everything go."""
        self.clear(0)
        self._host.close()
