"""The words of names, docstrings and comments: the ones that a reader of this field would search for."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.architecture.source import REPOSITORY, for_each, modules, nodes, text

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
WORD = re.compile(r"[A-Za-z]+")
OF_FILES = {"lab": "heal", "inet_table": "amid"}
"""By room or file: a word that is the field's own there. A partition heals; a chain in kernels has that name."""
IN_TEXT = re.compile(r"\b(" + "|".join(WORDS) + r")\b", re.IGNORECASE)
CODE = re.compile(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
"""What is quoted in a page: blocks, names, and targets of links."""
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob(".github/**/*.md")])
LEFT_IN_TESTS = 1.0
"""Refused words for each 1,000 words of tests/: 0.4 when this was set."""
STORED_OR_SENT = re.compile(r"``[^`]*``|\"[^\"]*\"")
"""Names of sets, fields and events stay as they are; so does what is quoted."""
BACK_QUOTED = re.compile(r"``[^`]*``")

every_module = for_each([*modules(), *sorted(REPOSITORY.glob("bench/**/*.py"))])


@dataclass(frozen=True)
class Wording:
    """What was found in one file: a tokenizer reads it once, for all rules."""

    refused: tuple[str, ...]
    """Comments, docstrings and identifiers that use refused words: where, and what to write."""
    messages: tuple[str, ...]
    """The same for strings of several words."""
    words: int
    """How many words comments, docstrings and identifiers have."""


@cache
def wording(path: Path) -> Wording:
    """Read a file."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text(path)).readline))
    own = {OF_FILES[part] for part in (*path.parts[:-1], path.stem) if part in OF_FILES}
    written = list(prose(tokens))
    found = [(line, word) for line, part in written for word in refused(part) if word.lower() not in own]
    strings = [token for token in tokens if "STRING" in tokenize.tok_name[token.type]]  # parts of f-strings, too
    texts = ((token.start[0], BACK_QUOTED.sub("", token.string)) for token in strings if " " in token.string)
    spoken = [(line, word) for line, each in texts for word in IN_TEXT.findall(each) if word.lower() not in own]
    return Wording(advice(path, found), advice(path, spoken), sum(len(part.split()) for _, part in written))


def prose(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Yield comments, docstrings and identifiers with their lines; other strings are messages or stored words."""
    previous = tokenize.NEWLINE
    for token in tokens:
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type == tokenize.NAME:
            yield token.start[0], parts(token.string)
        elif token.type == tokenize.STRING and previous in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            yield token.start[0], token.string
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


@cache
def parts(identifier: str) -> str:
    """Return the words of an identifier."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", identifier)


@cache
def refused(part: str) -> list[str]:
    """Return the refused words of a comment, a docstring or an identifier."""
    return [word for word in WORD.findall(STORED_OR_SENT.sub("", part.strip('"'))) if word.lower() in WORDS]


def advice(path: Path, found: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """Return the lines of a file that use such words, with what to write."""
    return tuple(f"{path.name}:{line}: {word} -> {WORDS[word.lower()]}" for line, word in found)


@every_module
def test_module_uses_the_words_of_the_field(path: Path) -> None:
    assert not wording(path).refused


@every_module
def test_messages_use_the_words_of_the_field(path: Path) -> None:
    assert not wording(path).messages


@for_each(DOCUMENTS)
def test_document_uses_the_words_of_the_field(path: Path) -> None:
    prose = CODE.sub(lambda quoted: "\n" * quoted[0].count("\n"), text(path))
    lines = enumerate(prose.splitlines(), 1)
    assert not advice(path, [(line, word) for line, each in lines for word in IN_TEXT.findall(each)])


RETIRED = {"world", "worlds", "rig", "universe", "nursery", "workshop", "mishap", "mishaps"}
"""Not in the tests: a network stack is a host, a process a daemon, one implementation of a protocol a case."""


@for_each(sorted(REPOSITORY.glob("tests/**/*.py")))
def test_support_code_has_one_word_for_one_thing(path: Path) -> None:
    names = {node.id for node in nodes(path) if isinstance(node, ast.Name)}
    names |= {node.arg for node in nodes(path) if isinstance(node, ast.arg)}
    names |= {
        node.name for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    own = {name for name in names if not name.startswith("test_")}
    assert not {name for name in {*own, path.stem} if RETIRED & set(parts(name).lower().split())}


def test_few_refused_words_are_left_in_the_tests() -> None:
    read = [wording(path) for path in sorted(REPOSITORY.glob("tests/**/*.py"))]
    left, words = sum(len(each.refused) for each in read), sum(each.words for each in read)
    assert 1000 * left / words < LEFT_IN_TESTS
