"""The program's source as the house tests see it: files, rooms, syntax trees.

A file is read and parsed once in each process, whatever the number of the rules.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "sandnet"


@cache
def modules() -> tuple[Path, ...]:
    """Every Python file of the program."""
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def label(path: Path) -> str:
    """A short name for test output."""
    return str(path.relative_to(REPOSITORY))


def for_each(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a rule for files: it checks all of them, and its failure names each that breaks the rule."""
    files = tuple(paths)
    assert files, "a rule for no file"

    def over_all(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = [f"{label(path)}: {why}" for path in files if (why := _broken(rule, path))]
            if broken:
                pytest.fail("\n".join(broken), pytrace=False)

        test.__name__, test.__qualname__, test.__module__ = rule.__name__, rule.__qualname__, rule.__module__
        test.__doc__ = rule.__doc__
        return test

    return over_all


def _broken(rule: Callable[[Path], None], path: Path) -> str:
    """Return how a file breaks a rule; empty if it does not."""
    try:
        rule(path)
    except AssertionError as error:
        return str(error) or "refused"
    return ""


@cache
def text(path: Path) -> str:
    """What is written in the file."""
    return path.read_text()


@cache
def dotted(path: Path) -> str:
    """The module's import name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room a module of the program lives in: ``sandnet.kernel.linux.kernel`` is in ``kernel``."""
    return module.split(".")[1] if "." in module else ""


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(text(path), path.name)


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of the file's tree."""
    return tuple(ast.walk(tree(path)))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, at any depth and for types too.

    ``from sandnet.a import b`` counts as ``sandnet.a.b``, whether ``b`` is a module or a name in it.
    """
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)
