"""Random campaigns over three hosts: whatever happens, nothing is given out twice, and all hosts agree in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.examples import examples
from tests.support.host_campaign import Campaign
from tests.support.hosts_in_process import several_hosts


@pytest.mark.parametrize("seed", range(int(os.environ.get("SANDNET_CAMPAIGNS", examples(20)))))
async def test_hosts_agree_after_a_random_campaign(tmp_path: Path, seed: int) -> None:
    async with several_hosts(tmp_path, 3) as hosts:
        campaign = Campaign(hosts, seed)
        await campaign.run(25)
        try:
            await campaign.settle()
        except AssertionError:
            pytest.fail("\n".join([*campaign.log, *campaign.disagreements()]))
