"""The reference's messages: spelling, absence, types, and the order of keys."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from sandnet.wire.libnetwork import (
    Backend,
    BackendChange,
    Endpoint,
    EndpointCreate,
    ErrorBody,
    Join,
    Network,
    NetworkCreate,
    Service,
    ServicePublish,
    decode,
)


@pytest.mark.parametrize(
    "spelling",
    [
        {"proto": 6, "port": 80, "host_ip": "192.0.2.1", "host_port": 8000, "host_port_end": 8010},
        {"Proto": 6, "Port": 80, "HostIP": "192.0.2.1", "HostPort": 8000, "HostPortEnd": 8010},
        {"proto": 6, "port": 80, "hostip": "192.0.2.1", "hostport": 8000, "hostportend": 8010},
    ],
    ids=["snake", "go", "lower"],
)
def test_every_port_spelling_decodes_to_the_same_mapping(spelling: dict[str, object]) -> None:
    body = decode(json.dumps({"port_mapping": [spelling]}).encode(), ServicePublish)
    assert body.port_mapping is not None
    reported = body.port_mapping[0]
    assert (reported.proto, reported.port, reported.host_ip, reported.host_port, reported.host_port_end) == (
        6,
        80,
        "192.0.2.1",
        8000,
        8010,
    )


def test_exposed_ports_in_go_spelling_are_decoded() -> None:
    body = decode(b'{"exposed_ports": [{"Proto": "udp", "Port": 53}]}', EndpointCreate)
    assert body.exposed_ports is not None
    assert (body.exposed_ports[0].proto, body.exposed_ports[0].port) == ("udp", 53)


def test_nulls_and_unknown_fields_decode_as_absent() -> None:
    body = decode(b'{"container_id": "c", "dns": null, "use_default_sandbox": null, "colour": {"a": []}}', Join)
    assert (body.container_id, body.dns, body.use_default_sandbox) == ("c", None, None)


def test_null_body_decodes_with_every_field_absent() -> None:
    assert decode(b" null\n", NetworkCreate) == NetworkCreate()


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"name": 5}', "$.name"),
        (b'{"exposed_ports": [{"proto": 256, "port": 1}]}', "$.exposed_ports[0].proto"),
        (b'{"exposed_ports": [{"proto": 6, "port": 0}]}', "$.exposed_ports[0].port"),
        (b'{"exposed_ports": [{"proto": 6, "port": 1.5}]}', "$.exposed_ports[0].port"),
        (b'{"exposed_ports": [{"proto": 6, "port": true}]}', "$.exposed_ports[0].port"),
        (b'{"exposed_ports": [null]}', "$.exposed_ports[0]"),
        (b'{"port_mapping": [{"HostPort": 65536}]}', "$.port_mapping[0].host_port"),
        (b'{"port_mapping": [{"HostIP": 1}]}', "$.port_mapping[0].host_ip"),
        (b'{"port_mapping": {}}', "$.port_mapping"),
        (b'{"labels": {"a": 1}}', "$.labels[...]"),
        (b'{"aliases": "a"}', "$.aliases"),
        (b'{"aliases": [1]}', "$.aliases[0]"),
        (b'{"affinity": "fast"}', "$.affinity"),
    ],
)
def test_wrong_type_or_range_error_names_the_place(body: bytes, place: str) -> None:
    with pytest.raises(ValueError, match="at `" + place.replace("$", r"\$").replace("[", r"\[").replace(".", r"\.")):
        decode(body, EndpointCreate)


@pytest.mark.parametrize("weight", [b"0", b"101", b"-1", b"1.5", b'"7"', b"true"])
def test_weight_out_of_range_error_names_the_place(weight: bytes) -> None:
    for kind in (Join, BackendChange):
        with pytest.raises(ValueError, match=r"at `\$\.weight`"):
            decode(b'{"weight": ' + weight + b"}", kind)


def test_backend_change_null_is_absent_and_bad_state_refused() -> None:
    assert decode(b'{"state": "drained", "weight": null}', BackendChange) == BackendChange(state="drained")
    assert decode(b'{"state": "active", "weight": 100}', BackendChange) == BackendChange(state="active", weight=100)
    with pytest.raises(ValueError, match=r"at `\$\.state`"):
        decode(b'{"state": "failing"}', BackendChange)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"{} {}",
        b"[]",
        b'"x"',
        b"3",
        b"\xff",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b"[" * 200_000,
    ],
)
def test_body_that_is_no_json_object_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode(body, EndpointCreate)


def test_encoding_without_details_has_reference_keys_in_order() -> None:
    endpoint = Endpoint(id="e", name="/lonely_pasteur", network="foo")
    service = Service(name="bar", id="s", network="foo")
    network = Network(name="foo", id="n", type="bridge", endpoints=[endpoint])
    assert msgspec.json.encode(service) == b'{"name":"bar","id":"s","network":"foo"}'
    assert msgspec.json.encode(network) == (
        b'{"name":"foo","id":"n","type":"bridge","endpoints":[{"id":"e","name":"/lonely_pasteur","network":"foo"}]}'
    )
    assert msgspec.json.encode(Backend(id="c")) == b'{"id":"c"}'
    assert list(msgspec.to_builtins(ErrorBody(message="m"))) == ["message", "code", "hint"]


def test_encoded_details_follow_the_reference_keys() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    endpoint = Endpoint(id="e", name="n", network="foo", address="10.0.0.2/24", address_ipv6=None, created=moment)
    reported = json.loads(msgspec.json.encode(endpoint))
    assert list(reported) == ["id", "name", "network", "address", "address_ipv6", "created"]
    assert reported["address_ipv6"] is None
    assert reported["created"] == "2026-01-02T00:00:00Z"


def test_client_decodes_a_verbose_answer_without_loss() -> None:
    endpoint = Endpoint(id="e", name="n", network="foo", backends=[Backend(id="c", interface="eth0", address=None)])
    assert msgspec.json.decode(msgspec.json.encode(endpoint), type=Endpoint) == endpoint
