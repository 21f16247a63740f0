"""Escaping of untrusted text for terminals and logs: control, line-breaking and invisible characters are escaped.

Other programs choose the names of processes, labels, paths and answers. A terminal executes control characters
(ECMA-48), reorders text at bidirectional ones (UAX #9), and does not show invisible ones.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Invisible characters that Python counts as printable: marks, letters and a symbol (Unicode, property
Default_Ignorable_Code_Point; U+2800 is a blank)."""


def printable(text: str) -> str:
    r"""Return the text in one line that is safe to print on a terminal.

    Control characters (C0, DEL, C1), newlines and other line breaks, tabs, format characters (bidirectional ones
    included), blanks other than the space, unassigned characters and lone surrogates become the escapes of a Python
    string: ``\n``, ``\x1b``, ``\u202e``. All other characters are unchanged, backslashes too: the result is for people
    and cannot be decoded. Printable text is returned unchanged, so the function is idempotent.

    Args:
        text: any string, also one with bytes that were not UTF-8 (``surrogateescape``).
    """
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char.isprintable() and not _INVISIBLE.match(char):
        return char
    return char.encode("unicode_escape").decode("ascii")


def printable_json(document: str) -> str:
    r"""Return the JSON document with ``\uXXXX`` for each character that :func:`printable` escapes; its value is equal.

    Args:
        document: valid JSON, in which control characters can only be blanks between tokens. Line feeds are kept.
    """
    lines = document.replace("\t", " ").replace("\r", " ").split("\n")
    return "\n".join(line if printable(line) == line else "".join(map(_json_shown, line)) for line in lines)


def _json_shown(char: str) -> str:
    if printable(char) == char:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
