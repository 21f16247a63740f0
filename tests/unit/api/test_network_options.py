"""Network options: both vocabularies, their types, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network

import pytest

from sandnet.api.network_options import ENABLE_IPV6, GENERIC, from_engine_options, parse, to_engine_options
from sandnet.errors import Error, Kind
from sandnet.model import NetworkOptions
from sandnet.model.ports import ExposedPort


def refusal(options: Mapping[str, object]) -> Error:
    with pytest.raises(Error) as caught:
        parse(options)
    assert caught.value.kind is Kind.INVALID
    return caught.value


@pytest.mark.parametrize("nothing", [None, {}, {GENERIC: {}}, {GENERIC: None}, {"subnet": None, "bridge_name": ""}])
def test_empty_options_are_the_defaults(nothing: Mapping[str, object] | None) -> None:
    assert parse(nothing) == (NetworkOptions(), [])


def test_every_label_sets_its_field() -> None:
    labels = {
        "BridgeName": "br-blue",
        "AddressIPv4": "10.50.0.1/24",
        "FixedCIDR": "10.50.0.64/26",
        "FixedCIDRv6": "2001:db8:1::/64",
        "DefaultGatewayIPv4": "10.50.0.70",
        "DefaultGatewayIPv6": "2001:db8:1::1",
        "EnableIPv6": "true",
        "EnableIPTables": "F",
        "EnableIPMasquerade": "0",
        "EnableICC": "False",
        "DefaultBindingIP": "192.0.2.7",
        "Mtu": "1400",
        "AllowNonDefaultBridge": "f",
    }
    options, unknown = parse({ENABLE_IPV6: True, GENERIC: labels})
    assert unknown == []
    assert options == NetworkOptions(
        subnet=IPv4Network("10.50.0.0/24"),
        gateway=IPv4Address("10.50.0.70"),
        bridge_address=IPv4Interface("10.50.0.1/24"),
        ip_range=IPv4Network("10.50.0.64/26"),
        ipv6=True,
        subnet_ipv6=IPv6Network("2001:db8:1::/64"),
        gateway_ipv6=IPv6Address("2001:db8:1::1"),
        mtu=1400,
        icc=False,
        masquerade=False,
        firewall=False,
        bridge_name="br-blue",
        create_bridge=False,
        binding_address=IPv4Address("192.0.2.7"),
    )


def test_every_plain_key_sets_its_field() -> None:
    options, unknown = parse(
        {
            "subnet": "10.9.0.0/16",
            "gateway": "10.9.0.1",
            "ip_range": "10.9.4.0/24",
            "subnet_ipv6": "fd00:9::/64",
            "gateway_ipv6": "fd00:9::1",
            "ipv6": True,
            "mtu": 1280,
            "internal": True,
            "icc": False,
            "anti_spoofing": False,
            "masquerade": False,
            "bridge_name": "blue0",
            "binding_address": "::",
        }
    )
    assert unknown == []
    assert options == NetworkOptions(
        subnet=IPv4Network("10.9.0.0/16"),
        gateway=IPv4Address("10.9.0.1"),
        ip_range=IPv4Network("10.9.4.0/24"),
        subnet_ipv6=IPv6Network("fd00:9::/64"),
        gateway_ipv6=IPv6Address("fd00:9::1"),
        ipv6=True,
        mtu=1280,
        internal=True,
        icc=False,
        anti_spoofing=False,
        masquerade=False,
        bridge_name="blue0",
        binding_address=IPv6Address("::"),
    )


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True", True])
def test_go_boolean_is_parsed_as_true(value: object) -> None:
    assert parse({GENERIC: {"EnableIPv6": value}})[0].ipv6 is True


@pytest.mark.parametrize(
    ("value", "mtu"),
    [("1500", 1500), ("+1500", 1500), ("0001500", 1500), ("-0", None), (1500, 1500), ("0", None), (0, None)],
)
def test_mtu_label_of_zero_leaves_the_choice(value: object, mtu: int | None) -> None:
    assert parse({GENERIC: {"Mtu": value}})[0].mtu == mtu


def test_meaningless_libnetwork_labels_are_ignored_and_named() -> None:
    labels = {"EnableUserlandProxy": "true", "com.docker.network.bridge.name": []}
    options, ignored = parse({"com.docker.network.x": [1], GENERIC: labels, "mtu": 1400})
    assert ignored == ["com.docker.network.x", *(f"{GENERIC}.{key}" for key in labels)]
    assert options == NetworkOptions(mtu=1400)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({GENERIC: {"EnableIPMasqerade": "false"}}, "did you mean EnableIPMasquerade?"),
        ({GENERIC: {"enableicc": "false"}}, "did you mean EnableICC?"),
        ({GENERIC: {"bridgename": 7}}, "did you mean BridgeName?"),
        ({GENERIC: {"enable_ip_tables": None}}, "did you mean EnableIPTables?"),
        ({GENERIC: {"subnet": "10.0.0.0/24"}}, f"did you mean subnet? It stands beside {GENERIC}"),
        ({"EnableIPMasquerade": "false"}, f"did you mean EnableIPMasquerade? It stands inside {GENERIC}"),
        ({"EnableUserlandProxy": "false"}, "known here: subnet, "),
        ({"subnt": "10.0.0.0/24"}, "did you mean subnet?"),
        ({"Sub-Net": "10.0.0.0/24"}, "did you mean subnet?"),
        ({"intern": True}, "did you mean internal?"),
        ({"com.docker.networks": {}}, "did you mean com.docker.network.host_ipv"),
        ({"docker.network.enable_ipv6": True}, f"did you mean {ENABLE_IPV6}?"),
        ({"colour": [1]}, "known here: subnet, "),
        ({"": 1}, "known here: subnet, "),
        ({GENERIC: {"colour": "red"}}, "known here: BridgeName, "),
        ({"x" * 1_000_000: 1}, "known here: subnet, "),
    ],
)
def test_unknown_option_is_refused_with_the_nearest_key(options: Mapping[str, object], hint: str) -> None:
    refused = refusal(options)
    assert refused.code == "unknown_option"
    assert refused.hint.startswith(hint)
    assert len(refused.message) < 200


def test_key_suggested_by_a_hint_is_accepted() -> None:
    for place in ({"%s": "x"}, {GENERIC: {"%s": "x"}}):
        for misspelt in ("subnett", "EnableICCC", "gatewayipv6", "Mtus", "hostaccess", "ip-range"):
            wrong = {key % misspelt if "%" in key else key: value for key, value in place.items()}
            if GENERIC in place:
                wrong = {GENERIC: {misspelt: "x"}}
            hint = refusal(wrong).hint
            named = hint.removeprefix("did you mean ").split("?")[0]
            inside = "inside" in hint or (GENERIC in place and "beside" not in hint)
            again: dict[str, object] = {GENERIC: {named: None}} if inside else {named: None}
            assert parse(again) == (NetworkOptions(), [])


@pytest.mark.parametrize(
    ("label", "given", "field", "masked"),
    [
        ("FixedCIDR", "10.50.0.77/26", "ip_range", IPv4Network("10.50.0.64/26")),
        ("FixedCIDR", "10.50.0.255/32", "ip_range", IPv4Network("10.50.0.255/32")),
        ("FixedCIDRv6", "2001:db8:1::5/64", "subnet_ipv6", IPv6Network("2001:db8:1::/64")),
    ],
)
def test_fixed_cidr_host_bits_are_cleared_as_in_go(label: str, given: str, field: str, masked: object) -> None:
    assert getattr(parse({GENERIC: {"AddressIPv4": "10.50.0.1/24", label: given}})[0], field) == masked
    if field == "ip_range":
        assert parse({"subnet": "10.50.0.0/24", field: given})[0].ip_range == masked


@pytest.mark.parametrize("key", ["subnet", "subnet_ipv6"])
def test_host_bits_hint_is_itself_accepted(key: str) -> None:
    suggested = 0
    for address in ("10.9.3.5", "127.1.2.3", "239.1.1.1", "0.1.2.3", "fd00:9::5", "fe80::5", "::5", "ff02::5"):
        for length in range(129):
            try:
                parse({key: f"{address}/{length}"})
            except Error as refused:
                if refused.message.endswith("host bits set") and refused.hint:
                    hinted = refused.hint.removeprefix("did you mean ").removesuffix("?")
                    parse({key: hinted})
                    suggested += 1
    assert suggested


@pytest.mark.parametrize("given", ["10.9.0.1", "x", "10.0.0.0/99"])
@pytest.mark.parametrize("key", ["subnet", "ip_range", "subnet_ipv6", "bridge_address"])
def test_example_in_the_cidr_hint_is_accepted(key: str, given: str) -> None:
    refused = refusal({"subnet": "192.0.2.0/24", key: given})
    if refused.hint:
        parse({"subnet": "192.0.2.0/24", key: refused.hint.removeprefix("write it like ")})


@pytest.mark.parametrize("key", ["ipv6", "internal", "mtu", "host_access", ENABLE_IPV6])
def test_unexpected_empty_text_is_refused(key: str) -> None:
    assert key in refusal({key: ""}).message


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({GENERIC: "x"}, GENERIC),
        ({GENERIC: ""}, GENERIC),
        ({GENERIC: []}, GENERIC),
        ({GENERIC: 0}, GENERIC),
        ({GENERIC: 0.0}, GENERIC),
        ({GENERIC: False}, GENERIC),
        ({GENERIC: True}, GENERIC),
        ({GENERIC: {"EnableICC": ""}}, "EnableICC"),
        ({GENERIC: {"EnableICC": []}}, "EnableICC"),
        ({GENERIC: {"Mtu": ""}}, "Mtu"),
        ({GENERIC: {"Mtu": "1_500"}}, "Mtu"),
        ({GENERIC: {"Mtu": " 1500"}}, "Mtu"),
        ({GENERIC: {"Mtu": 1500.0}}, "Mtu"),
        ({GENERIC: {"FixedCIDR": 0}}, "FixedCIDR"),
        ({GENERIC: {"FixedCIDR": False}}, "FixedCIDR"),
        ({GENERIC: {"FixedCIDR": []}}, "FixedCIDR"),
        ({GENERIC: {"BridgeName": {}}}, "BridgeName"),
        ({GENERIC: ["BridgeName"]}, GENERIC),
        ({GENERIC: {"BridgeName": 5}}, "BridgeName"),
        ({GENERIC: {"EnableICC": "yes"}}, "EnableICC"),
        ({GENERIC: {"EnableICC": 1}}, "EnableICC"),
        ({GENERIC: {"Mtu": "1e3"}}, "Mtu"),
        ({GENERIC: {"Mtu": "٣"}}, "Mtu"),
        ({GENERIC: {"Mtu": True}}, "Mtu"),
        ({GENERIC: {"Mtu": "9" * 5000}}, "Mtu"),
        ({GENERIC: {"AddressIPv4": "10.0.0.1"}}, "AddressIPv4"),
        ({GENERIC: {"AddressIPv4": 167772161}}, "AddressIPv4"),
        ({ENABLE_IPV6: "maybe"}, ENABLE_IPV6),
        ({ENABLE_IPV6: {}}, ENABLE_IPV6),
        ({"internal": "true"}, "internal"),
        ({"ipv6": 1}, "ipv6"),
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"mtu": 1500.0}, "mtu"),
        ({"subnet": 5}, "subnet"),
        ({"subnet": "10.0.0.0/255.255.255.0"}, "subnet"),
        ({"subnet": "10.0.0.0/024"}, "subnet"),
        ({"subnet": "10.0.0.0"}, "subnet"),
        ({"subnet": "fd00::/64"}, "subnet"),
        ({"subnet_ipv6": "10.0.0.0/24"}, "subnet_ipv6"),
        ({"subnet_ipv6": "fe80::%eth0/64"}, "subnet_ipv6"),
        ({"gateway": "fd00::1", "subnet": "10.0.0.0/24"}, "gateway"),
        ({"gateway_ipv6": "fd00::1%eth0", "subnet_ipv6": "fd00::/64"}, "gateway_ipv6"),
        ({"binding_address": "239.0.0.1"}, "binding_address"),
        ({"bridge_name": "../x"}, "bridge_name"),
        ({"bridge_name": "x" * 16}, "bridge_name"),
        ({"bridge_name": "a b"}, "bridge_name"),
    ],
)
def test_wrong_option_type_names_the_key(options: Mapping[str, object], key: str) -> None:
    assert key in refusal(options).message


@pytest.mark.parametrize(
    "options",
    [
        {"subnet": "10.0.0.0/7"},
        {"subnet": "10.0.0.0/31"},
        {"subnet": "0.0.0.0/8"},
        {"subnet": "127.0.1.0/24"},
        {"subnet": "224.0.0.0/24"},
        {"subnet": "240.0.0.0/8"},
        {"subnet_ipv6": "fd00::/63"},
        {"subnet_ipv6": "fd00::/127"},
        {"subnet_ipv6": "ff02::/64"},
        {"subnet_ipv6": "fe80::/64"},
        {"subnet_ipv6": "::/64"},
        {"subnet_ipv6": "fd00::/64", "ipv6": False},
        {"gateway": "10.0.0.1"},
        {"ip_range": "10.0.0.0/24"},
        {"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"},
        {"subnet": "10.0.0.0/24", "gateway": "10.0.0.0"},
        {"subnet": "10.0.0.0/24", "gateway": "10.0.0.255"},
        {"subnet": "10.0.0.0/24", "ip_range": "10.0.0.0/23"},
        {"subnet": "10.0.0.0/24", "ip_range": "10.0.1.0/25"},
        {"gateway_ipv6": "fd00::1", "ipv6": True},
        {"gateway_ipv6": "fd01::1", "subnet_ipv6": "fd00::/64"},
        {"gateway_ipv6": "fd00::", "subnet_ipv6": "fd00::/64"},
        {"reserved_addresses": {"a": "10.0.0.5"}},
        {"subnet": "10.0.0.0/24", "reserved_addresses": {"a": "10.0.1.5"}},
        {"subnet": "10.0.0.0/24", "reserved_addresses": {"a": "fd00::5"}},
        {"subnet": "10.0.0.0/24", "reserved_addresses": {"a": "10.0.0.5/24"}},
        {"subnet": "10.0.0.0/24", "reserved_addresses": ["10.0.0.5"]},
        {"subnet": "10.0.0.0/24", "reserved_addresses": {"a": 5}},
        {"subnet": "10.0.0.0/24", "gateway": "10.0.0.5", "reserved_addresses": {"a": "10.0.0.5"}},
        {"subnet": "10.0.0.0/24", "bridge_address": "10.0.0.5/24", "reserved_addresses": {"a": "10.0.0.5"}},
        {"subnet_ipv6": "fd00::/64", "gateway_ipv6": "fd00::5", "reserved_addresses": {"a": "fd00::5"}},
        {"mtu": 67},
        {"mtu": 0},
        {"mtu": 65536},
        {"mtu": 1279, "ipv6": True},
        {"mtu": 1279, "subnet_ipv6": "fd00::/64"},
        {GENERIC: {"Mtu": "-1"}},
        {GENERIC: {"AddressIPv4": "10.0.0.0/24"}},
        {GENERIC: {"AddressIPv4": "10.0.0.255/24"}},
        {GENERIC: {"AddressIPv4": "10.0.0.1/24", "FixedCIDR": "10.0.1.0/26"}},
        {GENERIC: {"AllowNonDefaultBridge": "false"}},
    ],
)
def test_impossible_options_are_refused(options: Mapping[str, object]) -> None:
    refusal(options)


@pytest.mark.parametrize(
    "options",
    [
        {"subnet": "10.0.0.0/24", GENERIC: {"AddressIPv4": "10.0.1.1/24"}},
        {"mtu": 1400, GENERIC: {"Mtu": "1500"}},
        {"ipv6": False, ENABLE_IPV6: True},
        {ENABLE_IPV6: False, GENERIC: {"EnableIPv6": "true"}},
        {"bridge_name": "a", GENERIC: {"BridgeName": "b"}},
    ],
)
def test_two_conflicting_keys_are_both_named(options: Mapping[str, object]) -> None:
    assert refusal(options).code == "contradiction"


def test_two_agreeing_keys_are_accepted() -> None:
    options, _ = parse({"subnet": "10.0.0.0/24", "mtu": 1400, GENERIC: {"AddressIPv4": "10.0.0.9/24", "Mtu": "1400"}})
    assert options.bridge_address == IPv4Interface("10.0.0.9/24")
    assert (options.subnet, options.mtu) == (IPv4Network("10.0.0.0/24"), 1400)


@pytest.mark.parametrize(
    ("options", "meant"),
    [({"subnet": "10.1.2.3/24"}, "10.1.2.0/24"), ({"subnet_ipv6": "fd00::7/64"}, "fd00::/64")],
)
def test_host_bits_hint_names_the_network(options: dict[str, object], meant: str) -> None:
    assert meant in refusal(options).hint


def test_existing_bridge_allows_range_and_gateway_before_subnet() -> None:
    options, _ = parse({"bridge_name": "br0", "ip_range": "10.0.0.64/26", "gateway": "10.0.0.1"})
    assert options.subnet is None


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "10.0.0.0/30", "169.254.7.0/24", "100.64.0.0/10"])
def test_boundary_option_values_are_accepted(subnet: str) -> None:
    assert parse({"subnet": subnet})[0].subnet == IPv4Network(subnet)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (True, True),
        (False, False),
        ([], ()),
        (["53/udp", 8080, "8080/tcp"], (ExposedPort(proto=17, port=53), ExposedPort(proto=6, port=8080))),
        (None, None),
    ],
)
def test_host_access_is_all_nothing_or_ports(given: object, meant: object) -> None:
    assert parse({"host_access": given})[0].host_access == meant


@pytest.mark.parametrize(
    "wrong", ["all", 1, {}, [0], [65536], ["80/icmp"], ["tcp/80"], [True], ["-1"], [" 80"], [None], list(range(1, 102))]
)
def test_malformed_host_access_is_refused(wrong: object) -> None:
    refusal({"host_access": wrong})


@pytest.mark.parametrize("access", [False, [80]])
def test_host_access_without_the_packet_filter_is_refused(access: object) -> None:
    assert refusal({"host_access": access, "firewall": False}).code == "no_firewall"
    assert parse({"host_access": True, "firewall": False})[0].host_access is True


def test_reserved_addresses_are_limited() -> None:
    addresses = {f"device-{number}": f"10.0.{number // 250}.{number % 250 + 2}" for number in range(257)}
    assert "more than 256" in refusal({"subnet": "10.0.0.0/16", "reserved_addresses": addresses}).message
    addresses.popitem()
    found, _ = parse({"subnet": "10.0.0.0/16", "reserved_addresses": addresses})
    assert len(found.reserved_addresses) == 256
    name = "x" * 256
    assert "characters" in refusal({"subnet": "10.0.0.0/16", "reserved_addresses": {name: "10.0.0.5"}}).message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mtu": "1400", "icc": "false", "max_flows": "0", "host_access": "false"},
        {"com.docker.network.bridge.name": "mine0", "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"},
        {"host_access": "53/udp,8080/tcp", "dns_search": "a.example,b.example", "dns_options": "ndots:1"},
        {"masquerade": "false", "anti_spoofing": "false", "allow_overlap": "true"},
        {"egress_ipv4": "192.0.2.1"},
    ],
)
def test_options_for_dockers_clients_can_be_given_again(options: Mapping[str, str]) -> None:
    found, _ = parse(from_engine_options(options))
    shown = to_engine_options(found)
    assert len(shown) == len(options)
    assert parse(from_engine_options(shown))[0] == found
