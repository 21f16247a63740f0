"""The logs of the daemon and the resolver: each record is one line, safe to print on a terminal.

Records often contain names that other programs chose. The length of a line is limited. So is the rate of records from
one place in the source, because other programs determine how often that place is reached.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from sandnet.escaping import printable

MAX_LINE: Final = 4 << 10
"""Maximum characters of a line. A longer one is truncated, with a note of its full length."""
MAX_TRACE: Final = 200
"""Maximum lines of a traceback; the last ones are kept."""
BURST: Final = 200
"""Records that one place in the source may log at once."""
RATE: Final = 20.0
"""Records per second that one place may log on average."""
DAEMON: Final = "%(levelname)s %(name)s: %(message)s"
"""Format of the daemon's log; the service manager adds the time."""
FILE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Format of the log of a daemon in the background."""
LOG_LIMIT: Final = 1 << 20
"""Maximum bytes of our log file; a larger one is emptied."""
RESOLVER: Final = "%(asctime)s %(levelname)s %(message)s"
_OWN_NAME: Final = "sandnet"
_SERVER: Final = "sandnet.serving.http_server"
_NAMES: Final[Mapping[str, str]] = {"uvicorn": _SERVER, "uvicorn.error": _SERVER, "uvicorn.access": _SERVER}
"""Names for the loggers of the HTTP library, whose own names are misleading (its ``error`` logs every level)."""


def configure(level: str, layout: str, handler: logging.Handler | None = None) -> None:
    """Send all records of ``level`` or above to a handler.

    Args:
        level: a name of :mod:`logging`, in any case.
        layout: :data:`DAEMON` or :data:`RESOLVER`.
        handler: destination; ``None``: stderr.
    """
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(layout))
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class FileHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """A handler that writes to stderr, which is our log file, opened for appending; it empties a large file."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with suppress(OSError):
            if os.fstat(sys.stderr.fileno()).st_size > LOG_LIMIT:
                os.ftruncate(sys.stderr.fileno(), 0)
        super().emit(record)


class LineFormatter(logging.Formatter):
    """A formatter of records as one line; a traceback follows in indented lines, which do not look like records."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        own = logging.makeLogRecord(record.__dict__)  # other handlers get the unchanged record
        own.name = _logger_name(record.name)
        own.msg, own.args = _escaped_line(record.getMessage()), None
        own.exc_text = None
        return super().format(own)

    def formatException(self, ei: object) -> str:  # noqa: N802 - the library's name
        """Return a traceback, with each of its lines escaped."""
        return _escaped_lines(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the library's name
        """Return a stack, with each of its lines escaped."""
        return _escaped_lines(stack_info)


class RateLimit(logging.Filter):
    """A rate limit for each place in the source. The next record that passes contains the number of omitted ones."""

    def __init__(self, *, burst: int = BURST, rate: float = RATE) -> None:
        """Set the limits; every place begins with a full burst."""
        super().__init__()
        self._burst, self._rate = float(burst), rate
        self._places: dict[tuple[str, int], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        left, since, omitted = self._places.get(place, (self._burst, now, 0))
        left = min(self._burst, left + (now - since) * self._rate)
        if left < 1:
            self._places[place] = (left, now, omitted + 1)
            return False
        self._places[place] = (left - 1, now, 0)
        if omitted:
            record.msg, record.args = f"{record.getMessage()} [{omitted} such lines were left out]", None
        return True


def _logger_name(name: str) -> str:
    if name == _OWN_NAME or name.startswith(f"{_OWN_NAME}."):
        return name
    return _NAMES.get(name, f"{_OWN_NAME}.{name}")


def _escaped_line(text: str) -> str:
    shown = printable(text[: MAX_LINE + 1])  # escape only the part that is shown
    if len(shown) <= MAX_LINE:
        return shown
    return f"{shown[:MAX_LINE]}… [cut; {len(text)} characters in all]"


def _escaped_lines(text: str) -> str:
    lines = text.split("\n")[-MAX_TRACE:]
    return "\n".join(f"    {_escaped_line(line)}" for line in lines)
