"""The codes of the REST API's failures: docs/operations.md has each of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from tests.architecture.source import PACKAGE, REPOSITORY, label, modules, nodes

ROOMS: Final = ("api", "core", "dns", "drivers", "firewall", "ipam", "kernel", "model", "serving", "stores")
OTHER_DIALECTS: Final = (
    "api/cni", "api/engine", "api/plugin", "core/engine", "core/lifecycle/runtime_attachments.py", "dns", "kernel/fake",
)  # fmt: skip
"""What answers in another form, without a code or with one of its specification, or is no part of the daemon."""
INTERNAL: Final[Mapping[str, str]] = {
    "invalid_key": "a damaged key is replaced by a new one",
    "key_taken": "the join takes the next key",
    "namespace_gone": "of a repair, which the drift reports",
}
"""Codes that no client sees, with the reason."""
POSITION: Final = {"Error": 3, "invalid": 2}
"""Where the code is among the arguments."""


def files() -> Iterator[Path]:
    """The files whose errors reach clients."""
    for path in modules():
        name = str(path.relative_to(PACKAGE))
        if name.split("/")[0] in ROOMS and not name.startswith(OTHER_DIALECTS):
            yield path


@cache
def constants() -> Mapping[str, str]:
    """The texts of constants, by name."""
    assigned = [node for path in modules() for node in nodes(path) if isinstance(node, ast.AnnAssign | ast.Assign)]
    found: dict[str, str] = {}
    for node in assigned:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found[target.id] = node.value.value
    return found


def text_of(node: ast.expr) -> str:
    """The text of a constant or of its name; empty: the node is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return constants().get(name, "")


def codes_of(call: ast.Call) -> Iterator[str]:
    """The error code in a call, if it makes an error."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    yield from (text_of(each.value) for each in call.keywords if each.arg == "code")
    if name in POSITION:
        yield from map(text_of, call.args[POSITION[name] : POSITION[name] + 1])
    if name == "not_found" and (what := text_of(call.args[0])):
        yield f"{what}_not_found"


def used() -> dict[str, str]:
    """Every code, with a file that uses it."""
    calls = ((path, node) for path in files() for node in nodes(path) if isinstance(node, ast.Call))
    return {code: label(path) for path, call in calls for code in codes_of(call) if code}


def documented() -> set[str]:
    """The codes in the first two columns of the tables by code."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    section = page.partition("\n### By code\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[:2] for line in section.splitlines() if line.startswith("| ")]
    return {code for cells in rows for cell in cells for code in re.findall(r"`(\w+)`", cell)}


def test_error_codes_of_the_api_are_documented() -> None:
    missing = {code: file for code, file in used().items() if code not in documented() | INTERNAL.keys()}
    assert not missing


def test_documented_error_codes_exist() -> None:
    written = {node.value for path in modules() for node in nodes(path) if isinstance(node, ast.Constant)}
    assert not {code for code in documented() - used().keys() if code not in written}


def test_codes_that_no_client_sees_exist() -> None:
    assert INTERNAL.keys() <= used().keys()
