"""The command line as a process of its own, against a daemon that gives canned answers."""

from tests.support.stub_daemon import namespace, sandbox, sandnet, start, stub

__all__ = ["namespace", "sandbox", "sandnet", "start", "stub"]
