"""The command line against a daemon that gives canned answers."""

from tests.support.stub_daemon import sandnet, stub

__all__ = ["sandnet", "stub"]
