"""What the dialect tells of the model: the reference's objects, and with ``verbose`` what an operator needs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property

import msgspec

from sandnet.core.controller import Controller, Health
from sandnet.core.reconcile.drift import Drift
from sandnet.dns.base import Explanation
from sandnet.model import Attachment, Endpoint, Network, Probe, Sandbox
from sandnet.model.address import encode_hook
from sandnet.wire import explain, reconcile
from sandnet.wire import libnetwork as wire


class Encoder:
    """The objects of one answer. It reads records and never waits, so all it tells is of one moment."""

    def __init__(self, core: Controller, verbose: bool) -> None:
        self._core = core
        self._verbose = verbose

    def network(self, net: Network) -> wire.Network:
        """A network with its endpoints."""
        endpoints = [self.endpoint(ep, net) for ep in self._core.endpoints.list(net)]
        told = wire.Network(name=net.name, id=net.id, type=net.driver, endpoints=endpoints)
        if self._verbose:
            families = [family for family in (net.ipv4, net.ipv6) if family]
            told.driver = net.driver
            told.scope = self._core.networks.scope(net)
            told.subnets = [str(family.prefix) for family in families]
            told.gateways = [str(family.gateway) for family in families if family.gateway]
            told.internal = net.options.internal
            told.options = msgspec.to_builtins(net.options, enc_hook=encode_hook)
            told.labels = net.labels
            told.created = moment(net.created)
        return told

    def endpoint(self, ep: Endpoint, net: Network) -> wire.Endpoint:
        """An endpoint of ``net``."""
        told = wire.Endpoint(id=ep.id, name=ep.name, network=net.name)
        if self._verbose:
            self._detail(told, ep, net)
        return told

    def service(self, ep: Endpoint) -> wire.Service:
        """The same endpoint, as a service."""
        net = self._core.networks.get(ep.network_id)
        told = wire.Service(name=ep.name, id=ep.id, network=net.name)
        if self._verbose:
            self._detail(told, ep, net)
        return told

    def backends(self, ep: Endpoint) -> list[wire.Backend]:
        """The containers behind an endpoint, the first attached first."""
        return [self.backend(attachment) for attachment in self._core.services.backends(ep)]

    def backend(self, attachment: Attachment) -> wire.Backend:
        """A container behind an endpoint."""
        told = wire.Backend(id=attachment.container_id)
        if self._verbose:
            told.sandbox_key = self._keys.get(attachment.container_id, "")
            told.interface = attachment.interface
            told.address = _text(attachment.address)
            told.address_ipv6 = _text(attachment.address_ipv6)
            told.state = _backend_state(attachment)
            told.weight = attachment.weight
            told.holder = attachment.holder
        return told

    def sandbox(self, sandbox: Sandbox) -> wire.Sandbox:
        """A sandbox with the endpoints it is joined to."""
        attachments = self._core.sandboxes.attachments(sandbox)
        told = wire.Sandbox(
            id=sandbox.container_id, sandbox_key=sandbox.key, endpoints=[self._joined(a) for a in attachments]
        )
        if self._verbose:
            told.origin = sandbox.origin.value
            told.state = sandbox.phase.value
            told.host_name = sandbox.host_name
            told.domain_name = sandbox.domain_name
            told.hosts_path = sandbox.hosts_path
            told.resolv_conf_path = sandbox.resolv_conf_path
            told.dns = [str(server) for server in sandbox.dns]
            told.dns_search = list(sandbox.dns_search)
            told.dns_options = list(sandbox.dns_options)
            told.pid = sandbox.process.pid if sandbox.process else 0
            told.auto_remove = sandbox.auto_remove
            told.interfaces = [self._interface(attachment) for attachment in attachments]
            told.created = moment(sandbox.created)
        return told

    @cached_property
    def _keys(self) -> dict[str, str]:
        return {sandbox.container_id: sandbox.key for sandbox in self._core.sandboxes.list()}

    def _detail(self, told: wire.Endpoint | wire.Service, ep: Endpoint, net: Network) -> None:
        told.address = _text(ep.address)
        told.address_ipv6 = _text(ep.address_ipv6)
        told.mac = ep.mac or None
        told.gateway = _text(net.ipv4.gateway) if net.ipv4 else None
        told.exposed_ports = [wire.TransportPort(proto=port.proto, port=port.port) for port in ep.exposed_ports]
        told.port_mapping = [
            wire.BoundPort(proto=port.proto, port=port.port, host_ip=str(port.host_ip), host_port=port.host_port)
            for port in ep.ports
        ]
        told.aliases = list(ep.aliases)
        told.probe = _probe(ep.probe) if ep.probe else None
        told.labels = ep.labels
        told.affinity = ep.affinity.value
        told.backends = self.backends(ep)
        told.created = moment(ep.created)

    def _joined(self, attachment: Attachment) -> wire.Endpoint:
        net = self._core.networks.get(attachment.network_id)
        ep = self._core.endpoints.get(attachment.endpoint_id)  # its removal may have begun, while this stays a moment
        return wire.Endpoint(id=ep.id, name=ep.name, network=net.name)

    def _interface(self, attachment: Attachment) -> wire.SandboxInterface:
        return wire.SandboxInterface(
            endpoint=attachment.endpoint_id,
            network=self._core.networks.get(attachment.network_id).name,
            interface=attachment.interface,
            address=_text(attachment.address),
            address_ipv6=_text(attachment.address_ipv6),
            mac=attachment.mac or None,
            gateway_priority=attachment.gateway_priority,
            state=attachment.phase.value,
            aliases=list(attachment.aliases),
        )


def health(found: Health, *, verbose: bool) -> wire.Health:
    """How the daemon is."""
    drivers = [wire.DriverHealth(name=d.name, available=d.available, reason=d.reason) for d in found.drivers]
    operations = found.operations if verbose else msgspec.UNSET
    return wire.Health(status=found.status, problems=list(found.problems), drivers=drivers, operations=operations)


def reconciliation(found: Iterable[Drift]) -> reconcile.Reconciliation:
    """What differed."""
    told = [
        reconcile.Drift(kind=each.kind, object=each.object, problem=each.problem, reason=each.reason, done=each.done)
        for each in found
    ]
    return reconcile.Reconciliation(drift=told)


def explanation(found: Explanation) -> explain.Explanation:
    """What a container would be answered."""
    return explain.Explanation(
        name=found.name,
        asker=found.asker,
        answers=[str(address) for address in found.answers],
        source=found.source,
        network=found.network,
        owners=list(found.owners),
        upstreams=[str(server) for server in found.upstreams],
        inside=[str(server) for server in found.inside],
        reason=found.reason,
    )


def _backend_state(attachment: Attachment) -> str:
    """Whether new flows go to a backend, and if not, why; a wish counts before a check."""
    return "drained" if attachment.drained else "ready" if attachment.healthy else "failing"


def _probe(probe: Probe) -> wire.Probe:
    return wire.Probe(
        kind=probe.kind.value, port=probe.port, path=probe.path, interval=probe.interval, timeout=probe.timeout
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def moment(seconds: float) -> datetime:
    """Seconds since the epoch, as the wire tells them."""
    return datetime.fromtimestamp(seconds, UTC)
