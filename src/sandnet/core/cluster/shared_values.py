"""The keys and values of the shared store (``docs/adr/0030-records-of-many-hosts.md``). All hosts read them: a change
that others cannot ignore needs a new format. Values of networks, endpoints and attachments name theirs, except for the
first one; what has no format never changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from typing import Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from sandnet.core.state.schema import CLAIMS, address_claims, name_claim
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, Phase, Prefix, Sandbox
from sandnet.model.address import decode_hook, encode_hook
from sandnet.model.tunnel import HostTunnel

FIRST_FORMAT: Final = 1
FORMATS: tuple[int, ...] = (FIRST_FORMAT, 2)
"""Formats of the values that this release reads. All of them stay: what is not changed is not written again. The second
one has additional addresses of endpoints.
"""

GENERATION: Final = "generation"
"""Random; another value means that the store was replaced."""
HOSTS: Final = "host/"
FENCES: Final = "fence/"
ALIVE: Final = "alive/"
ATTACHED: Final = "attached/"
HOLDERS: Final = "holder/"
SUBNETS: Final = f"{CLAIMS}subnet/"
"""Claims of the networks' subnets."""


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a host. It has no lease: a host that is away is still known."""

    name: str
    underlay: Address | None = None
    """Address at which its overlay networks are reached."""
    tunnel: HostTunnel | None = None
    """How its encrypted networks are reached; ``None``: it has no WireGuard."""
    release: str = ""
    formats: tuple[int, ...] = (FIRST_FORMAT,)
    """Formats that it can read."""
    machine: str = ""
    """Digest of the machine's id: it finds another machine with this name."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """The fencing number of a host: a transaction that it sent under an earlier number is refused."""

    number: int
    start: str
    """Random id of the daemon's start: another one means that two daemons have one name."""


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """Present as long as the host's lease lasts."""

    number: int
    """Number of the lease: the fencing number with which it was written. It never comes back."""
    lease: int
    """Id of the lease in the store."""


class SharedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of all hosts."""

    network: Network


OWNER_ENDED: Final = -1
"""Number of no lease: that of an endpoint whose owner ended while its host goes on."""


class SharedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of all hosts."""

    endpoint: Endpoint
    host: str
    """Host that created it."""
    number: int = 0
    """Number of that host's lease, if the endpoint ends with it; 0: it is kept; :data:`OWNER_ENDED`: it has ended."""
    ports: tuple[BoundPort, ...] = ()
    """Host ports that it publishes there."""


class SharedAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """A container's attachment to an endpoint, as the other hosts need it."""

    request: str
    """Random id of the attach. What is written later of the same container is another attachment."""
    host: str
    number: int
    """Number of the lease of its host: it counts only while that lease lasts."""
    network_id: str
    endpoint_id: str
    container_id: str
    host_name: str = ""
    domain_name: str = ""
    mac: str = ""
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    leased: bool = False
    weight: int = 1
    drained: bool = False
    healthy: bool = True


V = TypeVar("V", HostRecord, Fence, Alive, SharedNetwork, SharedEndpoint, SharedAttachment)

_encoder = msgspec.json.Encoder(enc_hook=encode_hook)
_DECODERS: Final = {
    kind: msgspec.json.Decoder(kind, dec_hook=decode_hook)
    for kind in (HostRecord, Fence, Alive, SharedNetwork, SharedEndpoint, SharedAttachment)
}


class _Formatted(msgspec.Struct):
    format: int = FIRST_FORMAT


_FORMAT_DECODER: Final = msgspec.json.Decoder(_Formatted)


def encode(
    value: HostRecord | Fence | Alive | SharedNetwork | SharedEndpoint | SharedAttachment, format_: int = FIRST_FORMAT
) -> bytes:
    """Return the bytes of a value in a format."""
    encoded = _encoder.encode(value)
    return encoded if format_ == FIRST_FORMAT else b'{"format":%d,%b' % (format_, encoded[1:])


def decode(value: bytes, kind: type[V]) -> V:
    """Return the value of these bytes.

    Raises:
        msgspec.DecodeError: another release wrote it, or something else did.
    """
    if (format_ := _FORMAT_DECODER.decode(value).format) not in FORMATS:
        raise msgspec.DecodeError(f"its format is {format_}")
    found = _DECODERS[kind].decode(value)
    assert isinstance(found, kind)  # noqa: S101 - the decoder of that class
    return found


