"""The figures that README.md shows: those of the page that `make bench` writes."""

from __future__ import annotations

import re

import pytest

from tests.architecture.source import REPOSITORY

SOURCES = {
    "attach a container": (
        "connect, sandnet", "connect, Docker", "attach, netavark", "attach, CNI bridge and portmap",
    ),
    "detach it": ("disconnect, sandnet", "disconnect, Docker", "detach, netavark", "detach, CNI bridge and portmap"),
    "create a network": ("network create, sandnet", "network create, Docker"),
    "delete it": ("network delete, sandnet", "network delete, Docker"),
    "names answered in a second": ("local names, sandnet", "local names, Docker"),
}  # fmt: skip
"""By row of the table in README.md: the rows of docs/benchmarks.md, which may go on with a version."""
ROW = re.compile(r"^\| ([^|]+?) \| ([\d.]+) (?:ms|questions/s) \|", re.MULTILINE)
NOISE = 1.5
"""By how much a run may differ from the one before: figures are rounded, and machines are busy."""


def shown() -> dict[str, list[float]]:
    """The figures of README.md, by row."""
    text = (REPOSITORY / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {
        name: [float(cell.removesuffix(" ms").replace(",", "")) for cell in cells if cell]
        for name, *cells in rows
        if name in SOURCES
    }


def measured(name: str) -> float:
    """The figure of docs/benchmarks.md whose row begins so."""
    rows = ROW.findall((REPOSITORY / "docs" / "benchmarks.md").read_text())
    return next(float(figure) for row, figure in rows if row.startswith(name))


@pytest.mark.parametrize("row", SOURCES)
def test_readme_figures_match_the_benchmarks(row: str) -> None:
    figures, wanted = shown()[row], [measured(source) for source in SOURCES[row]]
    assert len(figures) == len(wanted)
    assert all(here / NOISE <= there <= here * NOISE for here, there in zip(figures, wanted, strict=True)), wanted
