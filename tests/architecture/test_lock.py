"""The lock file of the released wheel: every dependency, in one version that fits, with hashes."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.source import REPOSITORY

ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
LOCK = (REPOSITORY / "requirements.lock").read_text()
LOCKED = {canonicalize_name(found[1]): found for found in ENTRY.finditer(LOCK.replace("\n    ", " "))}


def test_every_dependency_has_a_fitting_version_in_the_lock() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for need in map(Requirement, project["dependencies"]):
        locked = LOCKED[canonicalize_name(need.name)]
        assert need.specifier.contains(locked[2]), f"{need}: {locked[2]} is locked; run: make lock"


def test_locked_packages_have_hashes_and_name_no_registry() -> None:
    assert LOCKED
    assert all("--hash=sha256:" in found[3] for found in LOCKED.values())
    assert "://" not in LOCK
