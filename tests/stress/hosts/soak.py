"""Random operations on five hosts beside bad luck for an hour: ``make soak-hosts``.

Environment:
    SOAK_SECONDS: how long, 3600 unless given.
    SOAK_SEED: of the random numbers; chosen and printed unless given.
    SOAK_HOSTS: how many hosts, 5 unless given.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.stress.hosts.campaign import Campaign
from tests.support.lab import started_lab
from tests.support.network_host import unavailable

ROUND = 40.0
"""Seconds of operations, after which all hosts come to rest."""
CLEARED = 5
"""Rounds after which everything is removed."""


def main() -> int:
    """The exit code: 0 when everything was as promised."""
    if reason := unavailable():
        print(reason, file=sys.stderr)
        return 1
    seconds, hosts = float(os.environ.get("SOAK_SECONDS", "3600")), int(os.environ.get("SOAK_HOSTS", "5"))
    seed = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
    print(f"{seconds:g} s on {hosts} hosts, SOAK_SEED={seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="sandnet-soak-hosts-"))
    with started_lab(folder / "labs", hosts) as lab:
        campaign = Campaign(lab, seed, folder / "journal")
        began, rounds = time.monotonic(), 0
        try:
            while (left := began + seconds - time.monotonic()) > 0:
                campaign.round(min(ROUND, left))
                rounds += 1
                if rounds % CLEARED == 0:
                    campaign.clear()
                print(
                    f"{(time.monotonic() - began) / 60:6.1f} min, {rounds} rounds: {dict(campaign.tally)}", flush=True
                )
            campaign.clear()
        except BaseException:
            for path in folder.glob("labs/*/hosts/*/*.log"):
                shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
            print(f"journal and logs are in {folder}", file=sys.stderr)
            raise
    print(f"slowest answers: { {code: round(each, 2) for code, each in campaign.slowest.items()} }")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
