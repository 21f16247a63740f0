"""What the documents say exists: commands, options, files and REST operations."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import msgspec
import pytest
from litestar.di import Provide

from sandnet.api.app import HANDLERS
from sandnet.api.libnetwork.openapi import document as openapi_document
from sandnet.cli.root import root
from sandnet.wire import (
    bandwidth,
    daemon_version,
    direct_ports,
    explain,
    health,
    interface_options,
    libnetwork,
    nodes,
    reconcile,
    sandbox_interfaces,
)
from tests.architecture.source import REPOSITORY, for_each

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OPERATION = re.compile(r"^\W*`?(GET|POST|PUT|PATCH|DELETE) (/[^\s`?]*)", re.MULTILINE)
METHODS = {"get", "post", "put", "patch", "delete"}
PLACEHOLDER = re.compile(r"<[^>]+>|\{[^}]+\}|\b[0-9a-f]{64}\b")


class OpenAPI(msgspec.Struct):
    """The part of the OpenAPI document that is looked at."""

    paths: dict[str, dict[str, object]]


every_document = for_each(DOCUMENTS)
every_page = for_each(page for page in DOCUMENTS if not re.match(r"\d{4}-", page.name))
"""Without the single decisions, whose list introduces them."""


def command_lines(text: str) -> Iterator[str]:
    """Everything that is written as a ``sandnet`` command: in fenced blocks and between back-quotes."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            written = re.match(r"\s*(?:[$#] )?(?:sudo )?(?:\S*/)?(sandnet(?: .*)?)$", line)
            if written:
                yield written[1]
    for written in INLINE.findall(FENCE.sub("", text)):
        if re.match(r"sandnet [a-z-]", written):
            yield written


def words(line: str) -> list[str]:
    """The words of a command line up to a comment, a pipe or the command that sandnet is to run."""
    lexer = shlex.shlex(line.replace("…", "").replace("[", " ").replace("]", " "), posix=True)
    lexer.whitespace_split = True
    taken = []
    for word in lexer:
        if word in {"--", "|", "&", "&&", ";", ">", "<"} or word.startswith("#"):
            break
        taken.append(word)
    return taken[1:]


def options(command: click.Command) -> set[str]:
    """Every spelling of every option of the command."""
    spelled = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    return {name for name in spelled if name.startswith("-")} | {"-h", "--help"}


def wrong(line: str) -> str:
    """What in the line does not exist; empty when all does."""
    command: click.Command = root
    named: list[str] = []
    known = options(root)
    for word in words(line):
        if word.startswith("-") and len(word) > 1:
            if word.partition("=")[0] not in known:
                return f"{' '.join(['sandnet', *named])} has no option {word}"
        elif isinstance(command, click.Group) and not word.isupper() and "://" not in word:
            found = [command.get_command(click.Context(command), name) for name in word.split("|")]
            if None in found:
                return f"there is no command {' '.join(['sandnet', *named, word])}"
            command, named = found[0] or command, [*named, word]
            known = known | options(command)
    return ""


@cache
def anchors(document: Path) -> set[str]:
    """The names by which the headings of a document can be linked to."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def leads_somewhere(document: Path, target: str) -> bool:
    """Return whether the file and the heading of a link exist."""
    path, _, anchor = target.partition("#")
    file = (document.parent / path).resolve() if path else document
    return file.exists() and (not anchor or file.suffix != ".md" or anchor in anchors(file))


def plain(path: str) -> str:
    """A path with its parameters made alike: ``/networks/{}``."""
    return re.sub(r"/{2,}", "/", PLACEHOLDER.sub("{}", path)).rstrip("/") or "/"


@every_document
def test_commands_in_documents_exist(document: Path) -> None:
    mistakes = [f"{line}: {wrong(line)}" for line in command_lines(document.read_text()) if wrong(line)]
    assert not mistakes


@every_page
def test_page_begins_with_its_readers_and_what_they_get(page: Path) -> None:
    beginning = page.read_text().partition("\n## ")[0].partition("\n```")[0]
    assert re.search(r"^(For|It is for) ", beginning, re.MULTILINE), "for whom?"
    assert re.search(r"\b(After|Begin with)\b", beginning), "what can they do after it?"


@every_document
def test_links_in_documents_have_targets(document: Path) -> None:
    targets = LINK.findall(FENCE.sub("", document.read_text()))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert not [target for target in local if not leads_somewhere(document, target)]


@pytest.mark.parametrize(
    "line",
    [
        "sandnet nonsense",
        "sandnet network nonsense",
        "sandnet network create --nonsense foo",
        "sandnet network create|nonsense",
    ],
)
def test_nonexistent_command_is_reported_by_the_check(line: str) -> None:
    assert wrong(line)


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    written = r"`make ([a-z-]+)[^`]*`|^\$ (?:sudo )?(?:[A-Z_]+=\S+ )*make ([a-z-]+)"
    named = {
        name for file in DOCUMENTS for pair in re.findall(written, file.read_text(), re.MULTILINE) for name in pair
    }
    assert named - {""} <= targets


def documented_operations() -> set[tuple[str, str]]:
    """What docs/api.md lists, one operation a heading or table row."""
    text = (REPOSITORY / "docs" / "api.md").read_text()
    return {(method, plain(path)) for method, path in OPERATION.findall(text)}


def served_operations() -> set[tuple[str, str]]:
    """What the OpenAPI document of the program lists."""

    async def core() -> None:
        """Stands for the running daemon's controller."""

    async def release() -> str:
        return "0"

    absentees = {"core": Provide(core), "release": Provide(release)}
    paths = msgspec.json.decode(openapi_document(HANDLERS, absentees, "0"), type=OpenAPI).paths
    return {(method.upper(), plain(path)) for path, item in paths.items() for method in item if method in METHODS}


@pytest.mark.skipif(not (REPOSITORY / "docs" / "api.md").exists(), reason="docs/api.md is not written")
def test_documented_rest_operations_are_exactly_the_existing() -> None:
    assert documented_operations() - {("GET", "/openapi.json")} == served_operations() - {("GET", "/openapi.json")}


def described_structs() -> Iterator[type[msgspec.Struct]]:
    """The bodies of requests and answers, and what they contain."""
    modules = (bandwidth, daemon_version, direct_ports, explain, interface_options, libnetwork, nodes)
    for module in (*modules, health, reconcile, sandbox_interfaces):
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__ == module.__name__:
                yield each


def test_fields_of_the_api_are_on_its_page() -> None:
    named = set(re.findall(r"\w+", (REPOSITORY / "docs" / "api.md").read_text()))
    fields = [(struct.__name__, field) for struct in described_structs() for field in struct.__struct_encode_fields__]
    assert len(fields) > 100
    assert not [field for field in fields if field[1] not in named]


@cache
def known_tests() -> set[str]:
    """The names of all tests."""
    files = (REPOSITORY / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}


@for_each(sorted(REPOSITORY.glob("docs/**/*.md")))
def test_tests_cited_as_proof_in_documents_exist(document: Path) -> None:
    assert not set(re.findall(r"`(test_\w+)`", document.read_text())) - known_tests()


def test_every_harm_on_the_reliability_page_has_a_test() -> None:
    named = set(re.findall(r"`\[([^]`]+)\]`", (REPOSITORY / "docs" / "reliability.md").read_text()))
    tested = re.findall(r'Harm\(\s*"([^"]+)"', (REPOSITORY / "tests" / "e2e" / "test_repair.py").read_text())
    assert named == set(tested)


def test_decisions_have_unique_numbers_and_own_titles() -> None:
    folder = REPOSITORY / "docs" / "adr"
    pages = sorted(page for page in folder.glob("0*.md") if page.name != "0000-template.md")
    titles = [(page.read_text().splitlines()[0].removeprefix("# ").partition(". "), page.name) for page in pages]
    rows = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+?) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert rows == [(number, name, title) for (number, _, title), name in titles]
    assert [number for number, _, _ in rows] == [f"{place:04}" for place in range(1, len(rows) + 1)]
