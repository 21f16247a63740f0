"""The configuration of the daemon that ran last, in its directories: ``down`` reads there what its caller left out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from sandnet.config import Config
from sandnet.model.address import encode_hook

_log = logging.getLogger(__name__)

RECORD: Final = "config.json"
"""File in the state directory and in the run directory; the configuration contains no secret."""
_OF_ONE_START: Final = ("take_over", "log_level")
"""Fields that mean nothing later."""


def record_config(config: Config) -> None:
    """Record the configuration; a directory without room for it is logged, and the daemon serves nevertheless."""
    values = msgspec.to_builtins(config, enc_hook=encode_hook)
    text = json.dumps({name: value for name, value in values.items() if name not in _OF_ONE_START}, indent=1)
    for directory in (config.state_dir, config.run_dir):
        path = Path(directory, RECORD)
        written = path.with_suffix(".new")
        try:
            written.unlink(missing_ok=True)
            with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            written.replace(path)
        except OSError as failure:
            _log.warning("cannot write %s: %s; sandnet down needs the options of this start", path, failure.strerror)


def recorded_config(config: Config) -> Mapping[str, object]:
    """Return the fields that a daemon recorded in the directories of this configuration; none if no daemon did.

    Where one of the two directories is not the default, the default of the other one is not meant: it may be another
    daemon's.
    """
    usual = Config()
    chosen = [("state_dir", config.state_dir, usual.state_dir), ("run_dir", config.run_dir, usual.run_dir)]
    named = [each for each in chosen if each[1] != each[2]] or chosen
    for field, directory, _ in named:
        with suppress(OSError, ValueError):
            path = Path(directory, RECORD)
            if os.lstat(path).st_uid != os.geteuid():
                continue
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get(field) == directory:  # a copy of the directory is another's
                return {name: value for name, value in found.items() if name in Config.__struct_fields__}
    return {}


def remove_record(config: Config) -> None:
    """Remove the record from both directories."""
    for directory in (config.state_dir, config.run_dir):
        path = Path(directory, RECORD)
        path.unlink(missing_ok=True)
        path.with_suffix(".new").unlink(missing_ok=True)
