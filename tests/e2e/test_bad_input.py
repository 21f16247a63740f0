"""Whatever is asked, the answer is a documented refusal, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.daemon import PREDEFINED, RefusedError, RunningDaemon, mapping

DOCUMENTED = {400, 403, 404, 405, 409, 413, 503}
VALUES: Sequence[Any] = [0, -1, 1.5, 1e300, True, "", "x", "\u0000", "🙂" * 200, [], [1], {}, {"a": {}}]
PATHS = ["../x", "..", "a/../../b", "/etc/passwd", "a b", "a\nb", ".", "-x", "a" * 129, "%2e%2e", "ü"]


def refused(daemon: RunningDaemon, method: str, path: str, **how: Any) -> int:
    """The status of a refusal, which reports what is wrong."""
    response = daemon.api.http.request(method, path, **how)
    assert response.status_code in DOCUMENTED, (path, how, response.text)
    body = response.json()
    assert body["message"]
    assert body["code"]
    assert response.headers["content-type"] == "application/json"
    return int(response.status_code)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"5", b"{} x", b"\xff\xfe", b'{"name": 5}', b'[{"name": "a"}]',
     b'{"name": "\\ud800"}', b"[" * 100_000, b'{"name":' * 50_000, b'{"name": []}',
     b'{"name": NaN}', b"null", b"true"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/networks", "/networks/bridge/endpoints", "/services"])
def test_body_that_is_not_a_request_returns_400(daemon: RunningDaemon, path: str, body: bytes) -> None:
    assert refused(daemon, "POST", path, content=body) == 400


def test_body_over_one_mebibyte_returns_413(daemon: RunningDaemon) -> None:
    assert refused(daemon, "POST", "/networks", content=b'{"name": "' + b"a" * (1 << 20) + b'"}') == 413

    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 65536

    assert refused(daemon, "POST", "/networks", content=chunks()) == 413


@pytest.mark.parametrize(
    "key",
    ["subnet", "gateway", "ip_range", "subnet_ipv6", "ipv6", "mtu", "internal", "icc", "bridge_name",
     "com.docker.network.generic", "com.docker.network.enable_ipv6"],
)  # fmt: skip
def test_option_of_wrong_type_returns_400_or_counts_as_absent(daemon: RunningDaemon, key: str) -> None:
    for i, value in enumerate(VALUES):
        response = daemon.api.http.post("/networks", json={"name": f"n{i}", "options": {key: value}})
        assert response.status_code in (200, 400, 409), (key, value, response.text)
        right = {"ipv6": bool, "internal": bool, "icc": bool, "com.docker.network.enable_ipv6": bool}.get(key)
        if response.status_code == 200:
            text = key not in ("mtu", "com.docker.network.generic") and right is None
            assert isinstance(value, right or dict) or (text and value in ("", "x")), (key, value)


@pytest.mark.parametrize(
    "key",
    ["BridgeName", "AddressIPv4", "FixedCIDR", "FixedCIDRv6", "DefaultGatewayIPv4", "DefaultGatewayIPv6",
     "EnableIPv6", "EnableIPTables", "EnableIPMasquerade", "EnableICC", "DefaultBindingIP", "Mtu",
     "AllowNonDefaultBridge"],
)  # fmt: skip
def test_unreadable_label_returns_400(daemon: RunningDaemon, key: str) -> None:
    wrong: Sequence[Any] = (
        "no such thing",
        "300.1.1.1/24",
        "-1",
        "10.0.0.0/99",
        "::/0%eth0",
        "a" * 5000,
        [],
        {"a": 1},
        1.5,
    )
    for value in wrong:
        if key == "BridgeName" and value == "-1":
            continue
        options = {"com.docker.network.generic": {key: value}}
        response = daemon.api.http.post("/networks", json={"name": "foo", "options": options})
        if response.status_code == 200:
            assert value in ([],), (key, value)
            daemon.api.delete("/networks/foo")
            continue
        assert response.status_code == 400, (key, value, response.text)


@pytest.mark.parametrize(
    "options",
    [
        {"subnet": "127.0.0.0/16"},
        {"subnet": "0.0.0.0/8"},
        {"subnet": "224.0.0.0/24"},
        {"subnet": "10.9.0.0/31"},
        {"subnet": "10.9.0.5/24"},
        {"subnet": "10.9.0.0/24", "gateway": "10.9.1.1"},
        {"subnet": "10.9.0.0/24", "gateway": "10.9.0.255"},
        {"subnet": "10.9.0.0/24", "ip_range": "10.8.0.0/24"},
        {"subnet": "10.9.0.0/24", "ip_range": "10.9.0.0/16"},
        {"gateway": "10.9.0.1"},
        {"subnet_ipv6": "fe80::/64"},
        {"subnet_ipv6": "ff00::/64"},
        {"subnet_ipv6": "fd00::/127"},
        {"mtu": 67},
        {"mtu": 65536},
        {"mtu": 1279, "ipv6": True},
        {"bridge_name": "a/b"},
        {"bridge_name": "../x"},
        {"bridge_name": "a" * 16},
        {"bridge_name": "."},
    ],
)
def test_option_out_of_range_returns_400(daemon: RunningDaemon, options: dict[str, Any]) -> None:
    assert refused(daemon, "POST", "/networks", json={"name": "foo", "options": options}) == 400


@pytest.mark.parametrize("name", [*PATHS, "", None, 5, "a.b", "_x", "a" * 64, "/x", "//x"])
def test_invalid_network_name_returns_400(daemon: RunningDaemon, name: Any) -> None:
    assert refused(daemon, "POST", "/networks", json={"name": name}) == 400


@pytest.mark.parametrize("name", [*PATHS[:3], "", None, "a.b", "//x", "/", "/..", "a" * 64])
def test_invalid_endpoint_name_returns_400(daemon: RunningDaemon, name: Any) -> None:
    assert refused(daemon, "POST", "/networks/bridge/endpoints", json={"name": name}) == 400
    assert refused(daemon, "POST", "/services", json={"name": name}) == 400


@pytest.mark.parametrize("container", [*PATHS, "", None, 5, "/x"])
def test_path_like_container_id_returns_400(daemon: RunningDaemon, container: Any) -> None:
    daemon.api.endpoint("bridge", "e")
    path = "/networks/bridge/endpoints/e/containers"
    assert refused(daemon, "POST", path, json={"container_id": container}) == 400


@pytest.mark.parametrize("ref", [*PATHS, "nothing", "f" * 64, "%00", "a%2Fb"])
def test_unknown_object_in_a_path_returns_404(daemon: RunningDaemon, ref: str) -> None:
    segment = quote(ref, safe="%")
    if ref in ("..", "."):
        segment = quote(ref, safe="").replace(".", "%2E")
    for method, path in (
        ("GET", f"/networks/{segment}"),
        ("DELETE", f"/networks/{segment}"),
        ("POST", f"/networks/{segment}/endpoints"),
        ("GET", f"/networks/bridge/endpoints/{segment}"),
        ("DELETE", f"/networks/bridge/endpoints/{segment}"),
        ("GET", f"/services/{segment}"),
        ("GET", f"/services/{segment}/backend"),
        ("DELETE", f"/services/{segment}"),
        ("GET", f"/sandboxes/{segment}"),
    ):
        body = {"json": {"name": "x"}} if method == "POST" else {}
        assert refused(daemon, method, path, **body) == 404, (method, path)


@pytest.mark.parametrize(
    ("port", "status"),
    [
        ({"proto": 6}, 400),
        ({"port": 80}, 400),
        ({"proto": 1, "port": 80}, 400),
        ({"proto": 300, "port": 80}, 400),
        ({"proto": "icmp", "port": 80}, 400),
        ({"proto": 6, "port": 0}, 400),
        ({"proto": 6, "port": 65536}, 400),
        ({"proto": 6, "port": -1}, 400),
        ({"proto": 6, "port": 1.5}, 400),
        ({"proto": 6, "port": 80, "host_port": 70000}, 400),
        ({"proto": 6, "port": 80, "host_port": 90, "host_port_end": 80}, 400),
        ({"proto": 6, "port": 80, "host_port_end": 80}, 400),
        ({"proto": 6, "port": 80, "host_ip": "1.2.3"}, 400),
        ({"proto": 6, "port": 80, "host_ip": "224.0.0.1"}, 400),
        ({"proto": 6, "port": 80, "host_ip": "fe80::1%lo"}, 400),
        ({"proto": 6, "port": 80, "host_ip": "192.0.2.9"}, 409),
        ({"proto": 6, "port": 80, "host_ip": "::1", "host_port": 8080}, 400),
        (None, 400),
        (5, 400),
    ],
)
def test_unpublishable_port_is_refused(daemon: RunningDaemon, port: Any, status: int) -> None:
    daemon.api.network("foo")
    good = mapping(81, 8081)
    body = {"name": "e", "port_mapping": [good, port]}
    assert refused(daemon, "POST", "/networks/foo/endpoints", json=body) == status
    assert daemon.api.get("/networks/foo/endpoints") == []
    daemon.api.endpoint("foo", "e", good)


def test_ambiguous_prefix_returns_400_naming_the_candidates(daemon: RunningDaemon) -> None:
    ids: list[str] = []
    while len({i[0] for i in ids}) == len(ids):
        ids.append(daemon.api.network(f"n{len(ids)}"))
    twice = next(i[0] for i in ids if [j[0] for j in ids].count(i[0]) > 1)
    with pytest.raises(RefusedError) as failure:
        daemon.api.get(f"/networks/{twice}")
    assert failure.value.status == 400
    for each in ids:
        assert (each[:12] in failure.value.message) == (each[0] == twice)
        assert daemon.api.get(f"/networks/{each[:20]}")["id"] == each


def test_taken_name_returns_403_naming_the_holder(daemon: RunningDaemon) -> None:
    network = daemon.api.network("foo")
    endpoint = daemon.api.endpoint("foo", "one")
    for path, body, holder in (
        ("/networks", {"name": "foo"}, network),
        ("/networks", {"name": "bridge"}, daemon.api.get("/networks?name=bridge")[0]["id"]),
        ("/networks/foo/endpoints", {"name": "one"}, endpoint),
        ("/services", {"name": "one", "network_name": "foo"}, endpoint),
    ):
        with pytest.raises(RefusedError, match=holder[:12]) as failure:
            daemon.api.post(path, **body)
        assert failure.value.status == 403


def test_deleting_an_object_in_use_returns_403_naming_the_users(daemon: RunningDaemon) -> None:
    network = daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    for path, user in (
        (f"/networks/{network}", "one"),
        ("/networks/foo/endpoints/one", sandbox.container),
        ("/services/one", sandbox.container),
    ):
        with pytest.raises(RefusedError, match=user) as failure:
            daemon.api.delete(path)
        assert failure.value.status == 403


def test_leave_of_an_unattached_container_returns_404(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    for _ in range(2):
        assert refused(daemon, "DELETE", "/networks/foo/endpoints/one/containers/c1") == 404
    sandbox = daemon.sandbox("foo", "two")
    assert refused(daemon, "DELETE", f"/networks/foo/endpoints/one/containers/{sandbox.container[:12]}") == 404
    assert sandbox.reaches("198.51.100.2")


def test_unknown_driver_returns_404(daemon: RunningDaemon) -> None:
    for driver in ("nope", "../x", "a/b", "-", "a" * 300):
        assert refused(daemon, "POST", "/networks", json={"name": "foo", "network_type": driver}) == 404


def test_second_host_or_null_network_returns_403(daemon: RunningDaemon) -> None:
    for driver in ("host", "null"):
        assert refused(daemon, "POST", "/networks", json={"name": "foo", "network_type": driver}) == 403


def test_ignored_labels_are_reported_in_a_warning(daemon: RunningDaemon) -> None:
    labels = {"com.docker.network.wrong\r\nX: y": 1, "com.docker.network.generic": {"EnableUserlandProxy": "1"}}
    response = daemon.api.http.post("/networks", json={"name": "foo", "options": labels})
    assert response.status_code == 200
    assert "EnableUserlandProxy" in response.headers["warning"]
    assert "x" not in response.headers


@pytest.mark.parametrize("options", [{"Nope": "1"}, {"com.docker.network.generic": {"EnableIPMasqerade": "false"}}])
def test_unknown_option_returns_400_and_creates_nothing(daemon: RunningDaemon, options: Any) -> None:
    assert refused(daemon, "POST", "/networks", json={"name": "foo", "options": options}) == 400
    assert {net["name"] for net in daemon.api.get("/networks")} == {*PREDEFINED}


def test_cli_suggests_the_right_name_for_a_misspelt_option(daemon: RunningDaemon) -> None:
    for misspelt, right in {"EnableIPMasqerade=false": "EnableIPMasquerade", "subnt=10.9.0.0/24": "subnet"}.items():
        with pytest.raises(AssertionError, match="unknown option") as failed:
            daemon.cli("network", "create", "-o", misspelt, "foo")
        assert f"did you mean {right}?" in str(failed.value)


@pytest.mark.parametrize(
    "query", ["name=", "name=a&partial-id=b", "hostname=x", "partial-id=", "name=a&name=b", "verbose=maybe"]
)
def test_invalid_list_query_returns_400(daemon: RunningDaemon, query: str) -> None:
    for path in ("/networks/bridge/endpoints", "/services"):
        assert refused(daemon, "GET", f"{path}?{query}") == 400
    if query != "name=":
        assert refused(daemon, "GET", f"/networks?{query}") == 400


def test_empty_name_in_a_delete_query_deletes_nothing_else(daemon: RunningDaemon) -> None:
    network = daemon.api.network("foo")
    assert refused(daemon, "DELETE", f"/networks/{network}?name=") == 400
    assert {"foo", "bridge"} <= {net["name"] for net in daemon.api.get("/networks")}
