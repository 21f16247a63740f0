"""``sandnet doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session, waiting
from sandnet.escaping import printable

if TYPE_CHECKING:
    from sandnet.wire.reconcile import Drift

REPAIRED = "repaired"
UNAVAILABLE = 2
"""Exit status when the daemon is unavailable, or cannot compare."""


@click.command(cls=Command, short_help="Compare what is recorded with what there is, and repair it.")
@click.option("--fix", is_flag=True, help="Repair what differs.")
@output.json_option
@click.pass_obj
def doctor(session: Session, fix: bool, as_json: bool) -> None:
    """Compare what the daemon has recorded with the kernel and the files, and report what differs.

    The last lines are the problems that health lists, as those of a store that hosts share, and what this host
    lacks for a kind of network, with how to install it.

    Exit status: 0 when nothing differs or all of it is repaired, 1 when something differs, 2 when the daemon
    cannot be asked.

    \b
    Example:
      sandnet doctor
      sandnet doctor --fix
    """
    from sandnet.cli.lazy_group import Failure
    from sandnet.errors import Error

    try:
        with waiting("looking"):
            answer, found = session.client.reconcile(fix=fix)
    except Error as error:
        Failure(error).show()
        raise click.exceptions.Exit(UNAVAILABLE) from None
    if as_json:
        output.raw(answer)
    else:
        output.block(drift_text(found, fix=fix))
        for line in _health(session):
            output.block(printable(line))
    if any(drift.done != REPAIRED for drift in found):
        raise click.exceptions.Exit(1)


def _health(session: Session) -> list[str]:
    """Return what else is wrong, although nothing differs: nothing if the daemon does not report its state.

    The problems of health, as those of a store that hosts share, and what networks of a driver cannot have here.
    """
    from sandnet.errors import Error

    try:
        health = session.client.health()
    except Error:
        return []
    pool = health.prepared_sandboxes
    pool_problem = pool.problem if pool else ""
    limited = [f"{driver.name}: {driver.reason}" for driver in health.drivers if driver.available and driver.reason]
    return [*filter(None, dict.fromkeys([*health.problems, pool_problem])), *limited]


def drift_text(found: list[Drift], *, fix: bool) -> str:
    """Return a line for each difference, with its reason and repair below it, and a final line with what to do next."""
    if not found:
        return "nothing differs: everything is as recorded"
    rows = [(drift.kind, drift.object, drift.problem) for drift in found]
    head, *lines = output.table(("KIND", "OBJECT", "PROBLEM"), rows).splitlines()
    entries = [
        "\n  ".join(filter(None, (line, printable(drift.reason), printable(drift.done))))
        for line, drift in zip(lines, found, strict=True)
    ]
    return "\n".join([head, *entries, "", _next_step(found, fix)])


def _next_step(found: list[Drift], fix: bool) -> str:
    left = sum(drift.done != REPAIRED for drift in found)
    if not fix:
        return f"{_things(left)} as recorded; to repair: sandnet doctor --fix"
    if not left:
        return "all of it is repaired"
    return f"{_things(left)} as recorded still; see above why, and what to do. The daemon tries again by itself"


def _things(count: int) -> str:
    return "1 thing is not" if count == 1 else f"{count} things are not"
