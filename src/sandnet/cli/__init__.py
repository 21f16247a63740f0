"""The command line. A command loads only the modules it uses, and never the daemon's."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``sandnet``: runs the command and exits with its status (errors 1, wrong usage 2)."""
    from sandnet.cli.root import root

    root.main(prog_name="sandnet")
