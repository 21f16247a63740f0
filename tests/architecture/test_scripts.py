"""The shell scripts, checked by shellcheck where it is installed; and what runs before a commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

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


def test_hooks_of_a_commit_run_the_checks_of_ci() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    targets = dict(re.findall(r"^(\w+):([^\n]*\n(?:\t[^\n]*\n)*)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"make check", "make unit", "make docs"} <= hooks
    assert {"make test", "make docs"} <= set((REPOSITORY / ".ci" / "run").read_text().splitlines())
    assert [word for word in (" lint ", "tests/architecture") if word not in targets["check"]] == []
    assert [
        word
        for word in (" lint", " coverage", "-m $(PYTEST) -n $(TEST_WORKERS) $(NOT_COVERED)\n")
        if word not in targets["test"]
    ] == []
