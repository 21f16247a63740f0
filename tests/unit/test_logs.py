"""The log holds text of others: it is one line a record, harmless on a terminal, and bounded."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from sandnet.logs import BURST, DAEMON, MAX_LINE, MAX_TRACE, RESOLVER, LineFormatter, RateLimit

HOSTILE = "web\x1b]0;owned\x07\nERROR sandnet.core: forged\x9b2J\u202e"
SHOWN = r"web\x1b]0;owned\x07\nERROR sandnet.core: forged\x9b2J\u202e"


@pytest.fixture
def logged() -> Iterator[tuple[logging.Handler, Callable[[], list[str]]]]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter(DAEMON))
    handler.addFilter(RateLimit())
    yield handler, lambda: out.getvalue().splitlines()
    handler.close()


def logger(name: str, handler: logging.Handler) -> logging.Logger:
    made = logging.Logger(name)
    made.addHandler(handler)
    return made


Logged = tuple[logging.Handler, Callable[[], list[str]]]


def test_terminal_controls_are_logged_as_one_harmless_line(logged: Logged) -> None:
    handler, lines = logged
    logger("sandnet.core.monitoring.process_watcher", handler).warning("process %s of %d has ended", HOSTILE, 7)
    assert lines() == [f"WARNING sandnet.core.monitoring.process_watcher: process {SHOWN} of 7 has ended"]


def test_exception_text_cannot_forge_a_log_record(logged: Logged) -> None:
    handler, lines = logged
    try:
        raise ValueError(HOSTILE)
    except ValueError as failure:
        logger("sandnet.api", handler).error("failed", exc_info=failure, stack_info=True)
    head, *rest = lines()
    assert head == "ERROR sandnet.api: failed"
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in rest)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("uvicorn.error", "sandnet.serving.http_server"),
        ("uvicorn", "sandnet.serving.http_server"),
        ("asyncio", "sandnet.asyncio"),
        ("sandnetwork", "sandnet.sandnetwork"),
        ("sandnet.core", "sandnet.core"),
    ],
)
def test_library_logger_is_shown_under_our_name(logged: Logged, name: str, shown: str) -> None:
    handler, lines = logged
    logger(name, handler).error("here")
    assert lines() == [f"ERROR {shown}: here"]


def test_overlong_line_is_cut_with_a_note(logged: Logged) -> None:
    handler, lines = logged
    logger("sandnet", handler).error("x" * 1_000_000)
    (line,) = lines()
    assert len(line) < MAX_LINE + 100
    assert line.endswith("[cut; 1000000 characters in all]")


def test_deep_traceback_keeps_its_last_lines(logged: Logged) -> None:
    handler, lines = logged

    def descend(depth: int) -> None:
        if depth:
            (descend, descend)[depth % 2](depth - 1)
        raise ValueError("the\n" * 1000 + "end")

    try:
        descend(100)
    except ValueError:
        logger("sandnet", handler).exception("failed")
    assert len(lines()) == MAX_TRACE + 1
    assert lines()[-1] == "    end"


def test_flooding_call_site_is_limited_and_others_are_logged(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("sandnet.logs.time.monotonic", lambda: now[0])
    handler, lines = logged
    log = logger("sandnet", handler)

    def flood(text: str) -> None:
        log.warning(text)

    for _ in range(10_000):
        flood("a repair")
    log.warning("another place")
    assert len(lines()) == BURST + 1
    assert lines()[-1] == "WARNING sandnet: another place"
    now[0] += 1
    flood("a repair")
    assert lines()[-1] == f"WARNING sandnet: a repair [{10_000 - BURST} such lines were left out]"


@pytest.mark.parametrize("layout", ["DAEMON", "RESOLVER"])
def test_library_log_in_a_process_is_one_harmless_stderr_line(layout: str) -> None:
    program = (
        "import logging; from sandnet import logs\n"
        f"logs.configure('info', logs.{layout})\n"
        f"logging.getLogger('uvicorn.error').warning('got %s', {HOSTILE!r})\n"
        "logging.getLogger('sandnet').debug('quiet')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = ended.stderr.splitlines()
    assert line.endswith(f"got {SHOWN}")
    assert "uvicorn" not in line


def test_resolver_log_lines_carry_the_time() -> None:
    record = logging.makeLogRecord({"name": "sandnet", "msg": "here", "levelname": "INFO"})
    assert LineFormatter(RESOLVER).format(record)[:2] == "20"
