"""The changes that bring the daemon's networks and services to what a project's file declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from sandnet.cli.project import differences
from sandnet.cli.project.entries import PROJECT_LABEL, NetworkEntry, Project, ServiceEntry
from sandnet.cli.project.existing import network_entry, project_of
from sandnet.cli.rates import RATES
from sandnet.library.port_arguments import parse_exposed, parse_mapping
from sandnet.wire.bandwidth import Bandwidth, EndpointChange
from sandnet.wire.libnetwork import ExposedPort, Network, NetworkChange, NetworkCreate, Service, ServicePublish

if TYPE_CHECKING:
    from sandnet.client import Client


class State(NamedTuple):
    """The networks and services that exist."""

    networks: dict[str, Network]
    services: dict[tuple[str, str], Service]
    """By the names of network and service."""
    default: str
    """Name of the default network."""

    @classmethod
    def read(cls, client: Client) -> State:
        """Read it from the daemon."""
        services = {(each.network, each.name): each for each in client.services(verbose=True)}
        networks = {each.name: each for each in client.networks(verbose=True)}
        default = [each.name for each in client.networks(name="")]
        return cls(networks, services, default[0] if default else "bridge")


class Step(NamedTuple):
    """A change of one object.

    Attributes:
        sign: ``+`` create, ``-`` delete, ``~`` change.
        what: the object.
        differences: of an object that is changed, or else replaced.
        run: makes the change.
    """

    sign: str
    what: str
    differences: tuple[str, ...]
    run: Callable[[Client], None]


class RefusedChange(NamedTuple):
    """A difference that apply does not remove, with the reason."""

    what: str
    differences: tuple[str, ...]
    reason: str


class Plan(NamedTuple):
    """The steps in their order, and what prevents them."""

    steps: list[Step]
    conflicts: list[RefusedChange]


def make(project: Project, state: State, *, prune: bool) -> Plan:
    """Return the changes: deletions first, as they free names, addresses and ports; then networks, then services."""
    plan = Plan([], [])
    services = {(entry.network or state.default, entry.name or key): entry for key, entry in project.services.items()}
    if prune:
        _prune(project, state, services, plan)
    for name, entry in project.networks.items():
        _network(project, state, name, entry, plan)
    for (network, name), service in services.items():
        _service(project, state, (network, name), service, plan)
    return plan


def _prune(project: Project, state: State, declared: dict[tuple[str, str], ServiceEntry], plan: Plan) -> None:
    """Delete what an earlier apply of the project made and the file does not declare."""
    for key, service in state.services.items():
        if project_of(service) == project.name and key not in declared:
            plan.steps.append(Step("-", f"service {_shown(key)}", (), _unpublish(service.id)))
    for name, net in state.networks.items():
        if project_of(net) == project.name and name not in project.networks:
            plan.steps.append(Step("-", f"network {name}", (), _delete(net.id)))


def _network(project: Project, state: State, name: str, entry: NetworkEntry, plan: Plan) -> None:
    found = state.networks.get(name)
    what = f"network {name}"
    if found is None:
        plan.steps.append(Step("+", what, (), _create(project, name, entry)))
        return
    found_differences = differences.of_network(entry, network_entry(found))
    changed = tuple(map(str, found_differences))
    if not changed:
        return
    if not _not_ours(project, found) and all(each.is_live for each in found_differences):
        fields = {each.field for each in found_differences}
        plan.steps.append(Step("~", what, changed, _change(project, found.id, entry, fields)))
        return
    if reason := _not_ours(project, found) or ("it has endpoints" if found.endpoints else ""):
        plan.conflicts.append(RefusedChange(what, changed, reason))
        return
    create = _create(project, name, entry)
    plan.steps.append(Step("~", what, changed, _both(_delete(found.id), create)))


def _service(project: Project, state: State, key: tuple[str, str], entry: ServiceEntry, plan: Plan) -> None:
    what = f"service {_shown(key)}"
    if key[0] not in state.networks and key[0] not in project.networks:
        plan.conflicts.append(RefusedChange(what, (), f"there is no network {key[0]}, and the file declares none"))
        return
    found = state.services.get(key)
    publish = _publish(project, key, entry)
    if found is None:
        plan.steps.append(Step("+", what, (), publish))
        return
    options = state.networks[key[0]].options or {}
    found_differences = differences.of_service(entry, found, str(options.get("binding_address") or ""))
    changed = tuple(map(str, found_differences))
    if not changed:
        return
    if not _not_ours(project, found) and {each.field for each in found_differences} == {"bandwidth"}:
        plan.steps.append(Step("~", what, changed, _limit(found.id, entry)))
        return
    if reason := _not_ours(project, found) or ("containers are attached to it" if found.backends else ""):
        plan.conflicts.append(RefusedChange(what, changed, reason))
        return
    plan.steps.append(Step("~", what, changed, _both(_unpublish(found.id), publish)))


def _not_ours(project: Project, found: Network | Service) -> str:
    owner = project_of(found)
    if owner == project.name:
        return ""
    return f"the project {owner} made it" if owner else f"the project {project.name} did not make it"


def _shown(key: tuple[str, str]) -> str:
    network, name = key
    return f"{name}.{network}"


def _create(project: Project, name: str, entry: NetworkEntry) -> Callable[[Client], None]:
    options: dict[str, Any] = msgspec.to_builtins(differences.implied(entry), enc_hook=str)
    driver = options.pop("driver", "bridge")
    options |= options.pop("plugin_options", {})
    labels = {**options.pop("labels", {}), PROJECT_LABEL: project.name}
    request = NetworkCreate(name=name, network_type=driver, options=options, labels=labels)
    return lambda client: _nothing(client.create_network(request))


def _change(project: Project, network: str, entry: NetworkEntry, fields: set[str]) -> Callable[[Client], None]:
    values: dict[str, Any] = msgspec.to_builtins(differences.implied(entry), enc_hook=str)
    labels = {**entry.labels, PROJECT_LABEL: project.name} if "labels" in fields else None
    options = {field: values.get(field, 0 if field in RATES else []) for field in fields - {"labels"}}
    request = NetworkChange(labels=labels, options=options or None)
    return lambda client: client.change_network(network, request)


def _publish(project: Project, key: tuple[str, str], entry: ServiceEntry) -> Callable[[Client], None]:
    exposed = [ExposedPort(proto=proto, port=port) for proto, port in map(parse_exposed, entry.expose)]
    request = ServicePublish(
        name=key[1],
        network_name=key[0],
        exposed_ports=exposed or None,
        port_mapping=[parse_mapping(port).request for port in entry.ports] or None,
        address=str(entry.address) if entry.address else None,
        address_ipv6=str(entry.address_ipv6) if entry.address_ipv6 else None,
        additional_addresses=[str(each) for each in entry.additional_addresses] or None,
        mac=entry.mac or None,
        labels={**entry.labels, PROJECT_LABEL: project.name},
        aliases=entry.aliases or None,
        affinity=entry.affinity,
        probe=entry.probe,
        bandwidth=entry.bandwidth,
    )
    return lambda client: _nothing(client.publish(request))


def _limit(service: str, entry: ServiceEntry) -> Callable[[Client], None]:
    change = EndpointChange(bandwidth=entry.bandwidth or Bandwidth())
    return lambda client: client.change_service(service, change)


def _delete(network: str) -> Callable[[Client], None]:
    return lambda client: client.delete_network(network)


def _unpublish(service: str) -> Callable[[Client], None]:
    return lambda client: client.unpublish(service)


def _both(first: Callable[[Client], None], second: Callable[[Client], None]) -> Callable[[Client], None]:
    def run(client: Client) -> None:
        first(client)
        second(client)

    return run


def _nothing(_: str) -> None:
    """Drop the id of what was created."""
