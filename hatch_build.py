"""Put the man pages into the wheel, where ``make man`` has written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface[Any]):
    """The hook of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the pages to a wheel; an editable installation needs none."""
        pages = Path(self.root, "build", "man")
        if version == "standard" and pages.is_dir():
            build_data["shared_data"][str(pages)] = "share/man/man1"
