"""Plan a join: functions that decide on the records of the sandbox and the attachment."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from itertools import count
from posixpath import join as join_path

from msgspec.structs import replace

from sandnet.core.state.leases import Lease, Leases
from sandnet.core.state.records import Records
from sandnet.core.state.shared_writer import joined_elsewhere
from sandnet.drivers.base import Supply
from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.types import MovedLink
from sandnet.model import (
    Attachment,
    Endpoint,
    EndpointSpec,
    HostEntry,
    JoinSpec,
    Network,
    Origin,
    Phase,
    Process,
    Sandbox,
)
from sandnet.model.address import new_mac
from sandnet.model.ids import new_id
from sandnet.model.interfaces.interface_options import check_routes
from sandnet.model.link_names import OWN_LINK, outer_name, port_name
from sandnet.model.remote_attachment import RemoteAttachment
from sandnet.model.sandbox import KEY_LENGTH
from sandnet.model.supplied_link import supplied_alias
from sandnet.model.tap import TapOptions

HOST_DRIVER = "host"
MAX_INTERFACES = 256
MAX_HOSTS = 1024
"""Lines of a sandbox's hosts file from ``extra_hosts`` of all its joins, and as many from ``parent_updates`` of
others.
"""


def check_host_network_exclusive(
    sandbox: Sandbox | None, network: Network, attached: Collection[Attachment], spec: JoinSpec
) -> None:
    """Refuse a container on the host's network and on others at once, and options that a host network cannot have.

    Raises:
        Error: kind ``INVALID``.
    """
    on_host = network.driver == HOST_DRIVER
    if on_host and spec.auto_remove and not spec.watch_pid:
        raise invalid("auto_remove on a host network needs watch_pid: the host's namespace is never empty")
    if on_host and (spec.netns or spec.pid):
        raise invalid("netns and pid cannot be given on a host network: its sandbox is the host's own namespace")
    if sandbox and attached and (sandbox.origin is Origin.HOST) != on_host:
        message = f"container {spec.container_id} cannot be on the host's network and on others at once"
        raise invalid(message, "leave the one before joining the other", "host_network")


def check_not_joined(
    endpoint: Endpoint,
    attached: Collection[Attachment],
    remote: Collection[RemoteAttachment],
    container_id: str,
    *,
    many: bool,
    shareable: bool,
) -> None:
    """Refuse a second join of a container to an endpoint, and, unless ``many``, a second container on any host.

    Args:
        endpoint: the endpoint.
        attached: its attachments on this host.
        remote: those on other hosts.
        container_id: the container that would join.
        many: whether it may be one more backend.
        shareable: whether it could be one, if the request had asked for that.

    Raises:
        Error: kind ``INVALID``, naming the container that is attached.
    """
    for elsewhere in () if many else remote:
        raise joined_elsewhere(endpoint.name, elsewhere.container_id, elsewhere.host)
    for attachment in attached:
        if not many or attachment.container_id == container_id:
            message = f"a container has already joined endpoint {endpoint.name}: {attachment.container_id}"
            if attachment.container_id == container_id:
                hint = "it is attached already, and stays so; to attach it in another way, detach it first"
            elif shareable:
                hint = "detach it first, create another endpoint, or attach yours as one more backend (service attach)"
            else:
                hint = "detach it first, or create another endpoint: it cannot be one of several backends here"
            raise invalid(message, hint, "already_joined")


def check_interface_options(
    network: Network, endpoint: Endpoint, spec: JoinSpec, known: Sandbox | None, *, external: bool
) -> None:
    """Refuse routes and parameters where the daemon does not configure the interface, and impossible routes.

    Raises:
        Error: kind ``INVALID``.
    """
    if spec.options is None:
        return
    if external or spec.external_key or spec.tap or not endpoint.mac or (known and known.is_outside):
        message = "routes and sysctls need an interface that sandnet configures: one in a namespace, on a bridge"
        raise invalid(message, "leave them out", "no_interface")
    subnets = {4: network.ipv4.prefix if network.ipv4 else None, 6: network.ipv6.prefix if network.ipv6 else None}
    check_routes(spec.options.routes, subnets, "routes")


def check_tap(
    network: Network,
    endpoint: Endpoint,
    spec: JoinSpec,
    own: Collection[Attachment],
    others: Collection[Attachment],
) -> None:
    """Refuse a join of a virtual machine that cannot be one, or a tap for a container that is none.

    Args:
        network: the network.
        endpoint: the endpoint to join.
        spec: the request.
        own: the attachments of the container.
        others: those of the endpoint.

    Raises:
        Error: kind ``INVALID``.
    """
    kinds = {_kind_of(each.tap) for each in own}
    if kinds - {_kind_of(spec.tap)}:
        message = f"container {spec.container_id} is {kinds.pop()} on its other networks"
        raise invalid(message, "join it in the same way, or take another id", "link_type")
    if not endpoint.mac:
        message = f"network {network.name} ({network.driver}) gives no interface, so there can be no tap"
        raise invalid(message, "name a network of type bridge", "no_interface")
    if others:
        message = f"endpoint {endpoint.name} has another container, and a virtual machine cannot share its address"
        raise invalid(message, "create an endpoint for the virtual machine", "address_shared")
    if spec.tap and not spec.tap.inside and spec.auto_remove and not spec.watch_pid:
        message = "auto_remove of a virtual machine needs watch_pid: it has no namespace that becomes empty"
        raise invalid(message, "name the emulator's process with watch_pid", "no_process")


def _kind_of(tap: TapOptions | None) -> str:
    if tap is None:
        return "no virtual machine"
    return "a virtual machine with a tap in its sandbox" if tap.inside else "a virtual machine with a tap on the host"


def candidate_keys(directory: str, container_id: str) -> Iterator[str]:
    """Yield sandbox keys for a container, the best first, without end.

    First the first 12 characters of its id, then as many more as make it different, then tildes where the id ends too
    early.
    """
    for length in range(min(KEY_LENGTH, len(container_id)), len(container_id) + 1):
        yield join_path(directory, container_id[:length])
    for tildes in count(1):
        yield join_path(directory, container_id + "~" * tildes)


def plan_sandbox(
    records: Records, files_dir: str, spec: JoinSpec, network: Network, process: Process | None
) -> Sandbox:
    """Return the record of a container's sandbox that does not exist yet, without its key."""
    if spec.external_key:
        return _external_sandbox(records, spec)
    own_dir = join_path(files_dir, spec.container_id)
    outside = spec.tap is not None and not spec.tap.inside
    return Sandbox(
        container_id=spec.container_id,
        key="",
        origin=_origin(spec, network),
        phase=Phase.CREATING,
        sequence=records.next_sequence(),
        created=time.time(),
        host_name=spec.host_name,
        domain_name=spec.domain_name,
        hosts_path="" if outside else spec.hosts_path or join_path(own_dir, "hosts"),
        resolv_conf_path="" if outside else spec.resolv_conf_path or join_path(own_dir, "resolv.conf"),
        dns=spec.dns,
        dns_search=spec.dns_search,
        dns_options=spec.dns_options,
        extra_hosts=spec.extra_hosts,
        process=process,
        end_process=spec.end_process,
        auto_remove=process is not None if spec.auto_remove is None else spec.auto_remove,
        watched_path=spec.netns if spec.watch_netns else "",
    )


