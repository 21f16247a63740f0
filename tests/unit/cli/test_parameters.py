from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.cli.network_flags import options
from sandnet.cli.parameters import Reference, parse_pair, parse_reference, scalar
from sandnet.cli.rates import bits_text, parse_bits
from sandnet.library.port_arguments import PROTOCOLS, PortArgument, parse_exposed, parse_mapping

PORTS = st.integers(1, 65535)
NAMES = st.from_regex(r"/?[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)


@st.composite
def requests(draw: st.DrawFn) -> PortArgument:
    first = draw(st.integers(0, 65535))
    last = draw(st.just(0) | st.integers(first, 65535)) if first else 0
    address = draw(st.just("") | st.ip_addresses().map(str))
    return PortArgument(draw(st.sampled_from(sorted(PROTOCOLS.values()))), draw(PORTS), address, first, last)


@given(requests())
def test_port_mapping_round_trips(spec: PortArgument) -> None:
    assert parse_mapping(str(spec)) == spec


@given(st.text(alphabet="0123456789:-/[].tcpudx ", max_size=24))
def test_any_mapping_text_is_in_range_or_refused(text: str) -> None:
    try:
        spec = parse_mapping(text)
    except ValueError:
        return
    assert 1 <= spec.port <= 65535
    assert 0 <= spec.host_port <= 65535
    assert spec.host_port_end == 0 or 0 < spec.host_port <= spec.host_port_end <= 65535
    assert spec.proto in PROTOCOLS.values()
    assert not spec.host_ip or ip_address(spec.host_ip)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("80", PortArgument(6, 80)),
        ("8080:80", PortArgument(6, 80, "", 8080)),
        ("0:80/udp", PortArgument(17, 80, "", 0)),
        ("8000-8010:80/sctp", PortArgument(132, 80, "", 8000, 8010)),
        ("127.0.0.1:8080:80/tcp", PortArgument(6, 80, "127.0.0.1", 8080)),
        ("[::1]:8080:80", PortArgument(6, 80, "::1", 8080)),
        ("127.0.0.1::80/udp", PortArgument(17, 80, "127.0.0.1")),
        ("[::1]::80-90", PortArgument(6, 80, "::1", 0, 0, 90)),
    ],
)
def test_port_mapping_is_parsed_into_its_parts(text: str, spec: PortArgument) -> None:
    assert parse_mapping(text) == spec


MALFORMED = (
    "::80 1::80 127.0.0.1:-9:80 x :80 8080: 8080:0 65536:80 "
    "9-8:80 0-8:80 a:b 80/icmp 80/ 1.2.3:1:80 ::1:1:80 1:2:3:4 ٣:80"
)


@pytest.mark.parametrize("text", ["", *MALFORMED.split()])
def test_malformed_port_mapping_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mapping(text)


def test_exposed_port_defaults_to_tcp() -> None:
    assert parse_exposed("53") == (6, 53)
    assert parse_exposed("53/udp") == (17, 53)
    with pytest.raises(ValueError):
        parse_exposed("0")


@given(NAMES, NAMES.filter(lambda name: not name.startswith("/")))
def test_reference_splits_at_the_last_dot(name: str, network: str) -> None:
    assert parse_reference(name) == Reference(name, "")
    assert parse_reference(f"{name}.{network}") == Reference(name, network)
    assert parse_reference(f"{name}.x.{network}") == Reference(f"{name}.x", network)


@pytest.mark.parametrize("text", ["", ".", "web.", ".blue"])
def test_incomplete_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_reference(text)


def test_pair_splits_at_the_first_separator() -> None:
    assert parse_pair("a=b=c") == ("a", "b=c")
    assert parse_pair("db:fd00::3", ":") == ("db", "fd00::3")
    assert parse_pair("a=") == ("a", "")
    for text in ("a", "=b"):
        with pytest.raises(ValueError):
            parse_pair(text)


def test_option_values_are_sent_as_json_or_else_text() -> None:
    assert [scalar(text) for text in ("true", "1400", "10.0.0.0/8", "eth0", '{"a":1}')] == [
        True,
        1400,
        "10.0.0.0/8",
        "eth0",
        {"a": 1},
    ]


def test_camel_case_options_are_sent_under_the_libnetwork_label() -> None:
    plain = {"subnet": "10.9.0.0/24", "gateway": None, "ipv6": False, "no_icc": True, "no_anti_spoofing": True}
    extra = [("EnableICC", "false"), ("Mtu", "1400"), ("mtu", "1400"), ("com.docker.network.enable_ipv6", "true")]
    assert options(plain, extra) == {
        "subnet": "10.9.0.0/24",
        "icc": False,
        "anti_spoofing": False,
        "mtu": 1400,
        "com.docker.network.enable_ipv6": True,
        "com.docker.network.generic": {"EnableICC": "false", "Mtu": "1400"},
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [(("all",), True), (("none",), False), (("53/udp", "8080"), ["53/udp", "8080"]), (("80",), ["80"])],
)
def test_host_access_is_sent_as_boolean_or_port_list(given: tuple[str, ...], sent: object) -> None:
    assert options({"host_access": given}, []) == {"host_access": sent}


def test_absent_host_access_is_not_sent() -> None:
    assert options({"host_access": ()}, []) == {}


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("10000-10010:20000-20010/udp", PortArgument(17, 20000, "", 10000, 10010, 20010)),
        ("127.0.0.1:80-81:80-81", PortArgument(6, 80, "127.0.0.1", 80, 81, 81)),
        ("8000-8010:80", PortArgument(6, 80, "", 8000, 8010)),
        ("8000-8010", PortArgument(6, 8000, "", 0, 0, 8010)),
    ],
)
def test_port_ranges_are_parsed(text: str, spec: PortArgument) -> None:
    assert parse_mapping(text) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10000-10010:20000-20009", "did you mean 10000-10009:20000-20009"),
        ("10000:20000-20009", "did you mean 10000-10009:20000-20009"),
        ("1-2:4-3", "empty"),
        ("1-2:65535-65536", "65535"),
    ],
)
def test_mismatched_port_ranges_are_refused_with_a_suggestion(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_mapping(text)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10mbit", 10_000_000),
        ("1.5g", 1_500_000_000),
        ("64000", 64_000),
        ("8kbit", 8_000),
        ("1Tbit", 10**12),
        ("none", 0),
    ],
)
def test_rate_is_read_in_bits(text: str, bits: int) -> None:
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["", "fast", "-1", "1e9", "10 mbit", "10mbyte", "9" * 30, "1.m"])
def test_malformed_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        parse_bits(text)


@pytest.mark.parametrize(("bits", "text"), [(10_000_000, "10mbit"), (1_500_000, "1500kbit"), (9, "9bit"), (0, "0bit")])
def test_bits_are_shown_in_their_largest_whole_unit(bits: int, text: str) -> None:
    assert bits_text(bits) == text
