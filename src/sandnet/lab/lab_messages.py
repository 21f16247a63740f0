"""Requests to the supervisor of a lab, and its answers: one JSON message each way, with descriptors beside it."""

from __future__ import annotations

from typing import Final

import msgspec

MESSAGE_LIMIT: Final = 1 << 16
"""Bytes of a message."""


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a host."""

    number: int
    name: str
    address: str
    address6: str
    power: bool
    daemon: str
    """``ready``, ``starting``, ``killed``, ``ended`` with its status, or ``off``."""
    store: str
    """The role of its member of etcd: ``leader``, ``follower``, ``no leader``, ``starting``, ``killed``, ``stopped``,
    ``off``; empty: it has none."""
    delay: float
    """Seconds for which each frame from and to the host is held."""
    loss: float
    """Share of these frames that are lost."""
    cut_from: tuple[int, ...]
    """Hosts to which nothing goes from here."""
    cut_from_store_of: tuple[int, ...]
    """Hosts whose etcd is not reached from here."""
    daemon_log: str
    store_log: str


class LabStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a lab."""

    name: str
    directory: str
    store_url: str
    """Empty: the daemons have embedded stores."""
    since: float
    """Seconds since 1970."""
    hosts: tuple[HostStatus, ...]


class GetStatus(msgspec.Struct, frozen=True, tag="status"):
    """Ask for the status."""


class EnterHost(msgspec.Struct, frozen=True, tag="enter"):
    """Ask for descriptors of a host's namespaces, in the order of :data:`sandnet.lab.entry.KINDS`, and of its
    ``/run``.
    """

    number: int


class CutNetwork(msgspec.Struct, frozen=True, tag="cut"):
    """Drop what goes from the first hosts to the second ones; cuts add up."""

    pairs: tuple[tuple[int, int], ...]
    store_only: bool
    """Only what belongs to etcd."""


class HealNetwork(msgspec.Struct, frozen=True, tag="heal"):
    """Undo all cuts, delays and losses."""


class ImpairHost(msgspec.Struct, frozen=True, tag="impair"):
    """Change the delay or the loss of a host; ``None``: as it is."""

    number: int
    delay: float | None
    loss: float | None


class KillHost(msgspec.Struct, frozen=True, tag="kill"):
    """Kill a host's daemon, or everything on the host."""

    number: int
    power: bool
    lose_state: bool


class StartHost(msgspec.Struct, frozen=True, tag="start"):
    """Start what is not running on a host."""

    number: int


class ChangeMember(msgspec.Struct, frozen=True, tag="member"):
    """Start, stop (SIGTERM) or kill the member of etcd on a host."""

    number: int
    action: str


Request = GetStatus | EnterHost | CutNetwork | HealNetwork | ImpairHost | KillHost | StartHost | ChangeMember


class LabAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to any request. An error has a kind."""

    kind: str = ""
    message: str = ""
    hint: str = ""
    code: str = ""
    status: LabStatus | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a starting lab sends to the command that started it."""

    pid: int = 0
    """The supervisor, as the command sees it."""
    line: str = ""
    error: LabAnswer | None = None
    ready: bool = False
