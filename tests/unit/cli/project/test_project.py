"""A project's file: what it declares, what is refused at which line, and its bounds."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandnet.cli.project import decode, exported_file
from sandnet.cli.project.entries import NetworkEntry, Project, ServiceEntry
from sandnet.cli.project.yaml_nodes import MAX_BYTES
from sandnet.errors import Error
from sandnet.model import NetworkOptions
from tests.support.examples import examples

HEAD = "name: shop\n"
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{one}: &{one} [{', '.join([f'*{other}'] * 9)}]" for other, one in zip("abcdefgh", "bcdefghi", strict=True)]
)


def read(text: str) -> Project:
    return decode.project(text.encode(), "shop.yaml")


def test_network_entry_has_each_option_of_networks() -> None:
    own = {"driver", "labels"}
    assert set(NetworkEntry.__struct_fields__) - own == set(NetworkOptions.__struct_fields__)


def test_scalars_follow_yaml_1_2() -> None:
    web = read(HEAD + "services: {web: {ports: [22:22, 80], labels: {a: no, b: 08, c: '1', d: on}}}").services["web"]
    assert web.ports == ["22:22/tcp", "0:80/tcp"]
    assert web.labels == {"a": "no", "b": "08", "c": "1", "d": "on"}


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("name: x\nnetwork: {}", 2, "unknown key 'network'", "did you mean networks?"),
        ("name: x\nnetworks:\n  a:\n    Subnt: 1", 4, "networks.a: unknown key 'Subnt'", "did you mean subnet?"),
        (
            "name: x\nservices:\n  a:\n    probe:\n      prt: 1",
            5,
            "services.a.probe: unknown key",
            "did you mean port?",
        ),
        ("name: x\nnetworks:\n  a:\n    ipv6: yes", 4, "networks.a.ipv6: expected true or false, got text", ""),
        ("name: x\nnetworks:\n  a:\n    gateway: 10.0.0.300", 4, "networks.a.gateway: ", ""),
        ("name: x\nservices:\n  a:\n    ports:\n      - 80\n      - 99999", 6, "services.a.ports[1]: ", ""),
        ("name: x\nservices:\n  a:\n    ports: 80", 4, "services.a.ports: expected a list, got a whole number", ""),
        ("name: x\nservices:\n  a:\n    labels:\n      b: c\n      d: 1", 6, "services.a.labels.d: ", "quotes"),
        ("name: x\nservices:\n  a:\n    labels: {sandnet.project: y}", 4, "services.a.labels: ", ""),
        ("name: x\nnetworks:\n  a: {}\n  a: {}", 4, "networks: the key 'a' is also in line 3", ""),
        ("name: x\nservices:\n  a: {network: n}\n  b: {network: n, name: a}", 4, "the service of services.a", ""),
        ("name: x\nnetworks:\n  a: !!python/name:os.system {}", 3, "the tag !!python/name:os.system", ""),
        ("networks: {}", 1, "the project's name is missing", "name: shop"),
        ("name: 'a b'", 1, "name: ", ""),
        ("name: x\nnetworks: [a]", 2, "networks: a mapping is expected", ""),
        ("name: x\n\tnetworks: 1", 2, "", ""),
        ("name: x\n--- {}", 2, "", ""),
        ("- x", 1, "a mapping with name", ""),
        ("", 1, "a mapping with name", ""),
    ],
)
def test_mistake_is_reported_with_file_and_line(text: str, line: int, message: str, hint: str) -> None:
    with pytest.raises(Error) as caught:
        read(text)
    assert caught.value.message.startswith(f"shop.yaml:{line}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "#" * MAX_BYTES,
        HEAD + "networks: " + "[" * 2_000,
        HEAD + "networks: {a: {labels: " + "{a: " * 30 + "1" + "}" * 33,
        BOMB.replace("a: &a", "name: x\nservices: {s: {ports: &a").replace("x]\n", "x]}}\n", 1) + "\n",
        HEAD + "services: {a: {ports: &a [*a]}}",
        HEAD + "networks: &a {x: *a}",
        "\x00",
        HEAD + "networks: *missing",
    ],
    ids=["size", "brackets", "depth", "bomb", "own-list", "own-mapping", "binary", "no-anchor"],
)
def test_file_beyond_a_bound_is_refused_soon(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(Error):
        read(text)
    assert time.process_time() - begin < 30


def test_expansion_by_aliases_is_bounded() -> None:
    levels = ["&l0 [80, 80, 80, 80, 80, 80, 80, 80, 80, 80]"]
    levels += [f"&l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(Error, match="counting what aliases repeat"):
        read(HEAD + f"services: {{a: {{ports: [{', '.join(levels)}]}}}}")


def test_alias_within_the_bounds_is_followed() -> None:
    found = read(HEAD + "networks:\n  a: &a {mtu: 1400}\n  b: *a")
    assert found.networks["b"] == found.networks["a"] == NetworkEntry(mtu=1400)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=examples(30))
@given(st.dictionaries(TEXTS, TEXTS, max_size=4))
@example({"a": "1e3", "b": "08", "c": "1_0", "d": "no", "e": "~", "f": "22:22", "g": "=", "h": "<<", "i": "0x1"})
@example({"a": "\x85", "b": "\x1b[31m", "c": " x ", "d": "a\nb\n", "e": "\ufeff", "f": "\U0001f600", "g": "x" * 300})
def test_labels_survive_writing_and_reading(labels: dict[str, str]) -> None:
    written = Project(name="shop", services={"web": ServiceEntry(labels=labels)})
    assert read(exported_file.text(written)) == written


def test_all_fields_survive_writing_and_reading() -> None:
    text = HEAD + (
        "networks:\n  a: {subnet: 10.9.0.0/24, ip_range: 10.9.0.200/25, bridge_address: 10.9.0.1/24, ipv6: true,\n"
        "    subnet_ipv6: 'fd00::/64', host_access: [53/udp, 22],\n"
        "    reserved_addresses: {db: 10.9.0.9}, binding_address: '::1', mtu: 1400, icc: false}\n"
        "services:\n  web: {network: a, ports: [80, '[::1]:8080-8082:80-82/udp'], expose: [443], affinity: client,\n"
        "    probe: {kind: http, port: 80, interval: 0.5, timeout: 0.25}, mac: 02:00:00:00:00:01,\n"
        "    additional_addresses: [10.9.0.7, 'fd00::7']}\n"
    )
    found = read(text)
    assert found.networks["a"].ip_range == "10.9.0.128/25"
    assert found.networks["a"].host_access == ["53/udp", "22/tcp"]
    again = read(exported_file.text(found))
    assert again == found
    assert msgspec.to_builtins(again, enc_hook=str) == msgspec.to_builtins(found, enc_hook=str)
