"""A container's attachments to services while a command runs."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager

from sandnet.cli import output
from sandnet.cli.execution.child_process import FORWARDED
from sandnet.cli.session import waiting
from sandnet.errors import Error, Kind
from sandnet.library.attachments import Membership


class CommandMembership(Membership):
    """A membership that prints its progress and its failures, which do not change the exit status."""

    def in_progress(self, what: str) -> AbstractContextManager[None]:
        """Print on a terminal what takes longer than a second."""
        verb, _, name = what.partition(" ")
        return waiting(f"{verb} {output.short(name)}")

    def is_interrupted(self) -> bool:
        """Return whether a further signal arrived after the command has ended, as ``sandnet down`` sends one."""
        return bool(signal.sigpending() & FORWARDED)

    def report(self, failures: list[Error], error: BaseException | None) -> None:
        """Print what could not be undone; a daemon that ``sandnet down`` has stopped has undone it."""
        for failure in failures:
            if failure.kind is Kind.UNAVAILABLE and self.is_interrupted():
                continue
            output.failure(f"left behind: {failure.message}", "the daemon tries again; see: sandnet service ls")
