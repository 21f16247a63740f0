"""What sandnet needs from the operating system, which of it this machine lacks, and how to install that.

A library is looked for in files and not loaded: clients ask too, and only the kernel room loads libraries.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

NFTABLES_LIBRARY: Final = "libnftables.so.1"
"""The library without which the daemon does not start."""
SECCOMP_LIBRARY: Final = "libseccomp.so.2"
"""The library that builds the resolver's filter of system calls; without it there is none."""
_LIBRARY_FOLDERS: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
"""The dynamic linker's usual directories (ld.so(8)); Debian adds one level for the architecture."""
PROGRAM_FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
"""Searched after ``PATH``, which lacks the first ones for ordinary users of Debian."""


class Prerequisite(NamedTuple):
    """Something that a Debian package installs."""

    name: str
    """As a message names it."""
    package: str
    """The package of Debian and Ubuntu."""
    is_present: Callable[[], bool]


@cache
def installed_release() -> str:
    """Return the version of the installed package. The first call takes 10 ms."""
    from importlib.metadata import version  # it imports a parser of e-mail

    return version("sandnet")


def has_library(name: str) -> bool:
    """Return whether the dynamic linker would find a library: the first file of that name must be an ELF file."""
    first = next((path for path in _candidates(name) if path.exists()), None)
    if first is None:
        return False
    try:
        with first.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _candidates(name: str) -> Iterator[Path]:
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        yield Path(folder, name)
    for folder in _LIBRARY_FOLDERS:
        yield Path(folder, name)
        yield from Path(folder).glob(f"*-linux-gnu*/{name}")


def has_program(name: str) -> bool:
    """Return whether a program is on ``PATH`` or in one of the system's directories."""
    return shutil.which(name) is not None or shutil.which(name, path=PROGRAM_FOLDERS) is not None


PREREQUISITES: Final = (
    Prerequisite(f"the library {NFTABLES_LIBRARY}", "libnftables1", lambda: has_library(NFTABLES_LIBRARY)),
    Prerequisite(f"the library {SECCOMP_LIBRARY}", "libseccomp2", lambda: has_library(SECCOMP_LIBRARY)),
    Prerequisite("the program nft", "nftables", lambda: has_program("nft")),
    Prerequisite("the program ip", "iproute2", lambda: has_program("ip")),
)
"""The daemon loads the first library, the resolver the second; operators look at rules and links with the programs."""


def install_command(*packages: str) -> str:
    """Return the command that installs packages on Debian and Ubuntu."""
    return f"apt-get install {' '.join(packages)}"


def advice() -> str:
    """Return what this machine lacks and the command that installs it, in one line; empty if nothing is missing.

    Takes about 0.5 ms: call it after a failure only.
    """
    missing = [each for each in PREREQUISITES if not each.is_present()]
    if not missing:
        return ""
    *others, last = [each.name for each in missing]
    names = f"{', '.join(others)} and {last}" if others else last
    verb = "is" if len(missing) == 1 else "are"
    return f"{names} {verb} missing on this machine: {install_command(*(each.package for each in missing))}"
