"""Answers that would command the terminal, forge a line or hide: every command shows them escaped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from sandnet.cli import output
from sandnet.cli.root import root
from sandnet.escaping import printable

if TYPE_CHECKING:
    from tests.support.stub_daemon import Stub

Sandnet = Callable[..., Result]

EVIL = "e\x1b]0;owned\x07\n\r\t\x9b31m\u202e\u200b\u2028"
WHEN = "2026-01-02T03:04:05Z"
BACKEND = {
    "id": EVIL,
    "sandbox_key": EVIL,
    "interface": EVIL,
    "address": EVIL,
    "address_ipv6": EVIL,
    "state": EVIL,
    "weight": 1,
    "holder": True,
}
SERVICE = {
    "name": EVIL,
    "id": EVIL,
    "network": EVIL,
    "address": EVIL,
    "address_ipv6": EVIL,
    "mac": EVIL,
    "gateway": EVIL,
    "labels": {EVIL: EVIL},
    "aliases": [EVIL],
    "port_mapping": [{"proto": 6, "port": 80, "host_ip": EVIL, "host_port": 8080}],
    "backends": [BACKEND, BACKEND],
    "probe": {"kind": "http", "port": 80, "path": "/x", "interval": 2, "timeout": 1},
    "created": WHEN,
}
NETWORK = {
    "name": EVIL,
    "id": EVIL,
    "type": EVIL,
    "driver": EVIL,
    "scope": EVIL,
    "subnets": [EVIL],
    "gateways": [EVIL],
    "options": {EVIL: EVIL},
    "endpoints": [SERVICE],
    "created": WHEN,
}
SANDBOX = {
    "id": EVIL,
    "sandbox_key": EVIL,
    "endpoints": [SERVICE],
    "origin": EVIL,
    "state": EVIL,
    "host_name": EVIL,
    "domain_name": EVIL,
    "hosts_path": EVIL,
    "resolv_conf_path": EVIL,
    "dns": [EVIL],
    "interfaces": [
        {
            "endpoint": EVIL,
            "network": EVIL,
            "interface": EVIL,
            "address": EVIL,
            "address_ipv6": EVIL,
            "mac": EVIL,
            "gateway_priority": 0,
            "state": EVIL,
        }
    ],
}
DRIFT = {"drift": [{"kind": EVIL, "object": EVIL, "problem": EVIL, "reason": EVIL, "done": EVIL}]}
EXPLANATION = {
    "name": EVIL,
    "asker": EVIL,
    "answers": [EVIL],
    "source": EVIL,
    "reason": EVIL,
    "network": "",
    "owners": [EVIL],
    "upstreams": [EVIL],
}
ANSWERS = {
    ("GET", "/networks?verbose=true"): [NETWORK],
    ("GET", "/networks/n?verbose=true"): NETWORK,
    ("GET", "/services?verbose=true"): [SERVICE],
    ("GET", "/services?name=s"): [{"name": "s", "id": "s", "network": "n"}],
    ("GET", "/services/s?verbose=true"): SERVICE,
    ("GET", "/networks/n/endpoints?verbose=true"): [SERVICE],
    ("GET", "/networks/n/endpoints?name=s"): [{"name": "s", "id": "s", "network": "n"}],
    ("GET", "/networks/n/endpoints/s?verbose=true"): SERVICE,
    ("GET", "/sandboxes?verbose=true"): [SANDBOX],
    ("GET", "/sandboxes"): [SANDBOX],
    ("GET", "/sandboxes/c?verbose=true"): SANDBOX,
    ("GET", "/sandboxes/c"): SANDBOX,
    ("GET", "/dns/explain?name=x&from=c"): EXPLANATION,
    ("POST", "/reconcile"): DRIFT,
    ("POST", "/networks"): EVIL,
    ("POST", "/services"): EVIL,
    ("POST", "/networks/n/endpoints"): EVIL,
    ("POST", "/services/s/backend"): EVIL,
    ("POST", "/networks/n/endpoints/s/containers"): EVIL,
    ("GET", "/version"): {"version": EVIL, "api_version": EVIL, "min_api_version": EVIL},
}
SHOWN = [
    "network ls --no-trunc",
    "network ls -q",
    "network ls --json",
    "network ls --format {{.Name}}{{.Subnets}}",
    "network ls --format json",
    "network info n",
    "network info n --json",
    "network create n",
    "service ls",
    "service ls --json",
    "service info s",
    "service info s --json",
    "service info s --format {{.Labels}}{{.Name}}",
    "service publish s",
    "service attach c s",
    "endpoint ls n",
    "endpoint info s.n",
    "endpoint create s.n",
    "endpoint join c s.n",
    "sandbox ls",
    "sandbox info c",
    "sandbox info c --json",
    "dns x --from c",
    "dns x --from c --json",
    "doctor",
    "doctor --json",
    "version",
]


def is_harmless(text: str) -> bool:
    """Whether a terminal only displays it."""
    return all(printable(line) == line for line in text.split("\n"))


@pytest.fixture
def hostile(stub: Stub) -> Stub:
    """A daemon whose every text is hostile."""
    for (method, target), body in ANSWERS.items():
        stub.answer(method, target, json.dumps(body, ensure_ascii=False).encode())
    return stub


@pytest.mark.parametrize("words", SHOWN)
def test_hostile_response_prints_no_terminal_escapes(hostile: Stub, sandnet: Sandnet, words: str) -> None:
    result = sandnet(words)
    assert "owned" in result.stdout, result.output
    assert is_harmless(result.stdout), result.stdout


@pytest.mark.parametrize("words", [words for words in SHOWN if words.endswith("--json")])
def test_hostile_json_response_is_printed_as_equal_json(hostile: Stub, sandnet: Sandnet, words: str) -> None:
    shown = json.loads(sandnet(words).stdout)
    assert shown in ANSWERS.values()


@pytest.mark.parametrize("words", SHOWN)
def test_hostile_error_message_prints_no_terminal_escapes(stub: Stub, sandnet: Sandnet, words: str) -> None:
    body = {"message": EVIL, "hint": EVIL, "code": "internal"}
    for method, target in ANSWERS:
        stub.answer(method, target, json.dumps(body, ensure_ascii=False).encode(), 500)
    result = sandnet(words)
    assert "owned" in result.output
    assert is_harmless(result.output), result.output


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("words", ["network ls --json", "network ls --format {{.name}}", "network ls"])
def test_too_deeply_nested_response_is_an_error(stub: Stub, sandnet: Sandnet, words: str, status: int) -> None:
    stub.answer(
        "GET", "/networks?verbose=true", b'{"name":' + DEEP + b"}" if status == 500 else b"[" + DEEP + b"]", status
    )
    result = sandnet(words)
    assert result.exit_code == 1
    assert result.output.startswith("sandnet: ")


@pytest.mark.parametrize("answer", [b"<html>\x1b[2J", b'["\x1b[2J"]', b'["\xff"]', b""])
def test_non_json_response_to_json_output_is_an_error(stub: Stub, sandnet: Sandnet, answer: bytes) -> None:
    stub.answer("GET", "/networks?verbose=true", answer)
    result = sandnet("network ls --json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "answer is not JSON" in result.stderr
    assert is_harmless(result.stderr)


def test_hostile_events_print_no_terminal_escapes(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {
        "sequence": 1,
        "time": WHEN,
        "type": "backend",
        "action": EVIL,
        "id": EVIL,
        "name": EVIL,
        "network": EVIL,
        "container": EVIL,
        "problem": EVIL,
        "object": {"address": EVIL, "state": EVIL},
    }
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    for arguments in (["events"], ["events", "--json"]):
        stub.answer("GET", "/events", line)
        stub.answer("GET", "/events?since=1", {"message": "over", "code": "internal"}, 500)
        result = CliRunner().invoke(root, ["-H", stub.url, *arguments])
        assert "owned" in result.stdout
        assert is_harmless(result.output), result.output


@pytest.mark.parametrize(
    "words",
    [
        ["network", EVIL],
        [EVIL],
        ["network", "create", f"--{EVIL}"],
        ["network", "create", "--mtu", EVIL, "n"],
        ["network", "create", "n", EVIL],
        ["service", "publish", "-p", EVIL, "s"],
        ["completion", EVIL],
        ["-H", EVIL, "network", "ls"],
        ["network", "ls", "--format", "{{" + EVIL],
        ["network", "ls", "--filter", EVIL],
    ],
    ids=repr,
)
def test_hostile_argument_in_an_error_prints_no_terminal_escapes(words: list[str], stub: Stub) -> None:
    stub.answer("GET", "/networks?verbose=true", [])
    host = [] if words[0] == "-H" else ["-H", stub.url]
    result = CliRunner().invoke(root, [*host, *words], prog_name="sandnet")
    assert result.exit_code in (1, 2)
    assert "owned" in result.output
    assert is_harmless(result.output), result.output


def test_hostile_names_are_not_offered_in_completion(stub: Stub) -> None:
    from click.shell_completion import ShellComplete

    stub.answer("GET", "/networks", [NETWORK, {**NETWORK, "name": "nice"}])
    completer = ShellComplete(root, {"obj": None}, "sandnet", "_SANDNET_COMPLETE")
    offered = completer.get_completions(["-H", stub.url, "network", "info"], "")
    assert [item.value for item in offered] == ["nice"]


def test_only_one_cli_module_prints() -> None:
    folder = Path(output.__file__).parent
    printing = [
        path.name
        for path in sorted(folder.glob("*.py"))
        if any(word in path.read_text() for word in ("click.echo", "print(", "stderr.write", "stdout.write", "secho"))
    ]
    assert printing == ["output.py"]
