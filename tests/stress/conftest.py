"""What is collected only on request."""

from __future__ import annotations

import os

collect_ignore = [] if "SANDNET_FLOOD" in os.environ else ["test_neighbour_flood.py"]
"""The flood fills the neighbour table of the whole machine, so nothing else can be tested beside it."""
