"""Text of others on a terminal or in the log: what could command a terminal, forge a line or hide is shown escaped.

Names of processes, labels, paths and answers of other programs are written by somebody else. A terminal obeys control
characters (ECMA-48), reorders text at bidirectional ones (UAX #9), and shows nothing at all for others.
"""

from __future__ import annotations

import re
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Marks, letters and a symbol that Python counts as printable and that are drawn as nothing (Unicode, property
Default_Ignorable_Code_Point; U+2800 is a blank)."""


def printable(text: str) -> str:
    r"""Return the text in one line that a terminal only displays.

    Control characters (C0, DEL, C1), newlines and other line breaks, tabs, format characters (bidirectional ones
    included), blanks other than the space, unassigned characters and lone surrogates become the escapes of a Python
    string: ``\n``, ``\x1b``, ``\u202e``. Everything else stays, backslashes too: the result is for people and cannot be
    read back. Printable text is returned as it is, so to call this twice does no harm.

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
    r"""Return the JSON document with ``\uXXXX`` for whatever :func:`printable` escapes; its value is the same.

    Args:
        document: valid JSON, in which control characters can only be blanks between tokens. Line feeds stay.
    """
    lines = document.replace("\t", " ").replace("\r", " ").split("\n")
    return "\n".join(line if printable(line) == line else "".join(map(_json_shown, line)) for line in lines)


def _json_shown(char: str) -> str:
    if printable(char) == char:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
