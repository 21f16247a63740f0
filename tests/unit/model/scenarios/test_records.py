"""Records survive the store, and names and ids keep their rules."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandnet import model
from sandnet.errors import Error, Kind
from sandnet.model import (
    Affinity,
    Attachment,
    BoundPort,
    Endpoint,
    EndpointSpec,
    ExposedPort,
    HostEntry,
    JoinSpec,
    Network,
    NetworkOptions,
    NetworkSpec,
    Origin,
    ParentUpdate,
    Phase,
    PortMapping,
    Probe,
    ProbeKind,
    Process,
    Sandbox,
    Subnet,
    ids,
)
from sandnet.model.address import Address, Interface, Prefix, decode_hook, encode_hook, mac_for
from sandnet.model.link_names import LINK_NAME

V4, V6 = IPv4Address("10.0.0.2"), IPv6Address("2001:db8::2")
IF4, IF6 = IPv4Interface("10.0.0.2/24"), IPv6Interface("2001:db8::2/64")
NET4, NET6 = IPv4Network("10.0.0.0/24"), IPv6Network("2001:db8::/64")

PROCESS = Process(4711, 987654)
OPTIONS = NetworkOptions(
    subnet=NET4,
    gateway=V4,
    bridge_address=IF4,
    ip_range=IPv4Network("10.0.0.64/26"),
    ipv6=True,
    subnet_ipv6=NET6,
    gateway_ipv6=V6,
    mtu=1400,
    internal=True,
    icc=False,
    masquerade=False,
    firewall=False,
    bridge_name="br0",
    create_bridge=False,
    binding_address=V6,
)
EXPOSED = ExposedPort(proto=6, port=80)
MAPPING = PortMapping(proto=17, port=53, host_ip=V6, host_port=5300, host_port_end=5310)
HOSTS = (HostEntry(name="db", address=V4), HostEntry(name="db", address=V6))
PROBE = Probe(kind=ProbeKind.HTTP, port=80, path="/healthz", interval=0.5, timeout=0.25)
RECORDS: list[msgspec.Struct] = [
    PROCESS,
    OPTIONS,
    NetworkOptions(),
    Subnet(prefix=NET4, host_address=IF4, gateway=V4, range=NET4),
    Subnet(prefix=NET6, host_address=IF6, gateway=V6),
    Network(
        id="n" * 64,
        name="frontend",
        driver="bridge",
        phase=Phase.READY,
        sequence=7,
        created=1.5,
        options=OPTIONS,
        ipv4=Subnet(prefix=NET4, host_address=IF4, gateway=V4),
        ipv6=Subnet(prefix=NET6, host_address=IF6, gateway=V6),
        link="snb0123456789",
        link_adopted=True,
        added=(IPv4Interface("10.9.0.1/24"),),
        predefined=True,
    ),
    Network(id="n", name="none", driver="null", phase=Phase.CREATING, sequence=1, created=0.0),
    NetworkSpec(name="frontend", driver="bridge", options=OPTIONS),
    EXPOSED,
    MAPPING,
    PortMapping(proto=6, port=80, host_ip=V4),
    BoundPort(proto=132, port=80, host_ip=V4, host_port=8080),
    BoundPort(proto=6, port=80, host_ip=V6, host_port=8080),
    Endpoint(
        id="e" * 64,
        name="/web",
        network_id="n" * 64,
        phase=Phase.REMOVING,
        sequence=8,
        created=2.5,
        address=IF4,
        address_ipv6=IF6,
        mac="02:42:0a:00:00:02",
        exposed_ports=(EXPOSED,),
        ports=(BoundPort(proto=6, port=80, host_ip=V6, host_port=8080),),
        labels={"a": "b"},
        aliases=("www",),
        affinity=Affinity.CLIENT,
        probe=PROBE,
        process=PROCESS,
        orphaned=True,
    ),
    PROBE,
    EndpointSpec(name="web", exposed_ports=(EXPOSED,), port_mapping=(MAPPING,), address=V4, address_ipv6=V6, mac="m"),
    HOSTS[1],
    ParentUpdate(endpoint_id="e", name="web", address=V6),
    Sandbox(
        container_id="c1",
        key="/var/run/docker/netns/c1",
        origin=Origin.JOINED,
        phase=Phase.READY,
        sequence=9,
        created=3.5,
        inode=4026531840,
        loopback_was_up=True,
        host_name="web",
        domain_name="example.com",
        hosts_path="/h",
        made_dirs=("/d",),
        resolv_conf_path="/r",
        dns=(V4, V6),
        extra_hosts=HOSTS,
        parent_hosts=HOSTS,
        process=PROCESS,
        auto_remove=True,
        occupied=True,
    ),
    Attachment(
        endpoint_id="e",
        network_id="n",
        container_id="c1",
        phase=Phase.READY,
        sequence=10,
        interface="eth0",
        host_link="snv0123456789",
        address=IF4,
        address_ipv6=IF6,
        mac="02:42:0a:00:00:02",
        gateway_priority=-3,
    ),
    JoinSpec(
        container_id="c1",
        dns=(V6, V4),
        extra_hosts=HOSTS,
        parent_updates=(ParentUpdate(endpoint_id="e", name="web", address=V4),),
        netns="/proc/1/ns/net",
        watch_pid=7,
        auto_remove=True,
    ),
]


def test_every_record_type_has_an_example() -> None:
    classes = {value for name in model.__all__ if isinstance(value := getattr(model, name), type)}
    records = {cls for cls in classes if issubclass(cls, msgspec.Struct)}

    assert {type(record) for record in RECORDS} == records


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_encoded_record_decodes_to_the_same(record: msgspec.Struct) -> None:
    text = msgspec.json.encode(record, enc_hook=encode_hook)
    back = msgspec.json.decode(text, type=type(record), dec_hook=decode_hook)

    assert back == record
    assert [type(value) for value in msgspec.structs.astuple(back)] == [
        type(value) for value in msgspec.structs.astuple(record)
    ]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_is_immutable(record: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(record, record.__struct_fields__[0], None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (kind, value)
        for kind, values in (
            (Address, (V4, V6, ip_address("::ffff:10.0.0.1"))),
            (Interface, (IF4, IF6, ip_interface("10.0.0.1/32"))),
            (Prefix, (NET4, NET6, ip_network("0.0.0.0/0"))),
        )
        for value in values
    ],
)
def test_union_decodes_either_family_to_the_right_class(kind: type, value: object) -> None:
    back = decode_hook(kind, str(value))

    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"proto":6,"port":80,"host_ip":"999.0.0.1","host_port":1}',
        b'{"proto":6,"port":80,"host_ip":"10.0.0.1/24","host_port":1}',
        b'{"proto":6,"port":80,"host_ip":16909060,"host_port":1}',
        b'{"proto":6,"port":80,"host_ip":["10.0.0.1"],"host_port":1}',
    ],
)
def test_decoding_a_missing_address_reports_where(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.host_ip"):
        msgspec.json.decode(text, type=BoundPort, dec_hook=decode_hook)


def test_encoding_a_foreign_object_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        msgspec.json.encode(object(), enc_hook=encode_hook)
    with pytest.raises(NotImplementedError):
        decode_hook(complex, "1")


@pytest.mark.parametrize(
    ("address", "mac"),
    [("10.70.0.2", "02:42:0a:46:00:02"), ("172.18.42.2", "02:42:ac:12:2a:02"), ("0.0.0.0", "02:42:00:00:00:00")],
)
def test_mac_of_an_ipv4_address_is_02_42_and_its_bytes(address: str, mac: str) -> None:
    assert mac_for(IPv4Address(address)) == mac


def test_new_ids_are_unique_hex_with_non_numeric_short_forms() -> None:
    made = [ids.new_id() for _ in range(2000)]

    assert len(set(made)) == len(made)
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in made)
    assert not any(one[:12].isdecimal() for one in made)


def test_id_with_an_all_digit_short_form_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = iter(["1" * 64, "123456789012" + "a" * 52, "a" * 64])
    monkeypatch.setattr("secrets.token_hex", lambda count: next(draws))

    assert ids.new_id() == "a" * 64


NAME_CHARACTERS = "ABCabc019_-"


@pytest.mark.parametrize("name", ["a", "9", "A-b_c", "x" * 63])
def test_valid_name_is_returned_unchanged(name: str) -> None:
    assert ids.check_network_name(name) == name
    assert ids.check_endpoint_name(name) == name
    assert ids.check_endpoint_name("/" + name) == "/" + name
    assert ids.check_container_id(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "_a", "a.b", "a b", "a/b", "x" * 64, "a\n", "é", "//a", "a\x00", "..", "/", "٣"]
)
def test_bad_name_is_invalid(name: str) -> None:
    for check in (ids.check_network_name, ids.check_endpoint_name):
        with pytest.raises(Error) as caught:
            check(name)
        assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_name")
        assert caught.value.hint


def test_leading_slash_in_a_network_name_is_invalid() -> None:
    with pytest.raises(Error):
        ids.check_network_name("/a")


@pytest.mark.parametrize("container", ["a.b", "c" * 128, "0-._"])
def test_valid_container_id_is_returned_unchanged(container: str) -> None:
    assert ids.check_container_id(container) == container


@pytest.mark.parametrize("container", ["", ".", "..", ".a", "-a", "a/b", "c" * 129, "a\n", "a b"])
def test_bad_container_id_is_invalid(container: str) -> None:
    with pytest.raises(Error) as caught:
        ids.check_container_id(container)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_container_id")


@pytest.mark.parametrize("name", ["a", "web.example.com", "_srv.x", "1.2", "l" * 63, ".".join(["l" * 63] * 3)])
def test_valid_host_name_is_returned_unchanged(name: str) -> None:
    assert ids.check_host_name(name, "host_name") == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "-a", "a-", "l" * 64, ".".join(["l" * 63] * 4), "a b", "a\n", "a\tb", "#"]
)
def test_bad_host_name_is_invalid_and_names_the_field(name: str) -> None:
    with pytest.raises(Error) as caught:
        ids.check_host_name(name, "domain_name")
    assert "domain_name" in caught.value.message


@settings(deadline=None)
@given(st.text(alphabet=NAME_CHARACTERS, min_size=1, max_size=70))
def test_name_validity_depends_on_first_character_and_length(name: str) -> None:
    good = len(name) <= 63 and name[0] not in "_-"

    assert bool(ids.NETWORK_NAME.fullmatch(name)) is good


@pytest.mark.parametrize(("name", "good"), [("br0", True), ("a" * 15, True), ("a" * 16, False), ("a/b", False)])
def test_link_name_pattern_matches_what_the_kernel_accepts(name: str, good: bool) -> None:
    assert bool(LINK_NAME.fullmatch(name)) is good


def test_bare_endpoint_name_has_no_leading_slash() -> None:
    assert ids.bare("/web") == "web"
    assert ids.bare("web") == "web"
