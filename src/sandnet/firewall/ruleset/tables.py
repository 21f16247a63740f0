"""Statements about whole tables: their deletion, and the removal of what another program or release added to one.

A table is changed in place, not deleted and made in one transaction. While the kernel carries out such a transaction
(20 to 200 µs), rules of the deleted table still see packets, but its maps and its sets of ranges are already empty.
Frames between two sandboxes were dropped there, and new flows were not translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sandnet.kernel.types import TableStructure

_STATEMENT: Final = re.compile(
    r"^(?:table (?P<begun>\w+ \w+) \{|(?P<ended>\})$"
    r"|(?:add )? *(?P<kind>chain|set|map) (?:(?P<table>\w+ \w+) )?(?P<name>\w+)(?: |$))",
    re.MULTILINE,
)


def no_table(table: str) -> str:
    """Return the script that deletes a table, whether it exists or not."""
    return f"add table {table}\ndelete table {table}\n"


def in_place(table: str, declarations: str, chains: str, replaced: str = "") -> str:
    """Return the script that puts a table in place, whether it exists or not; its elements and rules are replaced.

    The kernel refuses it if a set or a chain of that name exists with another type.

    Args:
        table: its family and name.
        declarations: its sets and maps, as the body of a ``table`` block.
        chains: its chains in the same form, one statement on each line.
        replaced: more maps, which are deleted and made again: libnftables cannot use their declarations as it reads
            them from the kernel.
    """
    headers = "".join(f"{line}\n" for line in chains.splitlines() if _belongs_to_header(line))
    body = f"{declarations}{replaced}{headers}"
    flushed: dict[str, list[str]] = {"chain": [], "map": [], "set": []}
    for kind, name in _declared(table, f"table {table} {{\n{body}"):
        flushed[kind].append(name)
    again = [name for _, name in _declared(table, f"table {table} {{\n{replaced}")]
    flushed["map"] = [name for name in flushed["map"] if name not in again]
    # chains first: a verdict map is not empty as long as a rule uses it
    statements = "".join(f"flush {kind} {table} {name}\n" for kind, names in flushed.items() for name in names)
    if again:
        statements += "".join(f"delete map {table} {name}\n" for name in again)
        statements += f"table {table} {{\n{replaced}}}\n"
    return f"table {table} {{\n{body}}}\n{statements}table {table} {{\n{chains}}}\n"


def removals(table: str, present: TableStructure, script: str) -> str:
    """Return the statements that remove the chains, sets and maps that a table has and a script does not declare.

    They follow the script, in the same transaction. The script empties what it declares, so nothing refers to them.
    """
    declared = set(_declared(table, script))
    found = {"chain": present.chains, "map": present.maps, "set": present.sets}
    extra = [(kind, name) for kind, names in found.items() for name in sorted(names) if (kind, name) not in declared]
    flushed = [f"flush chain {table} {name}" for kind, name in extra if kind == "chain"]
    return "".join(f"{each}\n" for each in (*flushed, *(f"delete {kind} {table} {name}" for kind, name in extra)))


def _belongs_to_header(line: str) -> bool:
    words = line.split()
    return words[:1] in (["chain"], ["}"]) or (words[:1] == ["type"] and "hook" in words)


def _declared(table: str, script: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each chain, set and map of a table that a script declares."""
    block = ""
    for found in _STATEMENT.finditer(script):
        if found["kind"] is None:
            block = found["begun"] or ""
        elif table == (found["table"] or block):
            yield found["kind"], found["name"]
