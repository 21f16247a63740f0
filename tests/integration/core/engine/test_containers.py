"""An engine whose API does not answer, while its containers are attached."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from sandnet.config import Config
from tests.support.core_in_process import CoreInProcess
from tests.support.plugin_engine import PluginEngine

CONTAINERS = 12
"""More than the daemon has threads for the kernel."""
PATIENCE = 60.0
"""Seconds that the daemon waits for an answer of the API here, so that joins have time on a busy machine."""


async def test_silent_engine_api_delays_no_other_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandnet.core.engine.engine_api.TIMEOUT", PATIENCE)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "engine.sock"))
        silent.listen(CONTAINERS)
        state, run = str(tmp_path / "state"), str(tmp_path / "run")
        core = CoreInProcess(
            Config(state_dir=state, run_dir=run, dns=False, engine_socket=str(tmp_path / "engine.sock"))
        )
        await core.start()
        engine = PluginEngine(core.controller)
        network, pool = await engine.network()
        async with asyncio.timeout(PATIENCE / 2):  # less than one question to the API takes
            for number in range(CONTAINERS):
                key = f"/var/run/docker/netns/{number:012x}"
                endpoint, _ = await engine.endpoint(network, pool)
                await engine.join(network, endpoint, key)
                core.kernel.namespaces.make(key)
        await core.controller.stop()
        core.workers.close()
