"""The netavark plugin: a program that Podman's netavark runs for each container of a network of ours.

The daemon sees it as a container runtime: what netavark passes is put into the request of a CNI call, and the result
into netavark's form. Source: netavark, plugin-API.md, API version 1.0.0.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import quote

from sandnet.cni import PluginError, read_input, socket_path
from sandnet.cni.exchange import DaemonAwayError, exchange
from sandnet.netavark.cni_calls import arguments_of, cni_configuration, created, interface_of, required, status_block

API_VERSION = "1.0.0"
COMMANDS = ("create", "setup", "teardown", "info")


def main() -> None:
    """Entry point of ``sandnet-netavark``: run the command of the arguments; exit with 1 after an error."""
    try:
        answer = run(sys.argv[1:])
    except PluginError as failure:
        details = f" ({failure.details})" if failure.details else ""
        _end({"error": f"{failure.message}{details}"}, 1)
    except Exception as failure:  # netavark expects JSON, whatever happens
        _end({"error": f"{type(failure).__name__}: {failure}"}, 1)
    _end(answer, 0)


def _end(answer: object, status: int) -> None:
    if answer is not None:
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    sys.exit(status)


def run(arguments: list[str]) -> object:
    """Run a command; return what it prints, ``None``: nothing.

    Raises:
        PluginError: the arguments or the input are malformed, or the daemon refuses or does not answer.
    """
    command, *rest = arguments or [""]
    if command == "info":
        from importlib.metadata import version

        return {"version": version("sandnet"), "api_version": API_VERSION}
    expected = 1 if command in ("setup", "teardown") else 0
    if command not in COMMANDS or len(rest) != expected:
        raise PluginError(0, "usage: sandnet-netavark create | setup NETNS | teardown NETNS | info")
    given = _input()
    if command == "create":
        return created(given)
    verb = "add" if command == "setup" else "del"
    result = _call(verb, rest[0], given)
    return status_block(given, result) if verb == "add" else None


def _input() -> dict[str, Any]:
    try:
        given = json.loads(read_input())
    except ValueError as failure:
        raise PluginError(0, f"the input is no JSON: {failure}") from None
    if not isinstance(given, dict):
        raise PluginError(0, "the input is no JSON object")
    return given


def _call(verb: str, netns: str, given: dict[str, Any]) -> dict[str, Any]:
    """Request a CNI call of the daemon; return its result."""
    configuration = json.dumps(cni_configuration(given)).encode()
    values = {"container": required(given, "container_id"), "netns": netns, "ifname": interface_of(given)}
    values["args"] = arguments_of(given)
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items())
    try:
        status, _, body = exchange(socket_path(b""), f"/cni/{verb}?{query}", configuration)
    except DaemonAwayError as failure:
        raise PluginError(0, str(failure), "is the daemon running? see: systemctl status sandnet") from None
    answer = json.loads(body) if body.strip() else {}
    if status != 200:
        reason = answer.get("msg") or answer.get("message") or f"the daemon answered {status}"
        raise PluginError(0, str(reason), str(answer.get("details") or answer.get("hint") or ""))
    return answer if isinstance(answer, dict) else {}
