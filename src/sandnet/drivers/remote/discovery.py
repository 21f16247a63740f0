"""Find network plugins where Docker Engine looks for them, and refuse those that others than root could replace."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from sandnet.drivers.base import PLUGIN_AWAY
from sandnet.errors import Error, Kind

PLUGIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
OWN_NAME: Final = "sandnet"
"""The name under which Docker Engine finds this daemon: it is no plugin of its own."""
_LARGEST_FILE: Final = 1 << 16
_SOCKET: Final = ".sock"
_FILES: Final = (".spec", ".json")
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


class PluginAddress(NamedTuple):
    """Where a plugin listens."""

    path: str = ""
    """Of a unix socket; empty: it listens at ``host`` and ``port``."""
    host: str = ""
    port: int = 0
    identity: tuple[int, int] = (0, 0)
    """Device and inode of the socket: another one is another start of the plugin."""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def names(directories: Sequence[str]) -> list[str]:
    """Return the names of all plugins, without a check of any."""
    found = set[str]()
    for directory in directories:
        with suppress(OSError), os.scandir(directory) as entries:
            found |= {name for entry in entries if (name := _name_of(entry))}
    return sorted(found)


def _name_of(entry: os.DirEntry[str]) -> str:
    name, extension = os.path.splitext(entry.name)
    if extension not in (_SOCKET, *_FILES):
        name = entry.name
        nested = (os.path.join(entry.path, name + each) for each in (_SOCKET, *_FILES))
        if not entry.is_dir(follow_symlinks=False) or not any(map(os.path.lexists, nested)):
            return ""
    return name if PLUGIN_NAME.fullmatch(name) and name != OWN_NAME else ""


def locate(name: str, directories: Sequence[str]) -> PluginAddress:
    """Return where the plugin listens.

    Args:
        name: its name.
        directories: where to look, the first first.

    Raises:
        Error: ``UNAVAILABLE``, code ``PLUGIN_AWAY``: there is none, it is not root's, or its file is malformed.
    """
    for path in _candidates(name, directories):
        if os.path.lexists(path):
            return _socket(path) if path.endswith(_SOCKET) else _from_file(path)
    places = ", ".join(directories)
    hint = f"start it; its socket, or a file with its address, is expected in one of {places}"
    raise Error(Kind.UNAVAILABLE, f"there is no network plugin {name}", hint, PLUGIN_AWAY)


def _candidates(name: str, directories: Sequence[str]) -> Iterator[str]:
    if not PLUGIN_NAME.fullmatch(name) or name == OWN_NAME:
        return
    for directory in directories:
        for extension in (_SOCKET, *_FILES):
            yield os.path.join(directory, name + extension)
            yield os.path.join(directory, name, name + extension)


def _socket(path: str) -> PluginAddress:
    found = _checked(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise _unusable(path, "it is no socket")
    if found.st_mode & stat.S_IWOTH:
        raise _unusable(path, "users other than root may use it", "chmod o-w")
    return PluginAddress(path=path, identity=(found.st_dev, found.st_ino))


def _from_file(path: str) -> PluginAddress:
    """Return the address in a file: a URL, or JSON with ``Addr``."""
    found = _checked(path)
    if not stat.S_ISREG(found.st_mode) or found.st_mode & _WRITABLE or found.st_size > _LARGEST_FILE:
        raise _unusable(path, "it is not a small file that only root may write")
    try:
        text = Path(path).read_text("utf-8").strip()
        address = json.loads(text)["Addr"] if path.endswith(".json") else text
        url = urlsplit(str(address))
        port = url.port or 80
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise _unusable(path, f"it contains no address of a plugin: {failure}") from failure
    if url.scheme == "unix" and url.path.startswith("/"):
        return _socket(url.path)
    if url.scheme in ("tcp", "http") and url.hostname:
        return PluginAddress(host=url.hostname, port=port)
    raise _unusable(path, f"{address!r} is no address of a plugin", "use unix:///PATH or tcp://HOST:PORT")


def _checked(path: str) -> os.stat_result:
    """Return the status of a file that is root's, in a directory where only root may replace it."""
    try:
        found, directory = os.lstat(path), os.stat(os.path.dirname(path))
    except OSError as failure:
        raise _unusable(path, failure.strerror or str(failure)) from failure
    for owner, where in ((found.st_uid, path), (directory.st_uid, os.path.dirname(path))):
        if owner != 0:
            raise _unusable(path, f"{where} belongs to another user than root", "chown root")
    if directory.st_mode & _WRITABLE:
        raise _unusable(path, f"users other than root may write in {os.path.dirname(path)}", "chmod go-w")
    return found


def _unusable(path: str, reason: str, hint: str = "") -> Error:
    return Error(Kind.UNAVAILABLE, f"network plugin at {path}: {reason}", hint, PLUGIN_AWAY)
