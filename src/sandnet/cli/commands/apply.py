"""``sandnet apply`` and ``sandnet export``: a file that declares networks and services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandnet.cli import output
from sandnet.cli.groups import Command
from sandnet.cli.session import Session, waiting
from sandnet.errors import Error, invalid

if TYPE_CHECKING:
    from sandnet.cli.project.plan import Plan, RefusedChange, Step
    from sandnet.client import Client


@click.command(cls=Command, short_help="Make the networks and services that a file declares.")
@click.option(
    "-f", "--file", "source", required=True, metavar="FILE", help="The project's file (YAML); - for standard input."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would change.")
@click.option("--prune", is_flag=True, help="Delete what an earlier apply of the project made and FILE lacks.")
@click.pass_obj
def apply(session: Session, source: str, dry_run: bool, prune: bool) -> None:
    """Make the networks and services that FILE declares; what is already so stays.

    Prints a line for each change: + created, - deleted, ~ changed. Changes nothing if one of them is not possible.

    \b
    Example:
      sandnet apply -f shop.yaml --dry-run
      sandnet apply -f shop.yaml --prune
    """
    from sandnet.cli.project import decode, plan

    project = decode.project(_content(source), "standard input" if source == "-" else source)
    client = session.client
    made = plan.make(project, plan.State.read(client), prune=prune)
    if made.conflicts:
        _refuse(made.conflicts)
    if not made.steps:
        output.line("nothing to change", err=True)
    _run(client, made, dry_run)


@click.command(cls=Command, short_help="Print networks and services as a file for apply.")
@click.option("--project", "only", metavar="NAME", default="", help="Only what apply made for this project.")
@click.pass_obj
def export(session: Session, only: str) -> None:
    """Print the networks and services that exist as a file; applying it changes nothing.

    \b
    Example:
      sandnet export > all.yaml
      sandnet export --project shop
    """
    from sandnet.cli.project import exported_file
    from sandnet.cli.project.plan import State

    state = State.read(session.client)
    output.lines(exported_file.text(exported_file.project(state, only or "exported", only)))


def _content(source: str) -> bytes:
    from sandnet.cli.project.yaml_nodes import MAX_BYTES

    try:
        with click.open_file(source, "rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise invalid(f"{source}: {error.strerror}", code="invalid_file") from error
    return content


def _refuse(conflicts: list[RefusedChange]) -> None:
    """Print what cannot be changed, and exit with status 1."""
    for conflict in conflicts:
        output.failure(f"{conflict.what} cannot be changed: {conflict.reason}")
        for difference in conflict.differences:
            output.line(f"  {difference}", err=True)
    raise click.exceptions.Exit(1)


def _run(client: Client, plan: Plan, dry_run: bool) -> None:
    """Make the changes, also after failures; exit with status 1 if any of them failed."""
    from sandnet.cli.lazy_group import Failure

    failed = False
    for step in plan.steps:
        try:
            if not dry_run:
                with waiting(f"changing {step.what}"):
                    step.run(client)
            _show(step)
        except Error as error:
            Failure(error).show()
            failed = True
    if failed:
        raise click.exceptions.Exit(1)


def _show(step: Step) -> None:
    output.line(f"{step.sign} {step.what}")
    for difference in step.differences:
        output.line(f"    {difference}")
