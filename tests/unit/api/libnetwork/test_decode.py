"""From the reference's messages to the model: what is accepted, and what is refused by name."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest

from sandnet.api.libnetwork import decode
from sandnet.errors import Error, Kind
from sandnet.model import Affinity, ExposedPort, HostEntry, ParentUpdate, PortMapping
from sandnet.model.tap import TapOptions
from sandnet.wire.libnetwork import BackendChange, EndpointCreate, Join, NetworkCreate

ID = "b18b795af8bad85cdd691ff24ffa2b08c02219d51992309dd120322689d2ab5a"


def endpoint(**fields: object) -> EndpointCreate:
    return msgspec.convert({"name": "baz", **fields}, EndpointCreate)


def join(**fields: object) -> Join:
    return msgspec.convert({"container_id": "c1", **fields}, Join)


def refused_endpoint(**fields: object) -> str:
    with pytest.raises(Error) as caught:
        decode.endpoint_spec(endpoint(**fields))
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def refused_join(**fields: object) -> str:
    with pytest.raises(Error) as caught:
        decode.join_spec(join(**fields))
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def test_tap_has_an_owner_and_the_usual_options() -> None:
    assert decode.join_spec(join(type="tap")).tap == TapOptions(owner=0, queues=1, vhost=False, offload=True)
    asked = TapOptions(owner=1000, group=36, queues=2, vhost=True, offload=False)
    assert decode.join_spec(join(type="tap", tap=msgspec.structs.asdict(asked))).tap == asked
    assert decode.join_spec(join(type="veth")).tap is None


@pytest.mark.parametrize("given", ["netns", "running_container", "hosts_path", "resolv_conf_path"])
def test_tap_excludes_what_needs_a_namespace(given: str) -> None:
    assert "cannot be given for a tap" in refused_join(type="tap", **{given: "/run/netns/a"})


def test_options_of_a_tap_need_its_type() -> None:
    assert "type is not tap" in refused_join(tap={"owner": 1})


@pytest.mark.parametrize("name", [None, "", ".", "a.b", "/foo", "-a", "a b", "a\n", "é", "x" * 64])
def test_bad_network_name_is_refused(name: str | None) -> None:
    with pytest.raises(Error) as caught:
        decode.network_spec(NetworkCreate(name=name))
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_name")


@pytest.mark.parametrize(("given", "driver"), [(None, "bridge"), ("", "bridge"), ("host", "host")])
def test_empty_network_type_is_bridge(given: str | None, driver: str) -> None:
    spec, unknown = decode.network_spec(
        NetworkCreate(name="foo", network_type=given, options={"com.docker.network.x": 1})
    )
    assert (spec.driver, unknown) == (driver, ["com.docker.network.x"])


def test_options_of_another_driver_are_passed_on() -> None:
    options: dict[str, object] = {"com.docker.network.x": 1}
    spec, unknown = decode.network_spec(NetworkCreate(name="foo", network_type="a/b:c", options=options))
    assert (spec.driver, spec.options.plugin_options, unknown) == ("a/b:c", '{"com.docker.network.x":1}', [])


@pytest.mark.parametrize("driver", ["../x", "a/../b", "x\0", " ", "x" * 200])
def test_impossible_driver_is_not_found(driver: str) -> None:
    with pytest.raises(Error) as caught:
        decode.network_spec(NetworkCreate(name="foo", network_type=driver))
    assert caught.value.kind is Kind.NOT_FOUND


def test_reference_endpoint_is_understood() -> None:
    spec = decode.endpoint_spec(endpoint(exposed_ports=[{"proto": 6, "port": 8080}], port_mapping=None))
    assert (spec.name, spec.exposed_ports, spec.port_mapping) == ("baz", (ExposedPort(proto=6, port=8080),), ())


def test_endpoint_mapping_keeps_every_field() -> None:
    ports = [
        {"proto": "tcp", "port": 80, "host_ip": "127.0.0.1", "host_port": 8080},
        {"proto": 17, "port": 53, "host_port": 5300, "host_port_end": 5310, "ip": "10.0.0.2"},
        {"proto": "sctp", "port": 9, "host_ip": ""},
    ]
    spec = decode.endpoint_spec(
        endpoint(
            name="/lonely_pasteur",
            port_mapping=ports,
            address="10.0.0.9",
            address_ipv6="fd00::9",
            mac="02:42:AC:11:00:02",
            labels={"a": "b"},
        )
    )
    assert spec.name == "/lonely_pasteur"
    assert spec.port_mapping == (
        PortMapping(proto=6, port=80, host_ip=ip_address("127.0.0.1"), host_port=8080),
        PortMapping(proto=17, port=53, host_port=5300, host_port_end=5310),
        PortMapping(proto=132, port=9),
    )
    assert (str(spec.address), str(spec.address_ipv6)) == ("10.0.0.9", "fd00::9")
    assert (spec.mac, spec.labels) == ("02:42:ac:11:00:02", {"a": "b"})


def test_port_exposed_twice_is_listed_once() -> None:
    ports = [{"proto": 6, "port": 80}, {"proto": "tcp", "port": 80}, {"proto": 17, "port": 80}]
    spec = decode.endpoint_spec(endpoint(exposed_ports=ports))
    assert spec.exposed_ports == (ExposedPort(proto=6, port=80), ExposedPort(proto=17, port=80))


@pytest.mark.parametrize("name", ["", "/", "//a", "a/b", "a.b", "-a", "a\n"])
def test_bad_endpoint_name_is_refused(name: str) -> None:
    assert "name" in refused_endpoint(name=name)


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({"port": 80}, "proto"),
        ({"proto": "icmp", "port": 80}, "proto"),
        ({"proto": 6}, "port"),
    ],
)
def test_incomplete_port_error_names_its_place(port: dict[str, object], field: str) -> None:
    assert f"exposed_ports[0].{field}" in refused_endpoint(exposed_ports=[port])
    assert f"port_mapping[0].{field}" in refused_endpoint(port_mapping=[port])


@pytest.mark.parametrize(
    "port",
    [
        {"proto": 1, "port": 80},
        {"proto": 6, "port": 80, "host_ip": "localhost"},
        {"proto": 6, "port": 80, "host_ip": "224.0.0.1"},
        {"proto": 6, "port": 80, "ip": "x"},
        {"proto": 6, "port": 80, "host_port": 9, "host_port_end": 8},
        {"proto": 6, "port": 80, "host_port_end": 8},
    ],
)
def test_bad_port_mapping_is_refused(port: dict[str, object]) -> None:
    assert "port_mapping[1]" in refused_endpoint(port_mapping=[{"proto": 6, "port": 1}, port])


def test_duplicate_host_port_error_names_both_places() -> None:
    ports = [{"proto": 6, "port": 80, "host_port": 8080}, {"proto": 6, "port": 81, "host_port": 8080}]
    message = refused_endpoint(port_mapping=ports)
    assert "port_mapping[0]" in message
    assert "port_mapping[1]" in message


def test_same_host_port_on_other_protocol_or_address_is_accepted() -> None:
    ports = [
        {"proto": 6, "port": 80, "host_port": 8080, "host_ip": "127.0.0.1"},
        {"proto": 6, "port": 80, "host_port": 8080, "host_ip": "127.0.0.2"},
        {"proto": 17, "port": 80, "host_port": 8080, "host_ip": "127.0.0.1"},
        {"proto": 6, "port": 80},
        {"proto": 6, "port": 80},
    ]
    assert len(decode.endpoint_spec(endpoint(port_mapping=ports)).port_mapping) == 5


@pytest.mark.parametrize(
    "mac",
    ["x", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02-42-ac-11-00-02", "02:42:ac:11:00:02\n"],
)
def test_mac_that_is_not_unicast_is_refused(mac: str) -> None:
    assert "mac" in refused_endpoint(mac=mac)


@pytest.mark.parametrize("field", [{"address": "fd00::1"}, {"address": "10.0.0.1/24"}, {"address_ipv6": "fe80::1%lo"}])
def test_address_of_another_kind_is_refused(field: dict[str, str]) -> None:
    assert next(iter(field)) in refused_endpoint(**field)


def test_reference_join_treats_empty_and_null_as_absent() -> None:
    fields = {"host_name": "", "domain_name": None, "hosts_path": "", "resolv_conf_path": None, "dns": None}
    spec = decode.join_spec(join(**fields, extra_hosts=None, parent_updates=None, use_default_sandbox=True))
    assert (spec.host_name, spec.hosts_path, spec.dns, spec.use_default_sandbox) == ("", "", (), True)


def test_join_mapping_keeps_every_field() -> None:
    spec = decode.join_spec(
        join(
            host_name="web",
            domain_name="example.com",
            hosts_path="/var/lib/docker/containers/c/hosts",
            dns=["127.0.0.1", "2001:db8::53"],
            extra_hosts=[{"name": "db.local", "address": "10.0.0.3"}],
            parent_updates=[{"endpoint_id": ID, "name": "/web", "address": "10.0.0.4"}],
            gateway_priority=-5,
            pid=17,
        )
    )
    assert (spec.host_name, spec.domain_name, spec.gateway_priority, spec.pid) == ("web", "example.com", -5, 17)
    assert spec.dns == (ip_address("127.0.0.1"), ip_address("2001:db8::53"))
    assert spec.extra_hosts == (HostEntry(name="db.local", address=ip_address("10.0.0.3")),)
    assert spec.parent_updates == (ParentUpdate(endpoint_id=ID, name="web", address=ip_address("10.0.0.4")),)


@pytest.mark.parametrize("container", ["", "../../x", "a/b", ".a", "a" * 129, "a\n"])
def test_bad_container_id_in_a_join_is_refused(container: str) -> None:
    assert "container" in refused_join(container_id=container)


@pytest.mark.parametrize(
    "path", ["hosts", "/", "/a/../b", "/a/./b", "/a//b", "/a/", "/a\0b", "/a\nb", "/" + "a" * 5000]
)
@pytest.mark.parametrize("field", ["hosts_path", "resolv_conf_path", "netns"])
def test_path_that_is_not_plain_is_refused(field: str, path: str) -> None:
    assert field in refused_join(**{field: path})


@pytest.mark.parametrize(
    "fields",
    [
        {"host_name": "a b"},
        {"host_name": "a\n10.0.0.1 evil"},
        {"domain_name": ".com"},
        {"dns": ["example.com"]},
        {"dns": ["0.0.0.0"]},
        {"dns": ["8.8.8.8\noptions ndots:9"]},
        {"extra_hosts": [{"name": "a\nb", "address": "10.0.0.1"}]},
        {"extra_hosts": [{"name": "a"}]},
        {"extra_hosts": [{"address": "10.0.0.1"}]},
        {"parent_updates": [{"endpoint_id": "../x", "name": "a", "address": "10.0.0.1"}]},
        {"parent_updates": [{"name": "a", "address": "10.0.0.1"}]},
    ],
)
def test_characters_a_file_cannot_hold_name_the_field(fields: dict[str, object]) -> None:
    assert refused_join(**fields).find(next(iter(fields))) >= 0


def test_aliases_are_lowercased_and_unique() -> None:
    names = ["DB", "db", "_sip.Example.COM", "a" * 63]
    assert decode.endpoint_spec(endpoint(aliases=names)).aliases == ("db", "_sip.example.com", "a" * 63)
    assert decode.join_spec(join(aliases=names)).aliases == ("db", "_sip.example.com", "a" * 63)
    assert decode.endpoint_spec(endpoint(aliases=None)).aliases == decode.join_spec(join(aliases=[])).aliases == ()


@pytest.mark.parametrize("alias", ["", ".", "a b", "a\n", "-a", "a-", "a..b", "a.", "é", "a" * 64, "a/b", "a." * 127])
def test_alias_that_is_no_host_name_error_names_its_place(alias: str) -> None:
    assert "aliases[1]" in refused_endpoint(aliases=["ok", alias])
    assert "aliases[1]" in refused_join(aliases=["ok", alias])


def test_too_many_aliases_are_refused() -> None:
    names = [f"a{number}" for number in range(decode.MAX_ALIASES + 1)]
    assert "101 are too many" in refused_endpoint(aliases=names)
    assert len(decode.endpoint_spec(endpoint(aliases=names[1:])).aliases) == decode.MAX_ALIASES


def test_balancing_defaults_to_flow_affinity_and_equal_weights() -> None:
    assert decode.endpoint_spec(endpoint()).affinity is Affinity.FLOW
    assert decode.endpoint_spec(endpoint(affinity="client")).affinity is Affinity.CLIENT
    assert (decode.join_spec(join()).weight, decode.join_spec(join(weight=100)).weight) == (1, 100)


def test_absent_fields_of_a_backend_change_stay() -> None:
    assert decode.backend_change(BackendChange(state="drained")) == (True, None)
    assert decode.backend_change(BackendChange(state="active", weight=7)) == (False, 7)
    assert decode.backend_change(BackendChange(weight=7)) == (None, 7)
    with pytest.raises(Error, match="nothing is to be changed"):
        decode.backend_change(BackendChange())


def test_namespace_specified_twice_is_refused() -> None:
    assert "netns and pid" in refused_join(netns="/run/netns/a", pid=1)


PORT = {"proto": 6, "port": 80}
LINE = {"name": "db", "address": "192.0.2.1"}


def test_overlong_lists_in_a_body_are_refused() -> None:
    for field in ("exposed_ports", "port_mapping"):
        assert f"{field}: 8193 are too many" in refused_endpoint(**{field: [PORT] * 8193})
        decode.endpoint_spec(endpoint(**{field: [PORT] * 8192}))
    assert "labels: 257 are too many" in refused_endpoint(labels={str(i): "" for i in range(257)})
    with pytest.raises(Error, match="labels: 257 are too many"):
        decode.network_spec(NetworkCreate(name="n", labels={str(i): "" for i in range(257)}))
    assert "dns: 17 are too many" in refused_join(dns=["192.0.2.53"] * 17)
    assert "extra_hosts: 1025 are too many" in refused_join(extra_hosts=[LINE] * 1025)
    assert "parent_updates: 1025 are too many" in refused_join(parent_updates=[{**LINE, "endpoint_id": ID}] * 1025)


def test_labels_with_too_many_bytes_are_refused() -> None:
    for labels in ({"a": "x" * (1 << 16)}, {"a" * (1 << 16): "x"}, {f"k{i}": "ü" * 150 for i in range(256)}):
        with pytest.raises(Error, match=r"labels: [0-9]+ bytes are too many"):
            decode.endpoint_spec(endpoint(labels=labels))
    assert decode.endpoint_spec(endpoint(labels={"a": "x" * 65_000})).labels
