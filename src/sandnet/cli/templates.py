"""``--format`` and ``--filter``: fields of an answer by name.

Every field that ``--json`` shows can be used. Case and underscores do not count, so ``{{.AddressIPv6}}`` is
``address_ipv6``. The templates are the part of Go's text/template that users of container tools know: ``{{.Field}}``,
``{{.Field.Key}}``, ``{{json .Field}}``, ``{{json .}}`` and, at the very beginning, ``table``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from sandnet.errors import invalid
from sandnet.escaping import printable, printable_json

Answer = Mapping[str, object]
"""An object of the daemon's answer."""

_ACTION = re.compile(r"\{\{\s*(?P<json>json\s+)?\.(?P<path>[\w.:/-]*)\s*\}\}")
_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\\": "\\"}


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        r"""Read the template; ``\t`` and ``\n`` in it are a tab and a line feed.

        Raises:
            Error: ``INVALID``, braces that are no action.
        """
        self.is_table = text.startswith("table ")
        text = "{{json .}}" if text == "json" else text.removeprefix("table ")
        left = _ACTION.sub("", text)
        if "{{" in left or "}}" in left:
            hint = "use {{.Field}}, {{.Field.Key}}, {{json .Field}} or {{json .}}"
            raise invalid(f"cannot read the template {text!r}", hint, "invalid_format")
        self._text = re.sub(r"\\[tn\\]", lambda match: _ESCAPES[match[0]], text)

    def headings(self) -> list[str]:
        """Return the columns' headings of a template that begins with ``table``."""
        return [_ACTION.sub(lambda match: match["path"].upper() or "ALL", cell) for cell in self._text.split("\t")]

    def render(self, answer: Answer) -> str:
        """Return the text with the fields of one object; what is in them is escaped.

        Raises:
            Error: ``INVALID``, there is no such field.
        """
        return _ACTION.sub(lambda match: _shown(_at(answer, match["path"]), bool(match["json"])), self._text)


def filters(given: Sequence[str]) -> Callable[[Answer], bool]:
    """Return a predicate: whether an object passes all ``KEY=VALUE``; of several values of one key one must match.

    ``name`` matches a part of the name, ``id`` the beginning of the id, ``label`` a label's key or ``key=value``. Any
    other key is a field, which must be equal; of a list one element must be.

    Raises:
        Error: ``INVALID``, one is not of that form; when called, there is no such field.
    """
    expected: dict[str, list[str]] = {}
    for text in given:
        key, equal, value = text.partition("=")
        if not key or not equal:
            raise invalid(f"{text!r} is not of the form KEY=VALUE", "as name=web, label=tier or driver=bridge")
        expected.setdefault(_plain(key), []).append(value)
    return lambda answer: all(any(_fits(answer, key, value) for value in each) for key, each in expected.items())


def _fits(answer: Answer, key: str, value: str) -> bool:
    if key == "label":
        labels = answer.get("labels") or {}
        name, equal, expected = value.partition("=")
        return isinstance(labels, dict) and name in labels and (not equal or labels[name] == expected)
    found = _at(answer, key)
    if key == "name":
        return value in str(found)
    if key == "id":
        return str(found).startswith(value)
    each = found if isinstance(found, list) else [found]
    return value.casefold() in (_shown(one, as_json=False).casefold() for one in each)


def _at(answer: object, path: str) -> object:
    """Return the value at ``Field.Key``; everything for an empty path."""
    if not path:
        return answer
    name, _, rest = path.partition(".")
    if not isinstance(answer, dict):
        return None
    if path in answer:  # a label's key may have dots
        return answer[path]
    keys = {_plain(key): key for key in answer}
    if _plain(name) not in keys:
        raise invalid(f"there is no field {name}", f"there are: {', '.join(answer) or 'none'}", "no_such_field")
    return _at(answer[keys[_plain(name)]], rest) if rest else answer[keys[_plain(name)]]


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


def _shown(value: object, as_json: bool) -> str:
    import msgspec

    if as_json:
        return printable_json(msgspec.json.encode(value).decode())
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return ",".join(_shown(one, as_json=False) for one in value)
    if isinstance(value, bool | dict | list):
        return printable_json(msgspec.json.encode(value).decode())
    return printable(str(value))
