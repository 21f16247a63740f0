"""The shape of the program: files and functions that can be read in a sitting."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from statistics import median

from tests.architecture.source import PACKAGE, REPOSITORY, for_each, imports, label, modules, nodes, text, tree

LONGEST_FILE = 400
LONGEST_PROTOCOL_FILE = 500
"""A file of protocols or records is read by looking something up: splitting one is worse than its length."""
PROTOCOL_FILES = {"base.py", "types.py", "observation.py"}
MODULES_IN_A_FOLDER = 16
LONGEST_TEST_NAME = 60
SAME_NAME = {
    "base.py": "what a room asks of its implementations",
    "errors.py": "kinds of failure, and their HTTP answers",
    "events.py network.py endpoint.py sandbox.py daemon.py lab.py": "a command has the name of what it commands",
    "client.py": "HTTP client of the daemon; the daemon's client of the resolver",
    "resolver.py": "the process, and its server",
    "decode.py encode.py": "each dialect has its own requests and answers",
    "parameters.py": "of HTTP requests, and of commands",
    "bandwidth.py interface_options.py": "a record, and its message on the wire",
    "syscalls.py": "a command may not import the kernel room",
    "kernel.py links.py namespaces.py host.py processes.py state_reader.py sandbox_pool.py": "real and in memory",
    "driver.py": "of networks on one host, and over several",
    "diff.py": "of the packet filter, and of a bridge",
}
LONGEST_FUNCTION = 60
FEWEST_CONTEXT_PARTS = 6
"""A module that uses fewer parts of the core's context takes those, not the context."""
MOST_CONTEXT_TAKERS = 13
"""How many modules import the core's context, the composition root included. The number may only fall."""
MEDIAN_FUNCTION = 12
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

SAME_CLASS = {
    "Sandbox Drift Probe PortMapping DriverHealth Endpoint Network ParentUpdate ExposedPort Health Explanation "
    "BoundPort Event Bandwidth DirectPort StaticRoute": "a record, and its message on the wire",
    "HeldPort": "a protocol, and its implementation",
}

every_module = for_each(modules())
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in nodes(path) if isinstance(node, Function)]


def lines(function: Function) -> int:
    """Lines from ``def`` to the end, the docstring left out: it is there to be long when it must."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


@every_module
def test_modules_have_a_docstring_stating_their_purpose(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@every_module
def test_modules_are_within_the_length_limit(path: Path) -> None:
    longest = LONGEST_PROTOCOL_FILE if path.name in PROTOCOL_FILES else LONGEST_FILE
    assert len(text(path).splitlines()) <= longest


def module_of(test: Path) -> Path:
    """Return the module that a unit test is named after; ``sandnet.cni`` is tested by ``cni/test_cni.py``."""
    folder = test.parent.relative_to(REPOSITORY / "tests" / "unit")
    name = test.stem.removeprefix("test_")
    root = REPOSITORY if folder.parts[:1] == ("bench",) else PACKAGE
    return root / folder / ("__init__.py" if name == folder.name else f"{name}.py")


def test_unit_tests_mirror_the_package() -> None:
    files = [path for path in (REPOSITORY / "tests" / "unit").rglob("test_*.py") if path.parent.name != "scenarios"]
    assert not [label(path) for path in files if not module_of(path).is_file()]


def test_names_of_tests_are_short() -> None:
    files = (REPOSITORY / "tests").rglob("test_*.py")
    names = {name for file in files for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.M)}
    assert not {name for name in names if len(name) > LONGEST_TEST_NAME}


def test_folder_has_few_enough_modules() -> None:
    folders = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert not {label(folder): count for folder, count in folders.items() if count > MODULES_IN_A_FOLDER}


def test_modules_of_one_name_are_the_same_thing() -> None:
    names = Counter(path.name for path in modules() if path.name != "__init__.py")
    allowed = {name for group in SAME_NAME for name in group.split()}
    twice = {name for name, count in names.items() if count > 1}
    assert twice == allowed


def test_classes_of_one_name_are_the_same_thing() -> None:
    classes = (node for path in modules() for node in tree(path).body if isinstance(node, ast.ClassDef))
    names = Counter(node.name for node in classes if not node.name.startswith("_"))
    assert {name for name, count in names.items() if count > 1} == {n for group in SAME_CLASS for n in group.split()}


@every_module
def test_functions_are_within_the_length_limit(path: Path) -> None:
    long = {function.name: lines(function) for function in functions(path) if lines(function) > LONGEST_FUNCTION}
    assert not long


@every_module
def test_modules_have_no_todo_left(path: Path) -> None:
    assert not UNFINISHED.search(text(path))


def test_most_functions_are_short() -> None:
    assert median(lines(function) for path in modules() for function in functions(path)) <= MEDIAN_FUNCTION


def context_parts(path: Path) -> set[str]:
    """The parts of the shared context that a module reads."""
    owners = (node for node in nodes(path) if isinstance(node, ast.Attribute))
    return {node.attr for node in owners if ast.unparse(node.value) in ("context", "self._context")}


def takes_context(path: Path) -> bool:
    """Return whether a module imports the core's context."""
    return "sandnet.core.runtime.context.Context" in imports(path)


@every_module
def test_context_is_taken_whole_only_for_many_parts(path: Path) -> None:
    if takes_context(path) and path.name != "composition.py":
        assert len(context_parts(path)) >= FEWEST_CONTEXT_PARTS


def test_context_is_taken_whole_by_no_more_modules_than_today() -> None:
    assert len([path for path in modules() if takes_context(path)]) <= MOST_CONTEXT_TAKERS
