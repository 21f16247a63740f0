"""The members of the etcd cluster: how one is started, and its role."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Final

from sandnet.lab.lab_spec import CLIENT_PORT, PEER_PORT, address, host_name

PROGRAM: Final = "etcd"
PACKAGE: Final = "etcd-server"
DATA: Final = "/var/lib/etcd"
STATUS_TIMEOUT: Final = 0.5
"""Seconds until a member counts as one that does not answer."""


def etcd_command(number: int, members: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command that starts the member of a host, for the first time or again, with further options."""
    own = address(number)
    cluster = ",".join(f"{host_name(each)}=http://{address(each)}:{PEER_PORT}" for each in range(1, members + 1))
    return [
        PROGRAM,
        f"--name={host_name(number)}",
        f"--data-dir={DATA}/data",
        f"--listen-peer-urls=http://{own}:{PEER_PORT}",
        f"--initial-advertise-peer-urls=http://{own}:{PEER_PORT}",
        f"--listen-client-urls=http://{own}:{CLIENT_PORT},http://127.0.0.1:{CLIENT_PORT}",
        f"--advertise-client-urls=http://{own}:{CLIENT_PORT}",
        f"--initial-cluster={cluster}",
        *options,
    ]


def member_role(number: int) -> str:
    """Return the role of the member of a host: ``leader``, ``follower``, ``no leader``; ``starting``: no answer."""
    connection = http.client.HTTPConnection(address(number), CLIENT_PORT, timeout=STATUS_TIMEOUT)
    try:
        connection.request("POST", "/v3/maintenance/status", "{}")
        status = json.loads(connection.getresponse().read())
        leader = status.get("leader", "0")
        if leader == "0":
            return "no leader"
        return "leader" if leader == status["header"]["member_id"] else "follower"
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return "starting"
    finally:
        connection.close()
