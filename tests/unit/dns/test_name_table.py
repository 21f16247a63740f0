"""Who finds whom: scopes, order, sharing, and that a table is a value."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandnet.dns.base import Alias, Change, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.dns.name_table import NameTable
from sandnet.dns.reply_cache import first


def names(owner: str, *called: str, at: str = "10.0.0.2", net: str = "n1", network: str = "foo") -> SetNames:
    addresses = tuple(map(ip_address, at.split()))
    return SetNames(network_id=net, network=network, owner=owner, names=called, addresses=addresses)


def asker(*networks: str, sandbox: str = "box", **more: Any) -> SetClient:
    return SetClient(container_id=sandbox, key=f"/ns/{sandbox}", inode=1, networks=networks, **more)


def alias(name: str, at: str) -> Alias:
    return Alias(name=name, addresses=(ip_address(at),))


def found(table: NameTable, who: SetClient, name: str) -> list[str] | None:
    result = table.lookup(who, name)
    return None if result is None else sorted(map(str, result.addresses))


ON_FOO = asker("n1")
ON_BOTH = asker("n1", "n2")


def test_name_is_found_bare_qualified_uppercase_or_dotted() -> None:
    table = NameTable().changed(names("ep", "web", "www", at="10.0.0.2 fd00::2"))
    for name in ("web", "WEB", "www", "web.", "web.foo", "Web.FOO."):
        assert found(table, ON_FOO, name) == ["10.0.0.2", "fd00::2"]
    assert table.lookup(ON_FOO, "web") == ((ip_address("10.0.0.2"), ip_address("fd00::2")), ("ep",), "n1", 0)


def test_lookup_ignores_the_case_of_names_and_networks() -> None:
    table = NameTable().changed(names("ep", "Web", network="Foo"))
    assert found(table, ON_FOO, "wEB.fOO") == ["10.0.0.2"]
    assert table.knows_network(ON_FOO, "FOO")
    assert table.reverse(ON_FOO, ip_address("10.0.0.2")) == "web.foo"


def test_lookup_finds_nothing_on_a_network_the_client_is_not_on() -> None:
    table = NameTable().changed(names("ep", "web"))
    for name in ("web", "web.foo"):
        assert table.lookup(asker("n2"), name) is None
    assert table.reverse(asker("n2"), ip_address("10.0.0.2")) is None
    assert not table.knows_network(asker("n2"), "foo")


def test_name_on_two_networks_follows_client_order_or_qualifier() -> None:
    table = NameTable().changed(
        names("a", "web", at="10.0.0.2"), names("b", "web", at="10.0.1.2", net="n2", network="bar")
    )
    assert found(table, asker("n1", "n2"), "web") == ["10.0.0.2"]
    assert found(table, asker("n2", "n1"), "web") == ["10.0.1.2"]
    assert found(table, asker("n2", "n1"), "web.foo") == ["10.0.0.2"]


def test_name_lists_all_owners_and_each_address_once() -> None:
    table = NameTable().changed(
        names("a", "web", at="10.0.0.2 10.0.0.3"), names("b", "web", at="10.0.0.3"), names("c", "db", at="10.0.0.9")
    )
    assert found(table, ON_FOO, "web") == ["10.0.0.2", "10.0.0.3"]
    result = table.lookup(ON_FOO, "web")
    assert result is not None
    assert sorted(result.owners) == ["a", "b"]


def test_alias_hides_the_network_name_for_its_client_only() -> None:
    table = NameTable().changed(names("a", "web"))
    mine = asker("n1", aliases=(alias("Web", "10.9.9.9"), alias("web", "10.9.9.8")))
    assert found(table, mine, "web") == ["10.9.9.8", "10.9.9.9"]
    assert found(table, mine, "web.foo") == ["10.0.0.2"]
    assert found(table, ON_FOO, "web") == ["10.0.0.2"]


def test_last_dot_of_a_dotted_name_separates_the_network() -> None:
    table = NameTable().changed(names("a", "web.example.com"))
    assert found(table, ON_FOO, "web.example.com") == ["10.0.0.2"]
    assert found(table, ON_FOO, "web.example.com.foo") == ["10.0.0.2"]
    assert found(table, ON_FOO, "foo") is None


@pytest.mark.parametrize("name", ["", ".", "..", ".foo", "foo", "web.", "web..foo", "web\\.foo", "\\"])
def test_odd_names_are_not_found(name: str) -> None:
    assert found(NameTable().changed(names("a", "other")), ON_FOO, name) is None


def test_second_record_of_an_owner_replaces_the_first() -> None:
    table = NameTable().changed(names("a", "web", "old")).changed(names("a", "web", at="10.0.0.7"))
    assert found(table, ON_FOO, "web") == ["10.0.0.7"]
    assert found(table, ON_FOO, "old") is None
    assert table.reverse(ON_FOO, ip_address("10.0.0.2")) is None


def test_name_remains_with_the_other_of_two_owners() -> None:
    table = NameTable().changed(
        names("a", "web"), names("b", "web", at="10.0.0.3"), RemoveNames(network_id="n1", owner="a")
    )
    assert found(table, ON_FOO, "web") == ["10.0.0.3"]
    assert table.reverse(ON_FOO, ip_address("10.0.0.2")) is None


def test_removing_unknown_owners_networks_and_clients_is_a_no_op() -> None:
    table = NameTable().changed(names("a", "web"))
    after = table.changed(
        RemoveNames(network_id="n1", owner="x"), RemoveNames(network_id="nx", owner="a"), RemoveClient(container_id="x")
    )
    assert found(after, ON_FOO, "web") == ["10.0.0.2"]


def test_repeated_name_or_address_leaves_nothing_after_removal() -> None:
    table = NameTable().changed(names("a", "web", "WEB", at="10.0.0.2 10.0.0.2"))
    assert found(table, ON_FOO, "web") == ["10.0.0.2"]
    assert found(table.changed(RemoveNames(network_id="n1", owner="a")), ON_FOO, "web") is None


def test_reverse_lookup_prefers_the_endpoint_over_its_container() -> None:
    for order in (1, -1):
        both = [names("ep", "web"), names("box/ep", "box0123", "host")]
        assert NameTable().changed(*both[::order]).reverse(ON_FOO, ip_address("10.0.0.2")) == "web.foo"


def test_additional_addresses_have_the_name_in_reverse_only() -> None:
    further = ip_address("10.0.0.50")
    table = NameTable().changed(replace(names("ep", "web"), additional_addresses=(further,)))
    assert found(table, ON_FOO, "web") == ["10.0.0.2"]
    assert table.reverse(ON_FOO, further) == "web.foo"
    assert table.changed(names("ep", "web")).reverse(ON_FOO, further) is None
    assert table.changed(RemoveNames(network_id="n1", owner="ep")).reverse(ON_FOO, further) is None


def test_reverse_lookup_of_an_address_without_a_name_is_none() -> None:
    table = NameTable().changed(names("a"), names("b", "web", at="10.0.0.3"))
    assert table.reverse(ON_FOO, ip_address("10.0.0.2")) is None
    assert table.reverse(ON_FOO, ip_address("10.0.0.9")) is None


def test_network_without_names_is_known_while_it_has_clients() -> None:
    table = NameTable().changed(names("a", "web"), ON_FOO, RemoveNames(network_id="n1", owner="a"))
    assert table.knows_network(ON_FOO, "foo")
    assert not table.changed(RemoveClient(container_id="box")).knows_network(ON_FOO, "foo")
    assert not table.changed(asker("n2")).knows_network(ON_FOO, "foo")


def test_network_without_clients_is_dropped_with_its_last_name() -> None:
    table = NameTable().changed(names("a", "web"), RemoveNames(network_id="n1", owner="a"))
    assert not table.knows_network(ON_FOO, "foo")


def test_changed_clients_are_found_by_container_id() -> None:
    table = NameTable().changed(asker("n1"), asker("n2", sandbox="b"))
    assert dict(table.clients) == {"box": asker("n1"), "b": asker("n2", sandbox="b")}
    assert dict(table.changed(asker("n3"), RemoveClient(container_id="b")).clients) == {"box": asker("n3")}


def test_replacing_the_table_leaves_exactly_the_new_content() -> None:
    table = NameTable().changed(names("a", "web"), asker("n1")).replaced([names("b", "db"), asker("n1", sandbox="c")])
    assert found(table, ON_FOO, "web") is None
    assert found(table, ON_FOO, "db") == ["10.0.0.2"]
    assert list(table.clients) == ["c"]


OWNERS = st.sampled_from(["a", "b", "c/a"])
NETS = st.sampled_from(["n1", "n2"])
LABELS = st.lists(st.sampled_from(["web", "db", "www"]), max_size=3)
PLACES = st.lists(st.sampled_from(["10.0.0.2", "10.0.0.3", "fd00::2"]), max_size=2)
CHANGES = st.lists(
    st.one_of(
        st.builds(
            lambda o, n, called, at: names(o, *called, at=" ".join(at), net=n, network={"n1": "foo", "n2": "bar"}[n]),
            OWNERS,
            NETS,
            LABELS,
            PLACES,
        ),
        st.builds(lambda o, n: RemoveNames(network_id=n, owner=o), OWNERS, NETS),
    ),
    max_size=20,
)


def model(changes: list[Change]) -> dict[tuple[str, str], set[str]]:
    """Addresses by network and name, the slow way."""
    last: dict[tuple[str, str], SetNames | RemoveNames] = {}
    for change in changes:
        assert isinstance(change, SetNames | RemoveNames)
        last[change.network_id, change.owner] = change
    result: dict[tuple[str, str], set[str]] = {}
    for record in last.values():
        for name in record.names if isinstance(record, SetNames) else ():
            assert isinstance(record, SetNames)
            result.setdefault((record.network_id, name), set()).update(map(str, record.addresses))
    return result


def seen(table: NameTable) -> dict[tuple[str, str], set[str]]:
    """The same, as the table reports it."""
    result = {}
    for net in ("n1", "n2"):
        for name in ("web", "db", "www"):
            addresses = found(table, asker(net), name)
            if addresses is not None:
                result[net, name] = set(addresses)
    return result


@given(changes=CHANGES)
def test_table_matches_a_model_for_any_order_or_batch_of_changes(
    changes: list[Change],
) -> None:
    one_by_one = NameTable()
    for change in changes:
        one_by_one = one_by_one.changed(change)
    expected = model(changes)
    assert seen(one_by_one) == expected
    assert seen(NameTable().changed(*changes)) == expected
    assert seen(one_by_one.replaced(changes)) == expected


@given(before=CHANGES, after=CHANGES)
def test_changing_a_table_leaves_the_old_one_unchanged(before: list[Change], after: list[Change]) -> None:
    table = NameTable().changed(*before)
    reported = seen(table)
    table.changed(*after)
    table.replaced(after)
    assert seen(table) == reported


@given(step=st.integers(1, 12), count=st.integers(1, 12), start=st.integers(0, 2**40))
def test_rotation_by_any_step_puts_each_first_equally_often(step: int, count: int, start: int) -> None:
    rounds = 100
    turns = [first(start + step * i, count) for i in range(rounds * count)]
    counts = [turns.count(i) for i in range(count)]
    assert sum(counts) == len(turns)
    assert min(counts) > rounds / 2
