"""How much several hosts make each other do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandnet.core.cluster.view import ClusterView
from sandnet.core.replication.endpoint_replicas import EndpointReplicas
from sandnet.model import Endpoint
from tests.support.hosts_in_process import several_hosts

WALKS = 3
"""At the start of a daemon: for what all hosts have, for its own, and when it has joined."""


async def test_start_walks_over_the_endpoints_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[str] = []
    endpoint_ids = ClusterView.endpoint_ids

    def counted(self: ClusterView, network_id: str | None = None) -> list[str]:
        walks.extend([] if network_id else ["all"])
        return endpoint_ids(self, network_id)

    async with several_hosts(tmp_path, 6) as hosts:
        await hosts[0].network()
        await hosts[0].stop()
        with monkeypatch.context() as patch:
            patch.setattr(ClusterView, "endpoint_ids", counted)
            await hosts[0].start()
            await hosts[0].in_line()
        assert 0 < len(walks) <= WALKS


async def test_new_host_looks_at_endpoints_once_their_network_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[EndpointReplicas] = []
    sync = EndpointReplicas.sync

    async def counted(self: EndpointReplicas, endpoint_id: str) -> Endpoint | None:
        looks.append(self)
        return await sync(self, endpoint_id)

    async with several_hosts(tmp_path, 2) as hosts:
        await hosts[1].stop()
        await hosts[0].network()
        for number in range(40):
            await hosts[0].endpoint(f"e{number}")
        await hosts[0].in_line()
        with monkeypatch.context() as patch:
            patch.setattr(EndpointReplicas, "sync", counted)
            await hosts[1].start()
            await hosts[1].in_line()
        assert len(hosts[1].names()) == 40
        assert len(looks) == 40
