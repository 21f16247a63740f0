"""Usage: ``python -m bench [--quick] [--only PART] [--json FILE]``, as root or in a user namespace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench import (
    attach,
    cold_start,
    command,
    crowd,
    deaths,
    encryption,
    hops,
    hosts,
    large,
    machine,
    names,
    report,
    restart,
    scale,
    services,
    taps,
    throughput,
    watching,
)
from bench.figures import Section
from bench.peers import cni, cni_plugin, docker, docker_run, netavark
from bench.timing import QUICK, Counts

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PRIVATE = "SANDNET_PRIVATE_HOST"
"""Set by ``scripts/private-host``."""

PARTS: dict[str, Callable[[Counts], Section]] = {  # the last ones last: the kernel is busy for a while after them
    "attach": attach.measure,
    "taps": taps.measure,
    "crowd": crowd.measure,
    "command": command.measure,
    "hops": hops.measure,
    "throughput": throughput.measure,
    "hosts": hosts.measure,
    "encryption": encryption.measure,
    "cold-start": cold_start.measure,
    "names": names.measure,
    "services": services.measure,
    "docker": docker.measure,
    "docker-run": docker_run.measure,
    "netavark": netavark.measure,
    "cni": cni.measure,
    "cni-plugin": cni_plugin.measure,
    "watching": watching.measure,
    "scale": scale.measure,
    "restart": restart.measure,
    "deaths": deaths.measure,
    "large": large.measure,
}


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure sandnet and the peers beside it.")
    parser.add_argument("--quick", action="store_true", help="small counts: does everything work?")
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def into_a_private_host() -> None:
    """Start again in namespaces of our own, unless that has been done."""
    if PRIVATE not in os.environ:
        wrapper = str(REPOSITORY / "scripts" / "private-host")
        os.execv(wrapper, [wrapper, sys.executable, "-m", "bench", *sys.argv[1:]])  # noqa: S606 - without a shell


def main() -> int:
    """Measure, print, write; a full run of everything also writes docs/benchmarks.md."""
    asked = options()
    into_a_private_host()
    on = machine.described(Path("/var/tmp"))  # noqa: S108 - where the state directories are made
    sections = []
    for name in asked.only or PARTS:
        section = PARTS[name](QUICK if asked.quick else Counts())
        print(report.terminal(section), flush=True)
        sections.append(section)
    if asked.json:
        asked.json.write_text(report.as_json(sections, on))
    if not asked.quick and not asked.only:
        PAGE.write_text(report.markdown(sections, on))
    return 0


if __name__ == "__main__":
    sys.exit(main())
