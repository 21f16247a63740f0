"""The command line. A command loads only the modules it uses, and never the daemon's."""

from __future__ import annotations

import gc

OBJECTS = 200_000
"""Objects after which garbage is first collected: more than a short command makes."""


def main() -> None:
    """Entry point of ``sandnet``: runs the command and exits with its status (errors 1, wrong usage 2).

    Collecting garbage during the start and at the end of the process takes a fifth of a short command, and finds
    nothing that the end of the process would not free.
    """
    gc.set_threshold(OBJECTS)
    from sandnet.cli.root import root

    try:
        root.main(prog_name="sandnet")
    finally:
        gc.freeze()
