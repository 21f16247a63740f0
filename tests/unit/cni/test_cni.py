"""The CNI plugin's own part: the socket's path, the query, half answers, and its messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sandnet
from sandnet.cni import PluginError, quoted, run, socket_path
from sandnet.cni.exchange import DaemonAwayError, _answer
from sandnet.cni.replies import error, reason, versions
from sandnet.wire.cni_versions import NEWEST, VERSIONS

SOURCE = Path(str(sandnet.__file__)).parents[1]


@pytest.mark.parametrize("text", ["c1", "/run/netns/blue", "IP=10.1.1.1;MAC=02:00", "a b&c=d#%", "\udcff", "é"])
def test_quoted_text_has_no_character_of_a_query(text: str) -> None:
    assert not set(quoted(text)) & set(" &=#;?\r\n")
    assert quoted(text).isascii()


def test_socket_of_the_configuration_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANDNET_HOST", raising=False)
    assert socket_path(b"{}") == "/run/sandnet/sandnet.sock"
    monkeypatch.setenv("SANDNET_HOST", "unix:///a.sock")
    assert socket_path(b"{}") == "/a.sock"
    assert socket_path(b'{"socket": "unix:///b.sock"}') == "/b.sock"
    assert socket_path(b'{"socket": ""') == "/a.sock"


def test_address_that_is_no_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDNET_HOST", "tcp://localhost:1")
    with pytest.raises(PluginError) as refused:
        socket_path(b"{}")
    assert refused.value.code == 4


@pytest.mark.parametrize("command", ["", "add", "REMOVE"])
def test_unknown_command_is_refused(command: str) -> None:
    with pytest.raises(PluginError) as refused:
        run(command, b"{}")
    assert refused.value.code == 4


@pytest.mark.parametrize(
    "received",
    [b"", b"HTTP/1.1 20", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf"],
)
def test_half_an_answer_counts_as_none(received: bytes) -> None:
    with pytest.raises(DaemonAwayError):
        _answer(received)


def test_answer_of_another_dialect_is_recognised() -> None:
    head = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n"
    answer = _answer(head + b'{"message":"no path"}')
    assert (answer.status, answer.is_cni, answer.body) == (404, False, b'{"message":"no path"}')
    assert reason(b'{"message":"no path"}') == "no path"
    assert reason(b"<html>") == ""


@pytest.mark.parametrize(
    ("status", "field", "seconds"),
    [(503, "Retry-After: 2", 2), (500, "Retry-After: 2", 0), (503, "Retry-After: soon", 0), (503, "X: 1", 0)],
)
def test_answer_that_asks_for_patience_is_recognised(status: int, field: str, seconds: int) -> None:
    assert _answer(f"HTTP/1.1 {status} Later\r\n{field}\r\n\r\n".encode()).retry_after == seconds


@pytest.mark.parametrize(
    ("configuration", "version"), [(b'{"cniVersion": "0.4.0"}', "0.4.0"), (b"{", NEWEST), (b"[]", NEWEST)]
)
def test_messages_repeat_the_version(configuration: bytes, version: str) -> None:
    assert json.loads(versions(configuration)) == {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    assert json.loads(error(configuration, 11, "away")) == {"cniVersion": version, "code": 11, "msg": "away"}


def test_plugin_loads_none_of_the_slow_modules() -> None:
    """Each would take as long as the rest of the plugin: a runtime starts it for every interface."""
    program = (
        f"import sys; sys.path.append({str(SOURCE)!r}); import sandnet.cni, sandnet.cni.exchange; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert not {"typing", "re", "enum", "json", "socket", "msgspec"} & {*done.stdout.split()}