class AttachmentKey(NamedTuple):
    """What names an attachment in the shared store."""

    endpoint_id: str
    host: str
    container_id: str

    @property
    def key(self) -> str:
        """The key of the attachment."""
        return f"{ATTACHED}{self}"

    def __str__(self) -> str:
        return f"{self.endpoint_id}/{self.host}/{self.container_id}"


def is_attachment_key(key: str) -> bool:
    """Return whether a key is that of an attachment; another program may have written anything below the prefix."""
    return key.startswith(ATTACHED) and key.count("/") >= len(AttachmentKey._fields)


def attachment_key(text: str) -> AttachmentKey:
    """Return the parts of an attachment's key, with or without its prefix."""
    endpoint_id, host, container_id = text.removeprefix(ATTACHED).split("/", 2)
    return AttachmentKey(endpoint_id, host, container_id)


def attached_prefix(endpoint_id: str) -> str:
    """Return the prefix of the attachments of an endpoint."""
    return f"{ATTACHED}{endpoint_id}/"


def holder_key(endpoint_id: str) -> str:
    """Return the key that names the attachment which answers for the endpoint's address."""
    return f"{HOLDERS}{endpoint_id}"


def network_claims(network: Network) -> Iterator[str]:
    """Yield the keys that only one network of all hosts may hold."""
    yield name_claim(network)
    if network.vni:
        yield f"{CLAIMS}vni/{network.vni}"
    for subnet in (network.ipv4, network.ipv6):
        if subnet:
            yield f"{SUBNETS}{subnet.prefix}"


@lru_cache(maxsize=4096)
def claimed_subnet(key: str) -> Prefix | None:
    """Return the subnet that a key claims; ``None``: it claims none, or another program wrote it."""
    if not key.startswith(SUBNETS):
        return None
    try:
        return ip_network(key.removeprefix(SUBNETS))
    except ValueError:
        return None


def endpoint_claims(endpoint: Endpoint) -> Iterator[str]:
    """Yield the keys that only one endpoint of all hosts may hold."""
    yield name_claim(endpoint)
    if endpoint.mac:
        yield f"{CLAIMS}mac/{endpoint.network_id}/{endpoint.mac}"
    yield from address_claims(endpoint.network_id, endpoint)


def attachment_claims(attachment: SharedAttachment) -> Iterator[str]:
    """Yield the keys that only one attachment of all hosts may hold, besides the holder's."""
    if attachment.leased:
        if attachment.mac:
            yield f"{CLAIMS}mac/{attachment.network_id}/{attachment.mac}"
        yield from address_claims(attachment.network_id, attachment)


def format_of(endpoint: Endpoint) -> int:
    """Return the format of an endpoint's value: 2 if it has additional addresses, which hosts of format 1 ignore."""
    return 2 if endpoint.additional_addresses else 1


def shared_network(network: Network) -> SharedNetwork:
    """Return what all hosts know of a network: nothing that one host alone found or made."""
    return SharedNetwork(network=replace(network, phase=Phase.READY, sequence=0))


def shared_endpoint(endpoint: Endpoint, host: str, number: int) -> SharedEndpoint:
    """Return what all hosts know of an endpoint: not its process.

    Args:
        endpoint: the endpoint.
        host: the host that created it.
        number: the number of that host's lease.
    """
    known = replace(endpoint, phase=Phase.READY, sequence=0, ports=(), ports_withdrawn=False, process=None)
    return SharedEndpoint(endpoint=known, host=host, number=number if endpoint.has_owner else 0, ports=endpoint.ports)


def shared_attachment(
    attachment: Attachment, sandbox: Sandbox | None, host: str, number: int, request: str
) -> SharedAttachment:
    """Return what all hosts know of an attachment."""
    return SharedAttachment(
        request=request,
        host=host,
        number=number,
        network_id=attachment.network_id,
        endpoint_id=attachment.endpoint_id,
        container_id=attachment.container_id,
        host_name=sandbox.host_name if sandbox else "",
        domain_name=sandbox.domain_name if sandbox else "",
        mac=attachment.mac,
        address=attachment.address,
        address_ipv6=attachment.address_ipv6,
        leased=attachment.leased,
        weight=attachment.weight,
        drained=attachment.drained,
        healthy=attachment.healthy,
    )


def is_release(before: Endpoint | None, after: Endpoint) -> bool:
    """Return whether a change is only that the last container of an endpoint has ended, or its ports are withdrawn."""
    if before is None or before == after:  # a record that is only published again has to be, and is tried again
        return False
    withdrawn = replace(before, ports=(), direct_ports=(), ports_withdrawn=after.ports_withdrawn)
    return after in (replace(before, orphaned=True), withdrawn)
