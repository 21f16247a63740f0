"""What the user of a test run may do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def knows_other_users() -> bool:
    """Return whether files can be given to others: by root, but not in a user namespace of one user."""
    known = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return os.geteuid() == 0 and known > 1


RUNTIMES_NEED = "" if knows_other_users() else "container runtimes need the machine's root, for control groups"
"""Why no container runtime can run here; empty: one can."""
needs_other_users = pytest.mark.skipif(not knows_other_users(), reason="this user namespace knows no other user")
needs_runtimes = pytest.mark.skipif(bool(RUNTIMES_NEED), reason=RUNTIMES_NEED)
TAPS_NEED = "" if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "this user may not open /dev/net/tun"
"""Why no tap can be made here; empty: one can."""
needs_taps = pytest.mark.skipif(bool(TAPS_NEED), reason=TAPS_NEED)
