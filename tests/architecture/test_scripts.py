"""The shell scripts: checked by shellcheck where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.source import REPOSITORY, for_each

SCRIPTS = [
    file
    for folder in ("scripts", ".ci")
    for file in sorted((REPOSITORY / folder).iterdir())
    if file.is_file() and file.read_bytes().startswith(b"#!")
]


@for_each(SCRIPTS)
def test_scripts_are_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_accepts_the_shell_scripts() -> None:
    scripts = [str(file) for file in SCRIPTS if b"bash" in file.read_bytes()[:30]]
    ended = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
