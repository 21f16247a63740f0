"""Export of a store to a document and import from one: ``sandnet state export`` and ``sandnet state import``."""

from __future__ import annotations

import os
from pathlib import Path

from sandnet.composition import store_file
from sandnet.config import Config
from sandnet.core.state.export import dump, imported
from sandnet.errors import Error, Kind, invalid
from sandnet.escaping import printable_json
from sandnet.serving.single_instance import only_one
from sandnet.stores.sqlite.recovery import read_all, replace_all

LARGEST = 1 << 30
"""Limit of bytes that are read of a document."""


def export_state(config: Config, target: str) -> None:
    """Write the state as a JSON document, whether the daemon runs or not.

    Args:
        config: the daemon's configuration.
        target: a file (0600, replaced atomically); ``-``: standard output.

    Raises:
        Error: ``UNAVAILABLE``: there is no store, or it is damaged; the file cannot be written.
    """
    document = dump(read_all(_path(config)))
    try:
        if target == "-":
            _write_out(document)
        else:
            _write_file(Path(target), document)
    except OSError as failure:
        raise Error(Kind.UNAVAILABLE, f"cannot write {target}: {failure.strerror or failure}") from failure


def import_state(config: Config, source: str, *, replace: bool) -> str:
    """Make a store from a document, while no daemon runs.

    Args:
        config: the daemon's configuration.
        source: the document's file.
        replace: replace a store that is not empty; the old one is kept aside.

    Returns:
        The path of the old store; empty when there was none.

    Raises:
        Error: ``CONFLICT`` the daemon runs, or the state is not empty; ``INVALID`` it is no such document;
            ``UNAVAILABLE`` a file cannot be read or written. Nothing is changed.
    """
    try:
        with open(source, "rb") as file:
            puts = imported(file.read(LARGEST))
    except OSError as failure:
        raise invalid(f"cannot read {source}: {failure.strerror or failure}", code="invalid_document") from failure
    path = _path(config)
    with only_one(config):
        if not replace and path.exists() and path.stat().st_size:
            hint = "give --replace: the store there is will be kept aside"
            raise Error(Kind.CONFLICT, f"there is a state already: {path}", hint, "state_not_empty")
        kept = replace_all(path, puts)
    return str(kept or "")


def _path(config: Config) -> Path:
    path = store_file(config)
    if path is None:
        raise invalid("a store in memory has no file", "name the store of the daemon with --store", "unknown_store")
    return path


def _write_out(document: bytes) -> None:
    with open(1, "wb", closefd=False) as out:
        out.write(printable_json(document.decode()).encode())


def _write_file(target: Path, document: bytes) -> None:
    half = target.with_name(target.name + ".new")
    half.unlink(missing_ok=True)
    fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(fd)
        os.replace(half, target)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
