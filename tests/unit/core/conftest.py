"""A started daemon over the in-memory store and kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.config import Config
from tests.support.core_in_process import CoreInProcess


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[CoreInProcess]:
    """A started daemon."""
    core = CoreInProcess(
        Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"), file_dirs=(str(tmp_path / "allowed"),))
    )
    await core.start()
    yield core
    await core.controller.stop()
    core.workers.close()
