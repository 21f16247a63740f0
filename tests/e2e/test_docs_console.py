"""The console blocks of the README and of each page of docs/, pasted as a whole into a shell of a host with nothing on
it: they print what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import console_blocks
from tests.support.console_blocks import Block, Command, blocks, commands, fits
from tests.support.daemon import SANDNET
from tests.support.network_host import Host
from tests.support.privileges import RUNTIMES_NEED, TAPS_NEED

REPOSITORY = Path(__file__).parents[2]
PAGES = [page for page in [*REPOSITORY.glob("*.md"), *sorted(REPOSITORY.glob("docs/*.md"))]
         if "```console" in page.read_text()]  # fmt: skip
NOT_RUN = {
    "add-a-driver.md": 1,
    "README.md": 1,
    "CONTRIBUTING.md": 3,
    "benchmarks.md": 1,
    "cni.md": 3,
    "demo.md": 2,
    "docker.md": 2,
    "drivers.md": 3,
    "install.md": 6,
    "netavark.md": 2,
    "operations.md": 5,
    "overlay.md": 1,
    "reliability.md": 1,
    "remote-drivers.md": 1,
    "runtimes.md": 1,
    "start.md": 1,
}
"""By page: how many of its blocks are not run. The page reports why."""

NEEDS = {"runtimes.md": RUNTIMES_NEED, "microvms.md": TAPS_NEED}
"""By page: why its blocks, which start containers or make taps, cannot run here; empty: they can."""
SHOWN = {"runtimes.md": pytest.mark.attaches("runc by a path", "systemd-nspawn", "bubblewrap", "ip netns", "unshare")}
"""By page: what its blocks attach."""


def blocks_of(page: Path) -> list[Block]:
    return list(blocks(page.read_text()))


@pytest.mark.timeout(400)  # one page waits for the daemon's next comparison, which comes each minute
@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=SHOWN.get(page.name, ())) for page in PAGES])
def test_console_blocks_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    script = [command for block in blocks_of(page) if not block.reason for command in block.commands]
    if not script:
        return
    if reason := NEEDS.get(page.name):
        pytest.skip(reason)
    (tmp_path / "directory").mkdir()
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    with Host() as host:
        host.sh("mount", "--bind", str(tmp_path / "resolv.conf"), "/etc/resolv.conf")
        script.append(Command("sandnet down", None))
        mistakes = console_blocks.mistakes(host, script, tmp_path, str(SANDNET.parent))
        assert not mistakes, "\n\n".join(["", *mistakes])
        assert not re.search(r": sn[bv][0-9a-f]{10}", host.sh("ip", "-o", "link"))


def test_count_of_console_blocks_not_run_is_as_recorded() -> None:
    counts = {page.name: sum(bool(block.reason) for block in blocks_of(page)) for page in PAGES}
    assert {name: count for name, count in counts.items() if count} == NOT_RUN


def test_console_block_is_parsed_into_commands_and_output() -> None:
    block = "# one \\\n  two\nout\n$ curl -d '{\n  }' # it's\n# three\n…\n"
    assert list(commands(block)) == [
        Command("one \\\n  two", "out\n"), Command("curl -d '{\n  }' # it's", ""), Command("three", "…\n"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("…\nb\n", "a\na\nb\n", True),
        ("…\nb\n", "b\n", True),
        ("…\nb\n", "a\nb\nc\n", False),
        ("", "a\n", False),
        ("a\n", "", False),
        ("a … d\n", "a b c d\n", True),
        ("a … d\n", "a b\nc d\n", False),
        ('{"id":"20a2fa1d1227…"}\n', f'{{"id":"{"7" * 64}"}}\n', True),
        ("172.16.1.2\n", "172.16.1.3\n", False),
        ("A   B\n", "A       B\n", True),
        ('[{"a":1},\n {"b":2}]\n', '[{"a":1},{"b":2}]\n', True),
        ("2026-11-23 14:36:05+00:00  a\n", "2027-01-02 03:04:05+00:00  a\n", True),
        ("(web-1, pid 4711)\n", "(web-1, pid 12)\n", True),
    ],
)
def test_shown_output_matches_only_equivalent_output(shown: str, printed: str, same: bool) -> None:
    assert fits(shown, printed) is same
