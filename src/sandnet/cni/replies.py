"""Messages that the plugin writes and reads itself; the module json is imported where no speed is needed."""

from __future__ import annotations

import json

from sandnet.wire.cni_versions import NEWEST, VERSIONS


def versions(configuration: bytes) -> bytes:
    """Return the result of ``VERSION``."""
    return _encoded({"cniVersion": _version(configuration), "supportedVersions": list(VERSIONS)})


def error(configuration: bytes, code: int, message: str, details: str = "") -> bytes:
    """Return an error of the specification."""
    body = {"cniVersion": _version(configuration), "code": code, "msg": message}
    return _encoded({**body, "details": details} if details else body)


def reason(body: bytes) -> str:
    """Return the message in an error of another dialect; empty: there is none."""
    return str(_read(body).get("message", ""))


def socket_of(configuration: bytes) -> str:
    """Return the daemon's address in the configuration; empty: there is none."""
    return str(_read(configuration).get("socket") or "")


def _version(configuration: bytes) -> str:
    """Return the configuration's version, which an answer repeats, if it is one that is served."""
    found = _read(configuration).get("cniVersion")
    return str(found) if found in VERSIONS else NEWEST


def _read(text: bytes) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _encoded(message: object) -> bytes:
    return json.dumps(message).encode()
