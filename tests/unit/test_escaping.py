"""What others wrote cannot command a terminal, forge a line, or hide."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from sandnet.escaping import printable, printable_json


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("", ""),
        ("web-1", "web-1"),
        ("größe 日本 🎉", "größe 日本 🎉"),
        (r"C:\new", r"C:\new"),
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x00\x7f", r"\x00\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("user\u202eexe.txt", r"user\u202eexe.txt"),
        ("a\u200bb\ufeff\u2066", r"a\u200bb\ufeff\u2066"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("a\xa0b\u3000", r"a\xa0b\u3000"),
        ("\U000e0041", r"\U000e0041"),
        ("a\ufe0f\u3164\U000e0100", r"a\ufe0f\u3164\U000e0100"),
        ("bad\udc80byte", r"bad\udc80byte"),
    ],
)
def test_printable_text_keeps_only_drawn_characters(given: str, shown: str) -> None:
    assert printable(given) == shown
    assert printable(shown) == shown


def test_no_character_survives_that_controls_or_hides() -> None:
    for first in range(0, sys.maxunicode + 1, 256):
        shown = printable("".join(map(chr, range(first, first + 256))))
        categories = {unicodedata.category(char) for char in set(shown)}
        assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}, hex(first)
        assert shown.encode()


def test_neighbours_of_an_escaped_character_are_kept() -> None:
    for code in (*range(0x3200), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10100), *range(0xE0000, 0xE0200)):
        shown = printable(f"a{chr(code)}b")
        assert shown.startswith("a")
        assert shown.endswith("b")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('{"a":"größe 🎉"}', '{"a":"größe 🎉"}'),
        ('["\x9b31m\x7f"]', r'["\u009b31m\u007f"]'),
        ('["\u202e\U000e0041"]', r'["\u202e\udb40\udc41"]'),
        ("[\n\t1,\r\n 2]", "[\n 1, \n 2]"),
        (r'["\u001b\ud800"]', r'["\u001b\ud800"]'),
    ],
)
def test_shown_json_keeps_its_meaning_and_has_no_control_chars(given: str, shown: str) -> None:
    assert printable_json(given) == shown
    assert json.loads(shown) == json.loads(given)
