"""Check the ways through the source that the documents give: the files and functions on them exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.source import PACKAGE, REPOSITORY, tree

SECTION = re.compile(r"^## Eight walks\n(.*?)^## ", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"`([\w/]+\.py)` `([\w.]+)`")
FOUND = SECTION.search((REPOSITORY / "docs" / "design.md").read_text())
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
WALKS = re.findall(r"^\| (\d\. [^|]+) \| ([^|]+) \|$", FOUND[1] if FOUND else "", re.MULTILINE)
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def defined(body: list[ast.stmt], name: str) -> bool:
    """Return whether a class, function or method (``Class.method``) is defined."""
    first, _, rest = name.partition(".")
    found = [node for node in body if isinstance(node, Definition) and node.name == first]
    return any(not rest or defined(node.body, rest) for node in found)


def missing(way: str) -> list[str]:
    """Return the steps of a way whose file or function does not exist."""
    return [
        f"{path}: {name}"
        for path, name in STEP.findall(way)
        if not (PACKAGE / path).is_file() or not defined(tree(PACKAGE / path).body, name)
    ]


def test_design_page_has_eight_walks() -> None:
    assert [title[:2] for title, _ in WALKS] == [f"{number}." for number in range(1, 9)]


@pytest.mark.parametrize(("title", "way"), WALKS, ids=[title for title, _ in WALKS])
def test_walk_names_existing_files_and_functions(title: str, way: str) -> None:
    assert len(STEP.findall(way)) >= 3, title
    assert way.count(".py`") == len(STEP.findall(way)), "a file without a function"
    assert not missing(way)


@pytest.mark.parametrize(
    "way", ["`core/none.py` `run`", "`core/controller.py` `none`", "`core/controller.py` `Controller.none`"]
)
def test_missing_step_of_a_walk_is_found(way: str) -> None:
    assert missing(way)


def changes() -> dict[str, list[str]]:
    """Return the files that CONTRIBUTING.md names, by typical change."""
    section = re.search(r"^## To change X, look at Y\n(.*?)^## ", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section[1] if section else "", re.MULTILINE)
    return {change: re.findall(r"`([\w./]+)`", files) for change, files in rows[1:]}


def test_contributing_page_has_at_least_twenty_changes() -> None:
    assert len(changes()) >= 20


@pytest.mark.parametrize(("change", "files"), changes().items(), ids=list(changes()))
def test_typical_change_names_existing_files(change: str, files: list[str]) -> None:
    assert files, change
    assert all((REPOSITORY / file).is_file() or (PACKAGE / file).is_file() for file in files)
