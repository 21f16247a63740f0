"""Random campaigns over three hosts: whatever happens, nothing is given out twice, and all hosts agree in the end."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import examples
from tests.support.host_campaign import Campaign
from tests.support.hosts_in_process import several_hosts
from tests.support.lab_truth import HEALED


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Collects the tasks of killed daemons before the next module's tests.

    Each is reported with a traceback, for which Python 3.11 parses source. If that happens while a test parses source
    itself, the test fails (``AST constructor recursion depth mismatch``).
    """
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is killed closes nothing
@pytest.mark.parametrize("seed", range(int(os.environ.get("SANDNET_CAMPAIGNS", examples(40)))))
async def test_hosts_agree_after_a_random_campaign(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async with several_hosts(tmp_path, 3) as hosts:
        campaign = Campaign(hosts, seed)
        await campaign.run(25)
        try:
            await campaign.settle()
        except AssertionError:
            pytest.fail("\n".join([*campaign.log, *campaign.disagreements()]), pytrace=False)
        if HEALED in caplog.text:  # a fault of a host, which healed it
            pytest.fail("\n".join([*campaign.log, HEALED]), pytrace=False)
