"""How many examples a test generates that wants another number than most."""

from __future__ import annotations

from hypothesis import settings

DEFAULT = 100
"""How many examples Hypothesis generates where no profile says otherwise."""


def examples(full: int) -> int:
    """Return ``full``, or a share of it in a run whose profile generates fewer (``quick``)."""
    return max(1, full * settings().max_examples // DEFAULT)
