"""The figures as a table on the terminal, as ``docs/benchmarks.md`` and as JSON. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from bench.figures import Figure, Section

INTRODUCTION = """\
# Benchmarks

For people who want to know how fast sandnet is, and how it compares with other programs. After this page you know the
cost of each operation, of services and of a restart, and which targets are met. [Where the time goes](speed.md)
explains the targets that are not.

`make bench` writes this page; every full run writes it again. It needs nothing that `make install` does not need. Where
they are installed it also measures Docker Engine, netavark and the CNI plugins, and uses iperf3 and dnsperf:

<!-- console: not run: installs packages -->
```console
$ sudo apt-get install --no-install-recommends $(grep -v "^#" scripts/debian-packages-bench.txt)
```

`.venv/bin/python -m bench --help` lists the options: `--quick` uses small counts, `--only` runs one part.

How it is measured:

- Everything runs in separate network and mount namespaces. The daemon, each peer and the kernel's floor have one host
  namespace each.
- Times are what a client sees: one Python process, `http.client`, one connection that stays open. The client's share is
  in every figure; the line "a request that only reads" shows how much that is.
- The *floor* is the least work that the kernel can do for an attach: a namespace, a veth pair with one end created
  inside it and the other on a bridge, loopback up, an address, both ends up without automatic IPv6 addresses, a default
  route. It uses raw netlink, no daemon and no files.
- Figures that are compared were measured alternately in the same run, so both saw the same machine. Trust the ratios;
  the milliseconds belong to the machine below.
- Figures are medians, with the 99th percentile where there are enough samples. `n` is the number of samples.
- The daemon's memory is the daemon's alone. The resolver is a separate process; its memory is under "Names".
- The state directory is on the file system named below, and every commit of the daemon is synchronous.
"""


def value_text(figure: Figure) -> str:
    """Return the figure with its unit, with as many digits as it is worth."""
    digits = 0 if figure.value >= 100 else 1 if figure.value >= 10 else 2
    return f"{figure.value:.{digits}f} {figure.unit}"


def target_text(figure: Figure) -> str:
    """Return the promise, or nothing."""
    if figure.target is None:
        return ""
    sign = "≤" if figure.target.sense == "at most" else "≥"
    return f"{sign} {round(figure.target.bound, 3):g} {figure.unit}"


def row(figure: Figure) -> tuple[str, ...]:
    """Return the cells of a line: what, figure, detail, target, verdict."""
    return figure.what, value_text(figure), figure.detail, target_text(figure), figure.verdict


def terminal(section: Section) -> str:
    """Return a section as aligned columns."""
    rows = [row(figure) for figure in section.figures]
    widths = [max(len(cells[column]) for cells in rows) for column in range(5)] if rows else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows]
    return "\n".join(
        [f"\n{section.title}", *(f"  {line.rstrip()}" for line in lines), *(f"  ({n})" for n in section.notes)]
    )


def markdown(sections: Iterable[Section], machine: Mapping[str, str]) -> str:
    """Return the whole page."""
    described = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    parts = [INTRODUCTION, f"## The machine\n\n| | |\n|---|---|\n{described}\n", *map(_markdown_section, sections)]
    return "\n".join(parts)


def _markdown_section(section: Section) -> str:
    lines = [f"## {section.title}", ""]
    if section.figures:
        lines += ["| what | figure | | target | verdict |", "|---|--:|---|--:|---|"]
        lines += ["| " + " | ".join(row(figure)) + " |" for figure in section.figures] + [""]
    for note in section.notes:
        lines += [note, ""]
    return "\n".join(lines)


def as_json(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """Everything, for a program to compare runs with."""
    listed = [
        {
            "title": section.title,
            "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in section.figures],
            "notes": section.notes,
        }
        for section in sections
    ]
    return json.dumps({"machine": machine, "sections": listed}, indent=2, ensure_ascii=False) + "\n"
