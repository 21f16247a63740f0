from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandnet.client import Client
from sandnet.errors import Error, Kind
from sandnet.transport import Location
from sandnet.wire.libnetwork import Join, NetworkCreate

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

ID = "32fbf63200e2897f5de72cb2a4b653e4b1a523b15116e96e3d73f7849e583653"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("unix:///run/sandnet/sandnet.sock", Location(path="/run/sandnet/sandnet.sock")),
        ("tcp://127.0.0.1:2385", Location(host="127.0.0.1", port=2385)),
        ("tcp://[::1]:2385", Location(host="::1", port=2385)),
    ],
)
def test_known_address_forms_are_parsed(url: str, location: Location) -> None:
    assert Location.parse(url) == location


@pytest.mark.parametrize(
    "url",
    ["", "/run/x", "unix://run/x", "unix:/run/x", "tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:65536", "http://h:1"],
)
def test_unknown_address_form_is_refused_listing_the_known(url: str) -> None:
    with pytest.raises(Error) as caught:
        Client(url)
    assert caught.value.kind is Kind.INVALID
    assert "unix:///" in caught.value.hint


def test_network_list_response_becomes_records(stub: Stub) -> None:
    stub.answer("GET", "/networks", [{"name": "none", "id": ID, "type": "null", "endpoints": []}])
    (network,) = Client(stub.url).networks()
    assert (network.name, network.id, network.type, network.endpoints) == ("none", ID, "null", [])


def test_create_sends_only_the_specified_fields(stub: Stub) -> None:
    stub.answer("POST", "/networks", ID)
    assert Client(stub.url).create_network(NetworkCreate(name="foo", network_type="")) == ID
    assert stub.requests[0].body == {"name": "foo", "network_type": ""}


def test_reserved_characters_in_names_stay_in_one_url_segment(stub: Stub) -> None:
    stub.answer("POST", "/networks/a%2Fb/endpoints/%3Fx%20y/containers", "/key")
    assert Client(stub.url).join("a/b", "?x y", Join(container_id="c")) == "/key"


def test_list_filters_are_encoded_and_absent_ones_omitted(stub: Stub) -> None:
    stub.answer("GET", "/services?name=%2Fa%26b&verbose=true", [])
    assert Client(stub.url).services(name="/a&b", verbose=True) == []


def test_empty_name_filter_requests_the_default_network(stub: Stub) -> None:
    stub.answer("GET", "/networks?name=", [])
    assert Client(stub.url).networks(name="") == []


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_name", Kind.INVALID),
        (403, "name_taken", Kind.NAME_TAKEN),
        (403, "protected", Kind.PROTECTED),
        (403, "network_in_use", Kind.IN_USE),
        (404, "network_not_found", Kind.NOT_FOUND),
        (409, "port_taken", Kind.CONFLICT),
        (409, "exhausted", Kind.EXHAUSTED),
        (500, "teardown_incomplete", Kind.INTERNAL),
        (503, "", Kind.UNAVAILABLE),
    ],
)
def test_error_response_raises_the_daemon_error(stub: Stub, status: int, code: str, kind: Kind) -> None:
    stub.answer("DELETE", "/networks/foo", {"message": "no", "code": code, "hint": "try"}, status)
    with pytest.raises(Error) as caught:
        Client(stub.url).delete_network("foo")
    error = caught.value
    assert (error.kind, error.message, error.hint) == (kind, "no", "try")
    assert error.code == (code or kind.value)


def test_plain_text_error_response_becomes_the_message(stub: Stub) -> None:
    stub.answer("GET", "/networks/foo", b"404 page not found\n", 404)
    with pytest.raises(Error, match=r"^404 page not found$"):
        Client(stub.url).network("foo")


def test_malformed_response_hints_at_a_version_mismatch(stub: Stub) -> None:
    stub.answer("GET", "/networks/foo", [1])
    with pytest.raises(Error) as caught:
        Client(stub.url).network("foo")
    assert (caught.value.kind, caught.value.code) == (Kind.INTERNAL, "bad_answer")


def test_refused_connection_gives_advice(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        Client(f"unix://{tmp_path}/absent").networks()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "sandnet daemon" in caught.value.hint


def test_stale_daemon_socket_gives_advice(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as exited:
        exited.bind(str(tmp_path / "s"))
    with pytest.raises(Error, match="no daemon listens") as caught:
        Client(f"unix://{tmp_path}/s").networks()
    assert "sandnet daemon" in caught.value.hint


def test_hung_daemon_is_reported_after_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(Error, match=r"did not answer within 0\.05 s"):
            Client(f"unix://{tmp_path}/s", timeout=0.05).networks()


def test_closed_connection_is_reported(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(str(tmp_path / "s"))
        rude.listen()
        hang_up = threading.Thread(target=lambda: rude.accept()[0].close())
        hang_up.start()
        with pytest.raises(Error, match="broke off") as caught:
            Client(f"unix://{tmp_path}/s").networks()
        hang_up.join()
    assert caught.value.kind is Kind.UNAVAILABLE


def test_tcp_client_works_like_the_unix_socket_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer = listener.accept()[0]
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        server = threading.Thread(target=serve)
        server.start()
        assert Client(f"tcp://127.0.0.1:{listener.getsockname()[1]}").services() == []
        server.join()
