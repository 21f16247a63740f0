"""What programs on a host find in their environment: the right ``sandnet``."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

_FOREIGN: Final = ("SANDNET_", "ETCD_", "NOTIFY_SOCKET", "LISTEN_")
"""Beginnings of variables that are for programs outside of the lab."""
_SYSTEM_PROGRAMS: Final = "/usr/sbin:/sbin"
"""Where ip and nft are; the PATH of ordinary users of Debian lacks both."""


def program_path() -> str:
    """Return the path of the ``sandnet`` that belongs to this Python: the daemons of a lab are of the same release."""
    beside = os.path.join(os.path.dirname(sys.executable), "sandnet")
    return beside if os.access(beside, os.X_OK) else os.path.abspath(shutil.which("sandnet") or sys.argv[0])


def set_environment() -> None:
    """Give this process the environment of programs on a host: ``sandnet`` is the lab's, with its defaults."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    os.environ["PATH"] = ":".join([os.path.dirname(program_path()), os.environ.get("PATH", ""), _SYSTEM_PROGRAMS])
