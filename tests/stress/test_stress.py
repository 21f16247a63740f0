"""Two thousand operations by 32 clients, while clients and the daemon are killed: all answers are true."""

from __future__ import annotations

import pytest

from tests.stress.runner import Campaign
from tests.support.daemon import RunningDaemon

ROUNDS = 4
OPERATIONS = 500


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [2015])
async def test_answers_are_true_with_32_clients_and_daemon_killed(daemon: RunningDaemon, seed: int) -> None:
    """The same wishes each time, in an order that the machine decides; `make soak` draws its seed."""
    campaign = Campaign(daemon, seed)
    for number in range(ROUNDS):
        await campaign.round(OPERATIONS, kills=number % 2)
    await campaign.clear()
    print(campaign.tally)
    assert campaign.tally.done > ROUNDS * OPERATIONS / 5
