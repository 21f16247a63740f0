"""Rules and numbers that stand in one place: a second copy would have to change with the first, and would not."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.architecture.source import PACKAGE, imports, label, modules, nodes, tree

HEADER_NUMBER = re.compile(
    r"_?((?:RTM|RTA|RTAX|RTN|RTPROT|RT|RTEXT|IFA|IFLA|IFF|NDA|NTF|NUD|FRA|FR_ACT|TCA|NLM|NLA|NLMSG|NETLINK|NFNL|SOL|CTA|"
    r"CAP|PR|CLONE)_[A-Z0-9_]+|TUNSET[A-Z]+)"
)
"""Names of numbers in the kernel's headers."""
TWICE = {"PR_SET_PDEATHSIG", "CLONE_NEWNET", "CLONE_NEWNS"}
"""A command may not import the kernel room (``cli/execution/syscalls.py``)."""
RECORD_KEYS = re.compile(r"(claim|cursor|sysctl|fence|alive|holder|attached)/")
"""Prefixes of store keys. Those of networks, endpoints and sandboxes are names of locks, too."""
KEY_FILES = {
    "core/state/schema.py", "core/cluster/shared_values.py", "drivers/sysctls.py",
}  # fmt: skip
LINK_PREFIX = re.compile(r"sn[a-z]x?")
DRIVERS = {"bridge", "overlay", "macvlan", "null", "remote"}
KINDS = {"bridge", "veth", "vxlan", "macvlan", "ifb", "overlay", "null"}
"""Kinds of links, and names of drivers."""


def inside(path: Path) -> str:
    """Return the file's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def constants(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names and values of a module's constants, without the underscore of private ones."""
    for node in tree(path).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id.lstrip("_"), node.value
        elif isinstance(node, ast.Assign):
            names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            yield from ((name.lstrip("_"), node.value) for name in names)


@cache
def literals(path: Path) -> frozenset[str]:
    """Return the strings of a module, of f-strings what precedes the first expression; no docstrings."""
    parts = {id(part) for node in nodes(path) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    parts |= {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    strings = (node for node in nodes(path) if isinstance(node, ast.Constant) and id(node) not in parts)
    return frozenset(node.value for node in strings if isinstance(node.value, str))


def places(found: Iterator[tuple[str, str]]) -> dict[str, set[str]]:
    """Return what stands in more than one file."""
    by_key: dict[str, set[str]] = defaultdict(set)
    for key, where in found:
        by_key[key].add(where)
    return {key: files for key, files in by_key.items() if len(files) > 1}


def test_number_of_a_kernel_header_is_defined_once() -> None:
    found = ((name, inside(path)) for path in modules() for name, _ in constants(path) if HEADER_NUMBER.fullmatch(name))
    assert {name: files for name, files in places(found).items() if name not in TWICE} == {}


def test_layout_of_a_kernel_message_is_defined_once() -> None:
    calls = (
        (node, path)
        for path in modules()
        if path.is_relative_to(PACKAGE / "kernel")
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "struct.Struct"
    )
    formats = ((ast.unparse(call.args[0]), inside(path)) for call, path in calls)
    assert {text: files for text, files in places(formats).items() if len(text) > len("'=HH'")} == {}


def test_prefix_of_a_store_key_is_written_in_one_place() -> None:
    found = [(text.partition("/")[0], inside(path)) for path in modules() for text in literals(path)
             if RECORD_KEYS.match(text)]  # fmt: skip
    assert {file for _, file in found} <= KEY_FILES
    assert places(iter(found)) == {}


def test_path_of_resolv_conf_is_written_in_one_place() -> None:
    named = {inside(path) for path in modules() for name, value in constants(path)
             if isinstance(value, ast.Constant) and value.value == "/etc/resolv.conf"}  # fmt: skip
    assert named == {"model/resolv_conf.py"}


def test_prefix_of_a_link_name_is_written_in_one_place() -> None:
    named = {inside(path) for path in modules() if any(LINK_PREFIX.fullmatch(text) for text in literals(path))}
    assert named == {"model/link_names.py"}


def test_core_knows_no_kind_of_network() -> None:
    core = [path for path in modules() if path.is_relative_to(PACKAGE / "core")]
    drivers = {f"sandnet.drivers.{name}" for name in DRIVERS}
    imported = {name for path in core for name in imports(path)}
    assert not {name for name in imported if drivers & {name, name.rpartition(".")[0]}}
    assert not {label(path): named for path in core if (named := KINDS & literals(path))}
