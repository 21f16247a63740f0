"""Attachments of container runtimes that come at the same time."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.core.lifecycle.runtime_attachments import AttachSpec, RuntimeAttachment
from sandnet.errors import Error
from sandnet.model import EndpointSpec, JoinSpec, NetworkSpec
from tests.support.core_in_process import CoreInProcess

MANY = 40


def spec(number: int) -> AttachSpec:
    container = f"c{number}"
    join = JoinSpec(container_id=container, netns=f"/theirs/{number}", interface="eth0")
    return AttachSpec(NetworkSpec(name="web", driver="bridge"), (container,), EndpointSpec(name=container), join)


async def attached(core: CoreInProcess, number: int) -> RuntimeAttachment:
    return await core.controller.runtime_attachments.add(spec(number))


async def test_attachments_at_once_share_a_network_that_one_creates(core: CoreInProcess) -> None:
    for number in range(MANY):
        core.kernel.namespaces.add_foreign(f"/theirs/{number}")
    attachments = await asyncio.gather(*(attached(core, number) for number in range(MANY)))
    assert {each.network.name for each in attachments} == {"web"}
    assert len({each.network.id for each in attachments}) == 1
    assert len({each.endpoint.address for each in attachments}) == MANY


async def test_failed_attachment_leaves_its_network_to_the_others(core: CoreInProcess) -> None:
    """The first creates the network; its namespace does not exist."""
    for number in range(1, MANY):
        core.kernel.namespaces.add_foreign(f"/theirs/{number}")
    results = await asyncio.gather(*(attached(core, number) for number in range(MANY)), return_exceptions=True)
    assert [isinstance(each, Error) for each in results] == [True] + [False] * (MANY - 1)


async def test_failed_attachment_deletes_a_network_of_its_own(core: CoreInProcess) -> None:
    with pytest.raises(Error):
        await attached(core, 0)
    assert core.controller.networks.list(name="web") == []
