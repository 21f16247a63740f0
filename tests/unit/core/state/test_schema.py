"""The claims of records, and the fields by which a change of them is recognised."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

import msgspec
import pytest

from sandnet.core.state.schema import Record, claimed_by, claims_of
from sandnet.model import Attachment, BoundPort, Endpoint, Network, Origin, Phase, Sandbox

PORT = BoundPort(proto=6, port=80, host_ip=IPv4Address("0.0.0.0"), host_port=8080)
NETWORK = Network(id="n", name="net", driver="bridge", phase=Phase.READY, sequence=1, created=0.0)
ENDPOINT = Endpoint(
    id="e", name="web", network_id="n", phase=Phase.READY, sequence=2, created=0.0,
    address=IPv4Interface("10.0.0.2/24"), address_ipv6=IPv6Interface("fd00::2/64"), ports=(PORT,),
    additional_addresses=(IPv4Interface("10.0.0.50/24"), IPv6Interface("fd00::50/64")),
)  # fmt: skip
SANDBOX = Sandbox(
    container_id="c", key="/run/c", origin=Origin.MADE, phase=Phase.READY, sequence=3, created=0.0, hosts_path="/h",
    resolv_conf_path="/r",
)  # fmt: skip
ATTACHMENT = Attachment(
    endpoint_id="e", network_id="n", container_id="c", phase=Phase.READY, sequence=4, interface="eth0",
    host_link="snv1", holder=False, leased=True, address=IPv4Interface("10.0.0.3/24"),
    address_ipv6=IPv6Interface("fd00::3/64"),
)  # fmt: skip


def _others(value: Any) -> list[Any]:
    """Return values that a field could have instead."""
    match value:
        case bool():
            return [not value]
        case str():
            return ["", f"{value}x"]
        case IPv4Interface() | IPv6Interface():
            return [None, value + 1]
        case tuple():
            return [(), (msgspec.structs.replace(PORT, host_port=8081),), (msgspec.structs.replace(PORT, proto=17),)]
        case _:
            return []


@pytest.mark.parametrize("record", [NETWORK, ENDPOINT, SANDBOX, ATTACHMENT], ids=lambda record: type(record).__name__)
def test_each_change_of_claims_is_recognised_by_the_fields(record: Record) -> None:
    tried = 0
    for field in msgspec.structs.fields(record):
        for value in _others(getattr(record, field.name)):
            changed = msgspec.structs.replace(record, **{field.name: value})
            try:
                claims = [*claims_of(changed)]
            except AttributeError:  # ports in a field of other tuples
                continue
            if claims != [*claims_of(record)]:
                tried += 1
                assert claimed_by(changed) != claimed_by(record), field.name
    assert tried


def test_every_address_of_an_endpoint_is_claimed() -> None:
    claimed = {claim.rpartition("/")[2] for claim in claims_of(ENDPOINT) if claim.startswith("claim/address/n/")}
    assert claimed == {"10.0.0.2", "fd00::2", "10.0.0.50", "fd00::50"}
