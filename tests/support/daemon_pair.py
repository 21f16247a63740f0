"""Every end-to-end test works on a host with a real daemon, and must leave it as it found it.

The fixtures are registered once for all folders, in ``tests/conftest.py``: two sets of them would each take the
other's daemons for something left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.daemon import Facts, RunningDaemon, processes
from tests.support.network_host import eventually, unavailable

STANDING = re.compile(r"\tset (closed_families|open_links) \{[^}]*?(elements = \{[^}]*\}\s*)?\}")
"""Sets of what the host was before the first network."""

OFTEN_REPAIRED = "times in the last minute; another program undoes it"
"""In the health of a daemon that has often repaired the same object."""


class DaemonPair:
    """One daemon a worker, replaced by a fresh one when a test has left something in it."""

    def __init__(self, factory: pytest.TempPathFactory, *, dns: bool = True) -> None:
        self._factory, self._dns = factory, dns
        self._daemon: RunningDaemon | None = None
        self._clean: Facts | None = None

    def get(self) -> RunningDaemon:
        """A host with a running daemon and nothing but the predefined networks."""
        if self._daemon is None:
            self._daemon = RunningDaemon(self._factory.mktemp("w"), dns=self._dns)
            self._daemon.start()
            self._clean = self._facts(self._daemon)
        return self._daemon

    def check(self) -> None:
        """Remove what a test has made by requests, and compare with what there was before it."""
        daemon = self.get()
        try:
            daemon.stack.pop_all().close()
            if not daemon.is_running():
                daemon.start()
            daemon.api.clear()
            eventually(lambda: self._facts(daemon) == self._clean)
            if self._problems():  # a report lasts until all is compared again: now
                daemon.api.post("/reconcile", fix=True)
            lasting = self._problems()
            if lasting and all(OFTEN_REPAIRED in problem for problem in lasting):
                self.end()  # that is known for a minute, and the next test need not wait for its end
            else:
                eventually(lambda: not self._problems(), 75)
        except BaseException:
            left = [set(now) ^ set(then) for now, then in zip(self._facts(daemon), self._clean or (), strict=False)]
            print("left behind or missing:", left, "\n", daemon.log)
            self.discard()
            raise

    def _problems(self) -> list[str]:
        found: list[str] = self.get().api.get("/healthz")["problems"]
        return found

    @staticmethod
    def _facts(daemon: RunningDaemon) -> Facts:
        """The host's parameters are put back by ``down`` only, and what the table knows of them stays as long."""
        facts = daemon.facts()
        rules = STANDING.sub("", "\n".join(facts.rules))
        return facts._replace(sysctls=(), rules=tuple(rules.splitlines()))

    def discard(self) -> None:
        """End the processes, without asking the daemon to clean up."""
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None

    def end(self) -> None:
        """``sandnet down`` after everything: the host is as it was before the daemon came."""
        if self._daemon is not None:
            try:
                self._daemon.down()
                assert self._daemon.facts() == self._daemon.before
                assert self._daemon.resolvers() == []
            finally:
                self.discard()


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.TempPathFactory]:
    """Where daemons have their directories; when all have ended, none of their processes is left.

    Skipped without root or namespaces (failed where ``CI`` is set).
    """
    if reason := unavailable():
        pytest.skip(reason)
    yield tmp_path_factory
    ours = f"{tmp_path_factory.getbasetemp()}/w".encode()
    left = [
        words for _, words in processes() if any(word.removeprefix(b"--run-dir=").startswith(ours) for word in words)
    ]
    assert left == []


@pytest.fixture(scope="session")
def daemons(directories: pytest.TempPathFactory) -> Iterator[DaemonPair]:
    """Those in which names are served."""
    made = DaemonPair(directories)
    yield made
    made.end()


@pytest.fixture(scope="session")
def nameless_daemons(directories: pytest.TempPathFactory) -> Iterator[DaemonPair]:
    """Those in which names stand in hosts files."""
    made = DaemonPair(directories, dns=False)
    yield made
    made.end()


@pytest.fixture
def daemon(daemons: DaemonPair) -> Iterator[RunningDaemon]:
    """The daemon, checked afterwards."""
    yield daemons.get()
    daemons.check()


@pytest.fixture
def fresh_daemon(directories: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon of the test's own, not started."""
    made = RunningDaemon(directories.mktemp("w"))
    yield made
    made.close()
