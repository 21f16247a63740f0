"""The words of names, docstrings and comments: the ones that a reader of this field would search for."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import REPOSITORY, label, modules

REFUSED = {
    "tell tells told untold": "report, return, log, publish",
    "says said": "report, contain, record; name who states it",
    "somebody whoever nobody": "another process, the caller, no one else: name the actor",
    "bury buries buried burial burials doomed undertaker": "remove, garbage collection",
    "dead living": "exited, running",
    "mend mends mended mending heal heals healed": "repair",
    "lookout suspect suspects": "scan, candidate",
    "wish wishes": "spec, request",
    "news hear hears heard": "notification, event; receive",
    "box boxes": "sandbox",
    "breath patience": "delay, timeout",
    "anew likewise meanwhile amid": "again, the same, during",
}
WORDS = {word: instead for words, instead in REFUSED.items() for word in words.split()}
PATTERN = re.compile(r"(?<![A-Za-z])(" + "|".join(WORDS) + r")(?![A-Za-z])", re.IGNORECASE)
OF_FILES = {"lab": "heal"}
"""By room or file: a word that is the field's own there. A network partition heals."""
VAGUE = re.compile(r"\b(somebody|whoever|nobody)\b", re.IGNORECASE)
"""Words that do not belong in a message either."""
LEFT_IN_TESTS = 1.0
"""Refused words for each 1,000 words of tests/: 0.4 when this was set."""
STORED_OR_SENT = re.compile(r"``[^`]*``|\"[^\"]*\"")
"""Names of sets, fields and events stay as they are; so does what is quoted."""

every_module = pytest.mark.parametrize("path", [*modules(), *sorted(REPOSITORY.glob("bench/**/*.py"))], ids=label)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield comments, docstrings and identifiers with their lines; other strings are messages or stored words."""
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type == tokenize.NAME:
            yield token.start[0], re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", token.string)
        elif token.type == tokenize.STRING and previous in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            yield token.start[0], token.string
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


def refused(path: Path) -> list[str]:
    """Return the lines of a file that use refused words, with what to write."""
    own = {OF_FILES[part] for part in (*path.parts[:-1], path.stem) if part in OF_FILES}
    return [
        f"{path.name}:{line}: {found[0]} -> {WORDS[found[0].lower()]}"
        for line, text in prose(path)
        for found in PATTERN.finditer(STORED_OR_SENT.sub("", text.strip('"')))
        if found[0].lower() not in own
    ]


@every_module
def test_module_uses_the_words_of_the_field(path: Path) -> None:
    assert not refused(path)


@every_module
def test_messages_of_a_module_name_the_actor(path: Path) -> None:
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text()).readline))
    strings = [token for token in tokens if "STRING" in tokenize.tok_name[token.type]]  # parts of f-strings, too
    found = [
        f"{path.name}:{token.start[0]}: {word[0]} -> {WORDS[word[0].lower()]}"
        for token in strings
        for word in VAGUE.finditer(re.sub(r"``[^`]*``", "", token.string))
    ]
    assert not found


def test_few_refused_words_are_left_in_the_tests() -> None:
    files = sorted(REPOSITORY.glob("tests/**/*.py"))
    words = sum(len(text.split()) for path in files for _, text in prose(path))
    left = sum(len(refused(path)) for path in files)
    assert 1000 * left / words < LEFT_IN_TESTS
