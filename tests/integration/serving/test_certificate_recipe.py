"""The commands that docs/operations.md gives for certificates."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.mark.parametrize(("name", "purpose"), [("server", "sslserver"), ("client", "sslclient")])
def test_documented_commands_make_strictly_valid_certificates(name: str, purpose: str, tmp_path: Path) -> None:
    """Python 3.13 and later verify as strictly by default."""
    (recipe,) = (
        each for each in re.findall(r"```sh\n(.*?)```", OPERATIONS.read_text(), re.DOTALL) if "openssl" in each
    )
    subprocess.run(["sh", "-eu", "-c", recipe], cwd=tmp_path, capture_output=True, check=True)
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", f"{name}.pem"]
    verified = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
