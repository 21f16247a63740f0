"""The shape of the program: files and functions that can be read in a sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import median

import pytest

from tests.house.source import label, modules, tree

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MEDIAN_FUNCTION = 12
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

every_module = pytest.mark.parametrize("path", modules(), ids=label)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def lines(function: Function) -> int:
    """Lines from ``def`` to the end, the docstring left out: it is there to be long when it must."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


@every_module
def test_given_a_module_when_it_is_read_then_it_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@every_module
def test_given_a_module_when_it_is_measured_then_it_can_be_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@every_module
def test_given_a_function_when_it_is_measured_then_it_is_not_long(path: Path) -> None:
    long = {function.name: lines(function) for function in functions(path) if lines(function) > LONGEST_FUNCTION}
    assert not long


@every_module
def test_given_a_module_when_it_is_read_then_nothing_is_left_for_later(path: Path) -> None:
    assert not UNFINISHED.search(path.read_text())


def test_given_all_functions_when_they_are_measured_then_most_are_short() -> None:
    assert median(lines(function) for path in modules() for function in functions(path)) <= MEDIAN_FUNCTION
