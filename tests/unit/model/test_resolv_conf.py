"""resolv.conf as the C library reads it, and what is written of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.core.names.render import resolv_conf, stub_resolv_conf
from sandnet.errors import Error
from sandnet.model.resolv_conf import Lookup, ResolvConf, check_options, check_search, merged, parsed

STUB = IPv4Address("127.0.0.11")


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.1", ["192.0.2.1"]),
        ("nameserver\t192.0.2.1\t \n", ["192.0.2.1"]),
        ("nameserver 192.0.2.1 # the first\nnameserver 192.0.2.2 ; the second\n", ["192.0.2.1", "192.0.2.2"]),
        ("nameserver 192.0.2.1 192.0.2.2\n", ["192.0.2.1"]),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver 2001:db8::1\nnameserver fe80::1%eth0\n", ["2001:db8::1", "fe80::1%eth0"]),
        ("nameserver 127.1\n", ["127.0.0.1"]),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.2\n # nameserver 192.0.2.3\n", []),
        (" nameserver 192.0.2.1\n", []),
        ("nameserver\n", []),
        ("nameserver192.0.2.1\nnameservers 192.0.2.1\nNAMESERVER 192.0.2.1\n", []),
        ("nameserver example.org\nnameserver 192.0.2.256\nnameserver 192.0.2.1#53\n", []),
        ("domain x\x0bnameserver 192.0.2.1\n", []),
    ],
)
def test_nameserver_line_is_read_as_libc_does(text: str, servers: list[str]) -> None:
    found = parsed(text)
    assert [str(server) for server in found.servers] == servers
    assert [str(server) for server in found.effective_servers] == (servers or ["127.0.0.1"])


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("domain corp.example\n", ("corp.example",)),
        ("domain corp.example other.example\n", ("corp.example",)),
        ("search a.example b.example\n", ("a.example", "b.example")),
        ("search a.example\nsearch b.example\n", ("b.example",)),
        ("domain a.example\nsearch b.example c.example\n", ("b.example", "c.example")),
        ("search b.example c.example\ndomain a.example\n", ("a.example",)),
        ("search\ta.example  \t b.example \n", ("a.example", "b.example")),
        ("search a.example # and no other\n", ("a.example",)),
        ("search a.example ;b.example\n", ("a.example",)),
        ("search a.example\nsearch\ndomain \n", ("a.example",)),
        ("search .\n", (".",)),
        (
            "search " + " ".join(f"d{number}.example" for number in range(200)),
            tuple(f"d{n}.example" for n in range(200)),
        ),
        (" search a.example\n#search b.example\n", ()),
    ],
)
def test_last_search_line_wins(text: str, search: tuple[str, ...]) -> None:
    assert parsed(text).search == search


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("options timeout:1 attempts:2 rotate ndots:3 edns0 use-vc\n",
         ("timeout:1", "attempts:2", "rotate", "ndots:3", "edns0", "use-vc")),
        ("options rotate\noptions use-vc\n", ("rotate", "use-vc")),
        ("options timeout:1 rotate\noptions timeout:2\n", ("rotate", "timeout:2")),
        ("options rotate # comment\n", ("rotate",)),
        ("sortlist 192.0.2.0/255.255.255.0\noptions\n", ()),
    ],
)  # fmt: skip
def test_options_lines_accumulate(text: str, options: tuple[str, ...]) -> None:
    assert parsed(text).options == options


@given(st.text())
def test_any_parsed_text_reads_the_same_after_writing(text: str) -> None:
    found = parsed(text)
    assert parsed(found.text().decode()) == found


HOST = parsed(
    "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    "domain corp.example\noptions timeout:1 ndots:2 rotate\nsortlist 192.0.2.0\n"
)


def test_resolver_sandbox_gets_host_domain_and_options_but_ndots() -> None:
    assert stub_resolv_conf(HOST, (STUB,), Lookup()) == (
        b"nameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 rotate ndots:0\n"
    )


def test_sandbox_settings_precede_those_of_the_host() -> None:
    lookup = Lookup(("a.example", "b.example"), ("ndots:1", "timeout:3", "use-vc"))
    assert stub_resolv_conf(HOST, (STUB,), lookup) == (
        b"nameserver 127.0.0.11\nsearch a.example b.example\noptions rotate ndots:1 timeout:3 use-vc\n"
    )
    assert b"search .\n" in stub_resolv_conf(HOST, (STUB,), Lookup((".",)))


def test_sandbox_without_resolver_gets_reachable_host_servers() -> None:
    rest = b"search corp.example\noptions timeout:1 ndots:2 rotate\n"
    assert resolv_conf(HOST, (), Lookup(), ipv6=False) == b"nameserver 192.0.2.1\n" + rest
    assert resolv_conf(HOST, (), Lookup(), ipv6=True) == b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n" + rest
    named = resolv_conf(HOST, (ip_address("192.0.2.9"),), Lookup((), ("use-vc",)), ipv6=False)
    assert named == b"nameserver 192.0.2.9\nsearch corp.example\noptions use-vc\n"
    assert resolv_conf(ResolvConf(), (), Lookup(), ipv6=False) == b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_zone_stays_with_the_nameserver_address() -> None:
    (server,) = parsed("nameserver fe80::1%7\n").servers
    assert isinstance(server, IPv6Address)
    assert server.scope_id == "7"


@pytest.mark.parametrize(
    "domain", ["a b", "a\nnameserver 192.0.2.1", "", "-a", "a..b", "#a", "a" * 64, "a." * 130, "a%"]
)
def test_invalid_search_domain_is_refused(domain: str) -> None:
    with pytest.raises(Error) as refused:
        check_search([domain], "dns_search")
    assert refused.value.message.startswith("dns_search[0]")


@pytest.mark.parametrize(
    "option", ["a b", "ndots:1\nnameserver 192.0.2.1", "", "Ndots:1", "ndots:", "ndots:-1", "x:1:2", ";a"]
)
def test_invalid_resolver_option_is_refused(option: str) -> None:
    with pytest.raises(Error) as refused:
        check_options([option], "dns_options")
    assert refused.value.message.startswith("dns_options[0]")


def test_checked_domains_and_options_are_unique() -> None:
    assert check_search(["corp.example", "corp.example.", "_tcp.x", "."], "f") == (
        "corp.example", "corp.example.", "_tcp.x", ".",
    )  # fmt: skip
    assert check_options(["ndots:1", "use-vc", "ndots:2"], "f") == ("use-vc", "ndots:2")
    for check in (check_search, check_options):
        with pytest.raises(Error):
            check(["x"] * 33, "f")


def test_merged_options_keep_the_last_of_each_kind() -> None:
    assert merged(["ndots:2", "rotate"], (), ["ndots:5"]) == ("rotate", "ndots:5")
