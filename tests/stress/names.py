"""Whether every sandbox is answered the names that the lists tell, and no other, on each of its networks."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from ipaddress import ip_interface

import dns.message

from tests.stress.workload import CONTAINERS, ENDPOINTS, FOUND, called
from tests.support.daemon import JSON, RunningDaemon

SERVER = ("127.0.0.11", 53)
DEADLINE = 10.0
"""Seconds for an answer."""
KINDS = ("A", "AAAA")
Names = Mapping[str, set[str]]
"""Addresses by name; of a name that is not in it, none."""


def misspoken(daemon: RunningDaemon, networks: Sequence[JSON], sandboxes: Sequence[JSON]) -> Iterator[str]:
    """Where an answer is not what the lists tell, in words."""
    reported = {f"{short}.{net['name']}": where for net in networks for short, where in names_on(net).items()}
    for sandbox in sandboxes:
        joined = dict.fromkeys(each["network"] for each in sandbox["interfaces"])
        asked = [f"{short}.{net}" for net in joined for short in _ever_called(net)]
        try:
            answers = daemon.host.inside(sandbox["sandbox_key"], _answers, asked)
        except OSError as error:
            yield f"{sandbox['id']} is not answered: {error}"
            continue
        for name in asked:
            answer, wanted = answers.get(name, set()), reported.get(name, set())
            if answer != wanted:
                yield f"{sandbox['id']} is answered {sorted(answer)} for {name}, and {sorted(wanted)} is told"


def names_on(network: JSON) -> Names:
    """Endpoints, and the containers behind them, at their own addresses."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for endpoint in network["endpoints"]:
        found[endpoint["name"]] |= _addresses(endpoint)
        for backend in endpoint["backends"]:
            found[backend["id"]] |= _addresses(backend)
    return found


def _addresses(holder: JSON) -> set[str]:
    return {str(ip_interface(holder[key]).ip) for key in ("address", "address_ipv6") if holder[key]}


@cache
def _ever_called(network: str) -> list[str]:
    """All names that anything on a network may have had."""
    return [*(called(network, short).partition("/")[2] for short in ENDPOINTS), *CONTAINERS, *FOUND]


@cache
def _question(name: str, kind: str, number: int) -> bytes:
    message = dns.message.make_query(name, kind, id=number).to_wire()
    return len(message).to_bytes(2, "big") + message


def _answers(names: Sequence[str]) -> Names:
    """What the sandbox that the thread is in is answered, all asked on one connection (RFC 7766, 6.2.1.1)."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    numbered = [*enumerate((name, kind) for name in names for kind in KINDS)]
    with socket.create_connection(SERVER, DEADLINE) as out, out.makefile("rb") as file:
        out.sendall(b"".join(_question(name, kind, number) for number, (name, kind) in numbered))
        for _ in numbered:
            reply = file.read(int.from_bytes(file.read(2), "big"))
            if not reply:
                raise ConnectionResetError("the resolver hung up")
            name, _ = numbered[int.from_bytes(reply[:2], "big")][1]
            if reply[6:8] != b"\0\0":  # it has records
                found[name] |= {item.to_text() for part in dns.message.from_wire(reply).answer for item in part}
    return found
