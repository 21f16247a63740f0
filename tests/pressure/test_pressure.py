"""Two thousand operations by 32 clients, while clients and the daemon are killed: all answers are true."""

from __future__ import annotations

import secrets

import pytest

from tests.e2e.world import World
from tests.pressure.campaign import Campaign

ROUNDS = 4
OPERATIONS = 250


@pytest.mark.timeout(170)
@pytest.mark.parametrize("seed", [2015, None], ids=["always-this", "any"])
async def test_given_32_clients_when_they_and_the_daemon_are_killed_then_all_answers_are_true(
    world: World, seed: int | None
) -> None:
    chosen = secrets.randbits(32) if seed is None else seed
    print(f"seed {chosen}")
    campaign = Campaign(world, chosen)
    for number in range(ROUNDS):
        await campaign.round(OPERATIONS, kills=number % 2)
    await campaign.clear()
    print(campaign.tally)
    assert campaign.tally.done > ROUNDS * OPERATIONS / 5
