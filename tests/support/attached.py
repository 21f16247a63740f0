"""What can be attached to a network, as README.md lists it, and what of it the tests prove.

A test that attaches something real has the marker ``attaches`` with the names of the proofs that it gives.
``python -m tests.support.attached`` (``make fmt``) writes the table into README.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

REPOSITORY: Final = Path(__file__).parents[2]
README: Final = REPOSITORY / "README.md"
BEGIN: Final = "<!-- attached: from tests/support/attached.py; make fmt writes it -->\n"
END: Final = "<!-- attached: end -->\n"
MARKER: Final = "attaches"


class Row(NamedTuple):
    """A row of the table."""

    what: str
    how: str
    page: str
    """The link to it."""
    proofs: tuple[str, ...]
    """Names of what tests must show for it: each thing that the row names is one."""


ROWS: Final = (
    Row("a command of the host", "`sandnet run`", "[getting started](docs/start.md)", ("command",)),
    Row(
        "a container of runc or crun",
        "`sandnet oci-hook`, by annotations; or a namespace path",
        "[runtimes](docs/runtimes.md)",
        ("runc by its hook", "crun by its hook", "runc by a path"),
    ),
    Row(
        "a container of Docker",
        "`docker run --network`, by the network plugin",
        "[Docker](docs/docker.md)",
        ("docker",),
    ),
    Row(
        "a container of containerd or Podman",
        "the CNI plugin `sandnet-cni`",
        "[CNI](docs/cni.md)",
        ("containerd", "podman"),
    ),
    Row(
        "a container of Podman 5",
        "the netavark plugin `sandnet-netavark`; the tests call netavark as Podman does",
        "[netavark](docs/netavark.md)",
        ("netavark",),
    ),
    Row(
        "a container of Docker or runc that runs already",
        "its id",
        "[runtimes](docs/runtimes.md#a-container-that-runs-already)",
        ("docker that runs", "runc that runs"),
    ),
    Row(
        "systemd-nspawn",
        "`--network-namespace-path`",
        "[runtimes](docs/runtimes.md#systemd-nspawn)",
        ("systemd-nspawn",),
    ),
    Row("bubblewrap", "inside of a sandbox", "[runtimes](docs/runtimes.md#bubblewrap)", ("bubblewrap",)),
    Row("a namespace of `ip netns`", "its path", "[runtimes](docs/runtimes.md#ip-netns)", ("ip netns",)),
    Row(
        "any process, as of `unshare`",
        "its process id",
        "[runtimes](docs/runtimes.md#unshare-and-any-process)",
        ("unshare",),
    ),
    Row(
        "a virtual machine of QEMU",
        "`--type tap`; Firecracker and Cloud Hypervisor by their documentation",
        "[microVMs](docs/microvms.md)",
        ("qemu",),
    ),
    Row(
        "programs of a Python program or a test of pytest",
        "`sandnet.connect()`, fixtures",
        "[Python](docs/python.md)",
        ("python", "pytest"),
    ),
)


def table() -> str:
    """Return the table for README.md."""
    lines = ["| what | how | page |", "|---|---|---|", *(f"| {row.what} | {row.how} | {row.page} |" for row in ROWS)]
    return "\n".join(lines) + "\n"


def written() -> str:
    """Return the table that README.md has."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0]


def given_by(source: str) -> Iterator[tuple[str, str]]:
    """Yield the proofs that the tests of a file give, each with the test or the constant that has the marker."""
    for statement in ast.parse(source).body:
        name = statement.name if isinstance(statement, ast.FunctionDef | ast.ClassDef) else ast.unparse(statement)[:40]
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == MARKER:
                yield from ((str(ast.literal_eval(proof)), name) for proof in node.args)


def write() -> None:
    """Write the table into README.md."""
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    write()
