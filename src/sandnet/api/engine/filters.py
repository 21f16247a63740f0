"""Filters of lists: the ``filters`` of a query, in both of Docker's spellings.

They are ``{"label": {"a=b": true}}`` (the command), or ``{"label": ["a=b"]}`` (docker-py). A network passes if
it passes each filter. Of a filter's several values one must match; of several labels all must.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs

import msgspec

from sandnet.errors import invalid
from sandnet.model import Network

Values = Mapping[str, Sequence[str]]
"""The values of each filter."""

LISTING: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
"""Filters of the list of networks."""
PRUNING: Final = frozenset({"label", "label!", "until"})
"""Filters of ``prune``."""
_MOST: Final = 256
"""Values of all filters together: each is compared with each network."""
_PATTERN: Final = re.compile(r"(?P<begin>\^?)(?P<text>[A-Za-z0-9_-]*)(?P<end>\$?)")
"""The regular expressions that a name can be looked for with. Others would only match what no name contains, or take
the regular expression library more time than a list may take."""
_TRUE, _FALSE = (
    frozenset({"1", "true", "True", "TRUE", "t", "T"}),
    frozenset({"0", "false", "False", "FALSE", "f", "F"}),
)
_TYPES: Final = ("builtin", "custom")
_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|s|m|h))+")
_PARTS: Final = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIX: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")


def parse(query: str, known: Collection[str]) -> Values:
    """Return the filters of a query.

    Args:
        query: the query of the request's URL.
        known: the filters that the request can have.

    Raises:
        Error: ``INVALID``, as from every function here.
    """
    text = parse_qs(query).get("filters", [""])[-1]
    try:
        raw = msgspec.json.decode(text, type=dict[str, dict[str, bool] | list[str]]) if text else {}
    except (msgspec.DecodeError, RecursionError) as failure:
        hint = 'write them like {"label":["a=b"]} or {"label":{"a=b":true}}'
        raise invalid(f"invalid filters: {failure}", hint, "invalid_filter") from failure
    for name in raw:
        if name not in known:
            raise invalid(f"invalid filter {name[:40]!r}", f"known here: {', '.join(sorted(known))}", "invalid_filter")
    found = {name: [*values] for name, values in raw.items()}
    if sum(map(len, found.values())) > _MOST:
        raise invalid(f"more than {_MOST} values of filters", code="invalid_filter")
    return found


def matcher(filters: Values, is_unused: Callable[[Network], bool]) -> Callable[[Network], bool]:
    """Return a function that returns whether a network passes the filters.

    Args:
        filters: those of the request.
        is_unused: returns whether a network has no containers.
    """
    patterns = {name: [_pattern(name, value) for value in filters.get(name, ())] for name in ("name", "id")}
    dangling = _boolean("dangling", filters["dangling"]) if filters.get("dangling") else None
    wrong = [value for value in filters.get("type", ()) if value not in _TYPES]
    if wrong:
        raise invalid(f"invalid filter 'type={wrong[0][:40]}'", "use builtin or custom", "invalid_filter")
    bound = before(filters)

    def passes(net: Network) -> bool:
        own = {"name": net.name, "id": net.id}
        return (
            all(not some or any(each.search(own[name]) for each in some) for name, some in patterns.items())
            and _is_one_of(net.driver, filters.get("driver"))
            and _is_one_of("local", filters.get("scope"))
            and _is_one_of(_TYPES[not net.predefined], filters.get("type"))
            and all(has_label(net.labels, each) for each in filters.get("label", ()))
            and not any(has_label(net.labels, each) for each in filters.get("label!", ()))
            and (dangling is None or (is_unused(net) and not net.predefined) is dangling)
            and (bound is None or net.created < bound)
        )

    return passes


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Return whether an object has a label: ``key``, or ``key=value``."""
    key, is_valued, value = wanted.partition("=")
    return key in labels and (not is_valued or labels[key] == value)


def before(filters: Values) -> float | None:
    """Return the moment of ``until`` in seconds since the epoch; ``None``: there is no such filter."""
    values = filters.get("until", ())
    if not values:
        return None
    if len(values) > 1:
        raise invalid("more than one until filter", "give one", "invalid_filter")
    return _moment(values[0])


def _moment(text: str) -> float:
    """Parse seconds since the epoch, a duration before now as Go writes it (``1h30m``), or a time (RFC 3339)."""
    if _UNIX.fullmatch(text):
        return float(text)
    if _DURATION.fullmatch(text):
        return time.time() - sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"invalid filter 'until={text[:40]}'"
        raise invalid(message, "write it like 24h, 2026-01-31T10:00:00Z or 1790000000", "invalid_filter") from None


def _pattern(name: str, text: str) -> re.Pattern[str]:
    found = _PATTERN.fullmatch(text)
    if found is None:
        hint = "write a part of it; ^ in front and $ behind are allowed"
        raise invalid(f"invalid filter '{name}={text[:80]}'", hint, "invalid_filter")
    end = r"\Z" if found["end"] else ""
    return re.compile(found["begin"] + re.escape(found["text"]) + end)


def _boolean(name: str, values: Sequence[str]) -> bool:
    if len(values) != 1 or values[0] not in _TRUE | _FALSE:
        raise invalid(f"invalid filter {name!r}", "give it one value, true or false", "invalid_filter")
    return values[0] in _TRUE


def _is_one_of(value: str, wanted: Sequence[str] | None) -> bool:
    return not wanted or value in wanted
