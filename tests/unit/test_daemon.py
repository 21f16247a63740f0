"""The daemon's process."""

from __future__ import annotations

import subprocess
import sys

SPARED = """
import gc
from sandnet.daemon import YOUNG_OBJECTS, spare_garbage_collection

before = gc.get_freeze_count()
spare_garbage_collection()
assert gc.isenabled() and gc.get_threshold()[0] == YOUNG_OBJECTS
assert gc.get_freeze_count() > before + 10_000 > 10 * len(gc.get_objects())
"""


def test_objects_of_the_start_are_not_garbage_collected() -> None:
    subprocess.run([sys.executable, "-c", SPARED], check=True, timeout=60)
