"""What a command loads, which is what its start costs; wall time is the benchmark's business."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

HEAVY = {
    "litestar",
    "pyroute2",
    "uvicorn",
    "uvloop",
    "asyncio",
    "sqlite3",
    "ctypes",
    "email",
    "http.client",
    "importlib.metadata",
    "ssl",
    "sandnet.api",
    "sandnet.core",
    "sandnet.kernel",
    "sandnet.model",
    "sandnet.stores",
}
PROBE = """
import sys
from sandnet.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def loaded(*words: str) -> set[str]:
    """The modules that a command line has loaded when it ends."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # loads more
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, timeout=30, env=env)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_listing_loads_neither_daemon_nor_its_libraries(stub: Stub) -> None:
    stub.answer("GET", "/networks?verbose=true", [])
    modules = loaded("-H", stub.url, "network", "ls")
    assert not modules & HEAVY
    assert {module for module in modules if module.startswith("sandnet.cli.")} <= {
        f"sandnet.cli.{name}"
        for name in (
            "commands",
            "commands.network",
            "completers",
            "groups",
            "lazy_group",
            "listing",
            "network_flags",
            "output",
            "parameters",
            "rates",
            "root",
            "session",
        )
    }


def test_help_loads_neither_http_nor_commands() -> None:
    modules = loaded("--help")
    assert not modules & {*HEAVY, "msgspec", "sandnet.client", "sandnet.cli.commands.network"}


def test_run_help_loads_no_kernel_module() -> None:
    assert not loaded("run", "--help") & HEAVY


@pytest.mark.parametrize(
    ("words", "status"), [((), 2), (("nonsense",), 2), (("network", "ls"), 1), (("network", "ls", "--help"), 0)]
)
def test_exit_status_is_right_without_a_traceback(tmp_path: Path, words: tuple[str, ...], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sandnet.cli import main; main()", "-H", f"unix://{tmp_path}/absent", *words],
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