def _origin(spec: JoinSpec, network: Network) -> Origin:
    if spec.tap and not spec.tap.inside:
        return Origin.GUEST
    if network.driver == HOST_DRIVER:
        return Origin.HOST
    return Origin.JOINED if spec.netns or spec.pid else Origin.MADE


def _external_sandbox(records: Records, spec: JoinSpec) -> Sandbox:
    return Sandbox(
        container_id=spec.container_id,
        key=spec.external_key,
        origin=Origin.EXTERNAL,
        phase=Phase.CREATING,
        sequence=records.next_sequence(),
        created=time.time(),
        host_name=spec.host_name,
        dns=spec.dns,
    )


def amend_sandbox(sandbox: Sandbox, spec: JoinSpec, process: Process | None) -> Sandbox:
    """Return a known sandbox with the options of a further join; options that the join leaves out stay.

    Raises:
        Error: ``INVALID`` when the join names other file paths than the first one did, or too many hosts.
    """
    for requested, known in ((spec.hosts_path, sandbox.hosts_path), (spec.resolv_conf_path, sandbox.resolv_conf_path)):
        if requested and requested != known:
            message = f"sandbox of {sandbox.container_id} already has its file at {known}"
            raise invalid(message, "name the same path, or none", "path_differs")
    extra_hosts = tuple(dict.fromkeys((*sandbox.extra_hosts, *spec.extra_hosts)))
    if len(extra_hosts) > MAX_HOSTS:
        message = f"extra_hosts of all joins of {sandbox.container_id}: {len(extra_hosts)} are too many"
        raise invalid(message, f"give at most {MAX_HOSTS} in all")
    return replace(
        sandbox,
        host_name=spec.host_name or sandbox.host_name,
        domain_name=spec.domain_name or sandbox.domain_name,
        dns=spec.dns or sandbox.dns,
        dns_search=spec.dns_search or sandbox.dns_search,
        dns_options=spec.dns_options or sandbox.dns_options,
        extra_hosts=extra_hosts,
        process=process or sandbox.process,
        end_process=spec.end_process if process else sandbox.end_process,
        auto_remove=process is not None or sandbox.auto_remove if spec.auto_remove is None else spec.auto_remove,
    )


