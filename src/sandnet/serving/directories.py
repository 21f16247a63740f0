"""Directories outside our own that we make on the way, remembered: ``down`` takes away those and no others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sandnet.config import Config

MADE = "made-folders"
"""File in the run directory: one path a line. Like what it tells of, it is gone with a reboot."""


def make_folders(config: Config) -> None:
    """Make the sandbox directory (0755). Which of its parents are missing is written down first."""
    wanted = Path(config.sandbox_dir)
    missing = [str(folder) for folder in (wanted, *wanted.parents) if not folder.exists()]
    if not missing:
        return
    record = Path(config.run_dir, MADE)
    written = record.with_suffix(".new")
    written.write_text("".join(f"{folder}\n" for folder in dict.fromkeys([*_made(record), *missing])))
    written.replace(record)
    wanted.mkdir(mode=0o755, parents=True, exist_ok=True)


def remove_folders(config: Config) -> None:
    """Remove what :func:`make_folders` made; a directory that holds anything stays."""
    record = Path(config.run_dir, MADE)
    for folder in sorted({config.sandbox_dir, *_made(record)}, key=len, reverse=True):
        with suppress(OSError):
            os.rmdir(folder)
    record.with_suffix(".new").unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def _made(record: Path) -> list[str]:
    try:
        return record.read_text().splitlines()
    except FileNotFoundError:
        return []
