"""What exists, written as a project's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import yaml

from sandnet.cli.project.entries import Project, ServiceEntry
from sandnet.cli.project.existing import PREDEFINED, network_entry, project_of, service_entry
from sandnet.cli.project.plan import State
from sandnet.wire.libnetwork import Service


def project(state: State, name: str, only: str) -> Project:
    """Return the networks and services that exist, in their order, but for the predefined networks.

    Args:
        state: what exists.
        name: of the project.
        only: project whose objects are taken; empty: all are.
    """
    networks = {
        each.name: network_entry(each)
        for each in state.networks.values()
        if each.name not in PREDEFINED and (not only or project_of(each) == only)
    }
    services = [each for each in state.services.values() if not only or project_of(each) == only]
    return Project(name=name, networks=networks, services=_services(services))


def text(project: Project) -> str:
    """Return the file of a project. ``apply`` of it changes nothing where the objects exist."""
    content = msgspec.to_builtins(project, enc_hook=str)
    written: str = yaml.safe_dump(content, sort_keys=False, width=120)
    return written


def _services(services: Iterable[Service]) -> dict[str, ServiceEntry]:
    """Return the entries by name, or by name and network where several have the name."""
    services = list(services)
    names = Counter(each.name for each in services)
    entries: dict[str, ServiceEntry] = {}
    for each in services:
        entry = service_entry(each)
        if names[each.name] == 1:
            entries[each.name] = entry
        else:
            entries[_free(f"{each.name}.{each.network}", entries)] = msgspec.structs.replace(entry, name=each.name)
    return entries


def _free(key: str, taken: dict[str, ServiceEntry]) -> str:
    while key in taken:
        key += "."
    return key