def plan_attachment(
    records: Records,
    leases: Leases,
    network: Network,
    endpoint: Endpoint,
    spec: JoinSpec,
    taken: Collection[str],
    host_link: str = "",
) -> tuple[Attachment, tuple[str, str] | None]:
    """Return the record of the new interface, and the network's allocation cursor if it moves.

    The first backend has the endpoint's own address. Each further one gets an address of its own, and a new MAC: flows
    that were learned of an earlier backend with its address must not become valid again.

    Args:
        records: the current ones.
        leases: allocate the addresses of a further backend.
        network: the endpoint's.
        endpoint: the endpoint to join.
        spec: the options of the join.
        taken: the interface names in the namespace.
        host_link: the name of the prepared link on the host; empty: a new name.

    Raises:
        Error: ``CONFLICT`` the namespace has an interface of the requested name; ``EXHAUSTED`` a pool is full.
    """
    host_link = host_link or port_name(new_id())
    interface = outer_name(host_link) if spec.external_key else _interface(spec, taken)
    first = not records.attachments_of_endpoint(endpoint.id) and not records.remote.of_endpoint(endpoint.id)
    lease = Lease(endpoint.address, endpoint.address_ipv6, endpoint.mac, None, endpoint.additional_addresses)
    if not first:
        lease = leases.take(network, EndpointSpec(name=endpoint.name))
        lease = lease._replace(mac=new_mac() if lease.mac else "")
    attachment = Attachment(
        endpoint_id=endpoint.id,
        network_id=network.id,
        container_id=spec.container_id,
        phase=Phase.CREATING,
        sequence=records.next_sequence(),
        interface=interface if lease.mac else "",
        host_link=host_link if lease.mac else "",
        address=lease.address,
        address_ipv6=lease.address_ipv6,
        additional_addresses=lease.additional,
        mac=lease.mac,
        gateway_priority=spec.gateway_priority,
        holder=first,
        leased=not first,
        weight=spec.weight,
        aliases=spec.aliases,
        tap=spec.tap if lease.mac else None,
        options=spec.options if lease.mac else None,
    )
    return attachment, lease.cursor


def with_parent_host(sandbox: Sandbox, name: str, entry: HostEntry) -> Sandbox:
    """Return the sandbox with a new address for one name; of too many names the oldest is dropped."""
    kept = tuple(known for known in sandbox.parent_hosts if known.name.lower() != name.lower())
    return replace(sandbox, parent_hosts=(*kept[-(MAX_HOSTS - 1) :], entry))


def refuse_outside(network: Network, spec: JoinSpec, known: Sandbox | None) -> None:
    """Refuse virtual machines and containers of engines on a network whose links another program makes.

    Raises:
        Error: kind ``INVALID``.
    """
    if spec.external_key or spec.tap or (known and known.is_outside):
        message = f"network {network.name} ({network.driver}) moves links: only sandboxes with a namespace can join it"
        raise invalid(message, "join a network of type bridge", "link_type")


def refuse_claimed(records: Records, supply: Supply) -> None:
    """Refuse a link that the daemon made for a container of an engine, which will move it.

    Raises:
        Error: kind ``CONFLICT``.
    """
    source = supply.link.source
    if OWN_LINK.fullmatch(source) and any(each.interface == source for each in records.attachments()):
        raise Error(Kind.CONFLICT, f"link {source} is not moved: it is another container's", code="link_in_use")


def named_as_supplied(attachment: Attachment, supply: Supply, taken: Collection[str]) -> Attachment:
    """Return an attachment with the link that a plugin supplied, and the name that it gets inside.

    Args:
        attachment: its interface has the requested name; empty: the first free one of the plugin's prefix.
        supply: the plugin's answer.
        taken: the interface names in the namespace.

    Raises:
        Error: ``EXHAUSTED``.
    """
    interface = attachment.interface or _free_interface(taken, supply.prefix)
    return replace(attachment, interface=interface, supplied=supply.link)


def moved_link(attachment: Attachment) -> MovedLink | None:
    """Return a supplied link as it is to be in the sandbox; ``None``: none was supplied."""
    link = attachment.supplied
    if link is None:
        return None
    return MovedLink(
        source=link.source,
        interface=attachment.interface,
        mac=attachment.mac,
        addresses=tuple(each for each in (attachment.address, attachment.address_ipv6) if each),
        additional_addresses=tuple(each.ip for each in attachment.additional_addresses),
        routes=tuple((route.destination, route.gateway) for route in link.routes),
        alias=supplied_alias(attachment.endpoint_id),
    )


def _interface(spec: JoinSpec, taken: Collection[str]) -> str:
    if spec.interface and spec.interface in taken:
        message = f"the namespace of {spec.container_id} has an interface {spec.interface} already"
        raise Error(Kind.CONFLICT, message, "request another name", "interface_taken")
    return spec.interface or _free_interface(taken)


def _free_interface(taken: Collection[str], prefix: str = "eth") -> str:
    for index in range(MAX_INTERFACES):
        if f"{prefix}{index}" not in taken:
            return f"{prefix}{index}"
    raise Error(Kind.EXHAUSTED, f"the sandbox has {MAX_INTERFACES} interfaces already", code="interfaces_exhausted")
