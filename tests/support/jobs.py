"""Jobs of joins and leaves for tests that call a driver or the packet filter themselves."""

from __future__ import annotations

from sandnet.firewall.base import Step


async def run_step(step: Step) -> None:
    """Run the step, and nothing else."""
    step()
