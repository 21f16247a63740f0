"""A host with a real daemon, checked in the end, as the end-to-end tests have it."""

from __future__ import annotations

from tests.e2e.conftest import workshop, world, worlds

__all__ = ["workshop", "world", "worlds"]
