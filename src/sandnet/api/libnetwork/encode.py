"""Conversion of the model into the dialect's objects; ``verbose`` adds the details that an operator needs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite

import msgspec
from msgspec.structs import asdict

from sandnet.api.libnetwork.encode_taps import encode_tap
from sandnet.core.cluster.node_list import NodeStatus
from sandnet.core.controller import Controller, Health
from sandnet.core.reachability.reachability import HostReachability
from sandnet.core.reconcile.drift import Drift
from sandnet.dns.base import Explanation
from sandnet.kernel.types import PoolStatus
from sandnet.model import Attachment, Endpoint, Network, Probe, Sandbox
from sandnet.model.address import encode_hook
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from sandnet.model.remote_attachment import RemoteAttachment
from sandnet.wire import explain, reconcile
from sandnet.wire import health as wire_health
from sandnet.wire import libnetwork as wire
from sandnet.wire.bandwidth import Bandwidth
from sandnet.wire.direct_ports import DirectPort
from sandnet.wire.nodes import Node, NodeReachability
from sandnet.wire.sandbox_interfaces import AddressLease, SandboxInterface, Tap


class Encoder:
    """Encoder of the objects of one response. It reads records and never waits, so all of them show the same moment."""

    def __init__(self, core: Controller, verbose: bool) -> None:
        self._core = core
        self._verbose = verbose

    def network(self, net: Network) -> wire.Network:
        """Return a network with its endpoints."""
        endpoints = [self.endpoint(ep, net) for ep in self._core.endpoints.list(net)]
        encoded = wire.Network(name=net.name, id=net.id, type=net.driver, endpoints=endpoints)
        if self._verbose:
            families = [family for family in (net.ipv4, net.ipv6) if family]
            encoded.driver = net.driver
            encoded.scope = self._core.networks.scope(net)
            encoded.subnets = [str(family.prefix) for family in families]
            encoded.gateways = [str(family.gateway) for family in families if family.gateway]
            encoded.internal = net.options.internal
            encoded.options = msgspec.to_builtins(net.options, enc_hook=encode_hook)
            encoded.labels = net.labels
            encoded.created = moment(net.created)
        return encoded

    def endpoint(self, ep: Endpoint, net: Network) -> wire.Endpoint:
        """Return an endpoint of ``net``."""
        encoded = wire.Endpoint(id=ep.id, name=ep.name, network=net.name)
        if self._verbose:
            self._detail(encoded, ep, net)
        return encoded

    def service(self, ep: Endpoint) -> wire.Service:
        """Return an endpoint as a service."""
        net = self._core.networks.get(ep.network_id)
        encoded = wire.Service(name=ep.name, id=ep.id, network=net.name)
        if self._verbose:
            self._detail(encoded, ep, net)
        return encoded

    def backends(self, ep: Endpoint) -> list[wire.Backend]:
        """Return the containers of an endpoint, in the order of attachment."""
        own = [self.backend(attachment) for attachment in self._core.services.backends(ep)]
        return [*own, *(self._remote_backend(each) for each in self._core.services.remote_backends(ep))]

    def backend(self, attachment: Attachment) -> wire.Backend:
        """Return one container of an endpoint."""
        encoded = wire.Backend(id=attachment.container_id)
        if self._verbose:
            encoded.sandbox_key = self._keys.get(attachment.container_id, "")
            encoded.interface = attachment.interface
            encoded.address = _text(attachment.address)
            encoded.address_ipv6 = _text(attachment.address_ipv6)
            encoded.state = _backend_state(attachment)
            encoded.weight = attachment.weight
            encoded.holder = attachment.holder
        return encoded

    def _remote_backend(self, remote: RemoteAttachment) -> wire.Backend:
        """Return a container on another host: its sandbox and its interface are that host's matter."""
        encoded = self.backend(remote.as_backend())
        encoded.id, encoded.host = remote.container_id, remote.host
        return encoded

    def sandbox(self, sandbox: Sandbox) -> wire.Sandbox:
        """Return a sandbox with the endpoints that it is joined to."""
        attachments = self._core.sandboxes.attachments(sandbox)
        encoded = wire.Sandbox(
            id=sandbox.container_id, sandbox_key=sandbox.key, endpoints=[self._joined(a) for a in attachments]
        )
        if self._verbose:
            encoded.origin = sandbox.origin.value
            encoded.state = sandbox.phase.value
            encoded.host_name = sandbox.host_name
            encoded.domain_name = sandbox.domain_name
            encoded.hosts_path = sandbox.hosts_path
            encoded.resolv_conf_path = sandbox.resolv_conf_path
            encoded.dns = [str(server) for server in sandbox.dns]
            encoded.dns_search = list(sandbox.dns_search)
            encoded.dns_options = list(sandbox.dns_options)
            encoded.pid = sandbox.process.pid if sandbox.process else 0
            encoded.auto_remove = sandbox.auto_remove
            encoded.interfaces = [self._interface(sandbox, attachment) for attachment in attachments]
            encoded.created = moment(sandbox.created)
        return encoded

    @cached_property
    def _keys(self) -> dict[str, str]:
        return {sandbox.container_id: sandbox.key for sandbox in self._core.sandboxes.list()}

    def _detail(self, encoded: wire.Endpoint | wire.Service, ep: Endpoint, net: Network) -> None:
        encoded.address = _text(ep.address)
        encoded.address_ipv6 = _text(ep.address_ipv6)
        encoded.additional_addresses = [str(each) for each in ep.additional_addresses]
        encoded.mac = ep.mac or None
        encoded.gateway = _text(ep.gateway(net))
        encoded.exposed_ports = [wire.TransportPort(proto=port.proto, port=port.port) for port in ep.exposed_ports]
        encoded.port_mapping = [
            wire.BoundPort(proto=port.proto, port=port.port, host_ip=str(port.host_ip), host_port=port.host_port)
            for port in ep.ports
        ]
        encoded.direct_ports = [
            DirectPort(proto=port.proto, address=str(own.ip), port=port.port)
            for port in ep.direct_ports
            if (own := ep.address if port.version == 4 else ep.address_ipv6)
        ]
        encoded.aliases = list(ep.aliases)
        encoded.probe = _probe(ep.probe) if ep.probe else None
        encoded.bandwidth = Bandwidth(**asdict(ep.bandwidth)) if ep.bandwidth else None
        encoded.lease = _lease(ep.lease) if ep.lease else None
        encoded.labels = ep.labels
        encoded.affinity = ep.affinity.value
        encoded.backends = self.backends(ep)
        encoded.created = moment(ep.created)

    def _joined(self, attachment: Attachment) -> wire.Endpoint:
        net = self._core.networks.get(attachment.network_id)
        ep = self._core.endpoints.get(attachment.endpoint_id)  # the endpoint may be in removal while this is not yet
        return wire.Endpoint(id=ep.id, name=ep.name, network=net.name)

    def joined(self, sandbox: Sandbox, ep: Endpoint) -> str | Tap:
        """Return the answer to a join of ``ep``: the tap of a virtual machine, else the path of the sandbox."""
        attachments = self._core.sandboxes.attachments(sandbox)
        taps = (encode_tap(self._core, sandbox, each) for each in attachments if each.endpoint_id == ep.id)
        return next((tap for tap in taps if tap), sandbox.key)

    def _interface(self, sandbox: Sandbox, attachment: Attachment) -> SandboxInterface:
        return SandboxInterface(
            endpoint=attachment.endpoint_id,
            network=self._core.networks.get(attachment.network_id).name,
            interface=attachment.interface,
            address=_text(attachment.address),
            address_ipv6=_text(attachment.address_ipv6),
            additional_addresses=[str(each) for each in attachment.additional_addresses],
            mac=attachment.mac or None,
            gateway_priority=attachment.gateway_priority,
            state=attachment.phase.value,
            aliases=list(attachment.aliases),
            tap=encode_tap(self._core, sandbox, attachment) or msgspec.UNSET,
        )


