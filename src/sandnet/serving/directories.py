"""Creation of directories outside sandnet's own, with a record of them: ``down`` removes only those."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sandnet.config import Config

RECORD = "made-folders"
"""File in the run directory with one path per line. Like the directories that it lists, it is lost at a reboot."""


def make_folders(config: Config) -> None:
    """Make the sandbox directory (0755); its parents that are missing are recorded first. Make that of files (0700)."""
    with suppress(FileExistsError):
        os.mkdir(config.own_files[0], 0o700)
    target = Path(config.sandbox_dir)
    missing = [str(folder) for folder in (target, *target.parents) if not folder.exists()]
    if not missing:
        return
    record = Path(config.run_dir, RECORD)
    written = record.with_suffix(".new")
    written.write_text("".join(f"{folder}\n" for folder in dict.fromkeys([*_made(record), *missing])))
    written.replace(record)
    target.mkdir(mode=0o755, parents=True, exist_ok=True)


def remove_folders(config: Config) -> None:
    """Remove what :func:`make_folders` made; a directory that is not empty stays."""
    record = Path(config.run_dir, RECORD)
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
