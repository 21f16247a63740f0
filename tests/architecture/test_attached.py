"""What README.md lists as attachable: each row has tests that prove it, and each such test has a row."""

from __future__ import annotations

import re

import pytest

from tests.architecture.source import REPOSITORY
from tests.support.attached import ROWS, Row, given_by, table, written
from tests.support.console_blocks import blocks

TESTS = sorted((REPOSITORY / "tests" / "e2e").glob("test_*.py"))
GIVEN = [(proof, path.name, name) for path in TESTS for proof, name in given_by(path.read_text())]
"""The proofs that tests give: name, file and test."""
CONSOLE = "test_docs_console.py"
"""The test that runs what a page shows."""
TARGET = re.compile(r"\((docs/[a-z]+\.md)#?([a-z-]*)\)")


def test_table_of_the_readme_is_the_one_of_the_rows() -> None:
    assert written() == table(), "write it with make fmt"


def test_each_row_has_tests_and_each_test_a_row() -> None:
    needed = {proof for row in ROWS for proof in row.proofs}
    assert {proof for proof, *_ in GIVEN} == needed
    assert all(row.proofs for row in ROWS)


def test_proof_is_given_by_a_test_or_a_page() -> None:
    assert [each for each in GIVEN if not each[2].startswith("test_") and each[1] != CONSOLE] == []


def shown_section(row: Row) -> str:
    """The part of the row's page that the row links to."""
    found = TARGET.search(row.page)
    assert found, row.page
    text = (REPOSITORY / found[1]).read_text()
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    named = (
        body for title, body in sections.items() if re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") == found[2]
    )
    return next(named) if found[2] else text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_section_that_proves_a_row_is_run(row: Row) -> None:
    if any(proof in row.proofs and file == CONSOLE for proof, file, _ in GIVEN):
        assert [block for block in blocks(shown_section(row)) if not block.reason]


def test_marker_without_a_test_is_found() -> None:
    source = "X = {'p': pytest.mark.attaches('a')}\n@pytest.mark.attaches('b', 'c')\ndef test_x(): pass\n"
    assert [*given_by(source)] == [("a", "X = {'p': pytest.mark.attaches('a')}"), ("b", "test_x"), ("c", "test_x")]
