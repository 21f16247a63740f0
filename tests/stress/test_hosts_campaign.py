"""Five hosts do random things beside bad luck: no address is given out twice, and what was acknowledged stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stress.hosts.campaign import Campaign
from tests.support.lab import started_lab

ROUNDS, SECONDS = 2, 25.0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2015])
def test_hosts_keep_what_they_promise_in_bad_luck(tmp_path: Path, seed: int) -> None:
    """The same wishes each time, in an order that the machine decides; `make soak-hosts` draws its seed."""
    with started_lab(tmp_path / "labs", 5) as lab:
        campaign = Campaign(lab, seed, tmp_path / "journal")
        for _ in range(ROUNDS):
            campaign.round(SECONDS)
        campaign.clear()
    print(dict(campaign.tally))
    assert campaign.tally["done"] > 50