def health(found: Health, *, verbose: bool) -> wire_health.Health:
    """Return the daemon's state."""
    drivers = [wire_health.DriverHealth(name=d.name, available=d.available, reason=d.reason) for d in found.drivers]
    operations = found.operations if verbose else msgspec.UNSET
    return wire_health.Health(
        status=found.status,
        problems=list(found.problems),
        drivers=drivers,
        operations=operations,
        prepared_sandboxes=_pool(found.pool) if verbose and found.pool.limit else msgspec.UNSET,
    )


def _pool(found: PoolStatus) -> wire_health.PreparedSandboxes:
    return wire_health.PreparedSandboxes(
        ready=found.ready,
        target=found.target,
        limit=found.limit,
        handed_out=found.handed_out,
        misses=found.misses,
        discarded=found.discarded,
        failures=found.failures,
        restarts=found.restarts,
        problem=found.problem,
    )


def reconciliation(found: Iterable[Drift]) -> reconcile.Reconciliation:
    """Return the differences."""
    encoded = [
        reconcile.Drift(kind=each.kind, object=each.object, problem=each.problem, reason=each.reason, done=each.done)
        for each in found
    ]
    return reconcile.Reconciliation(drift=encoded)


def explanation(found: Explanation) -> explain.Explanation:
    """Return what the resolver would answer a container."""
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


def node(found: NodeStatus) -> Node:
    """Return one of the hosts that share networks."""
    underlay = found.host.underlay
    return Node(
        name=found.host.name,
        this=found.this,
        state="alive" if found.alive else "away",
        underlay=str(underlay) if underlay else None,
        encryption=found.host.tunnel is not None,
        release=found.host.release,
        attachments=found.attachments,
        endpoints=found.endpoints,
    )


def reachability(found: HostReachability) -> NodeReachability:
    """Return how another host is reached."""
    host, path = found.host, found.path
    return NodeReachability(
        name=host.name,
        state="alive" if found.alive else "away",
        underlay=str(host.underlay) if host.underlay else None,
        reached=path.echo,
        vxlan=path.vxlan,
        round_trip_ms=_milliseconds(path.round_trip),
        path_mtu=path.path_mtu,
        needed_mtu=found.needed,
        clock_ahead_ms=_milliseconds(path.clock),
        problems=[*found.problems],
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _backend_state(attachment: Attachment) -> str:
    """Return whether new flows go to a backend, and if not, why; drained has priority over failing."""
    return "drained" if attachment.drained else "ready" if attachment.healthy else "failing"


def _probe(probe: Probe) -> wire.Probe:
    return wire.Probe(
        kind=probe.kind.value, port=probe.port, path=probe.path, interval=probe.interval, timeout=probe.timeout
    )


def _lease(lease: DhcpLease) -> AddressLease:
    return AddressLease(
        server=_text(lease.server),
        obtained=moment(lease.obtained),
        ends=moment(lease.ends) if isfinite(lease.ends) else None,
        router=_text(lease.router),
        dns=[str(each) for each in lease.dns],
        domain=lease.domain,
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def moment(seconds: float) -> datetime:
    """Return seconds since the epoch as the time that messages contain."""
    return datetime.fromtimestamp(seconds, UTC)
