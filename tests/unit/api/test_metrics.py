"""``GET /metrics``, read by the parser of Prometheus' own library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.in_process import Served, make, served


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as running:
        yield running


async def samples(daemon: Served) -> dict[str, float]:
    answer = await daemon.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        " ".join((each.name, *each.labels.values())): each.value
        for family in text_string_to_metric_families(answer.text)
        for each in family.samples
    }


async def test_metrics_count_the_objects(daemon: Served) -> None:
    before = await samples(daemon)
    network = await make(daemon.client, "/networks", name="foo")
    await make(daemon.client, f"/networks/{network}/endpoints", name="web")
    after = await samples(daemon)
    changed = {name: after[name] - before[name] for name in after if name.startswith("sandnet_")}
    assert {name: by for name, by in changed.items() if by} == {"sandnet_networks bridge": 1, "sandnet_endpoints": 1}


async def test_metrics_show_health_drivers_pool_and_process(daemon: Served) -> None:
    found = await samples(daemon)
    assert found["sandnet_healthy"] == 1
    assert found["sandnet_problems"] == 0
    assert found["sandnet_driver_available bridge"] == 1
    assert found["process_resident_memory_bytes"] > 1 << 20
    pool = {name.removeprefix("sandnet_prepared_sandboxes_") for name in found if "prepared" in name}
    assert {"ready", "target", "limit", "handed_out_total", "misses_total", "restarts_total"} <= pool


async def test_metrics_of_a_degraded_daemon_say_so(daemon: Served) -> None:
    daemon.controller.add_health_check(lambda: "something is wrong")
    found = await samples(daemon)
    assert (found["sandnet_healthy"], found["sandnet_problems"]) == (0, 1)
