"""The figures of docs/security.md: each is the one that the source has."""

from __future__ import annotations

import re

import pytest

from sandnet.api import parsing
from sandnet.api.libnetwork import decode
from sandnet.api.libnetwork.event_stream import Streams
from sandnet.api.middleware import normalization
from sandnet.core.lifecycle import join_plan, parent_updates
from sandnet.core.reconcile import drift_watcher, reconciler
from sandnet.core.reconcile.peer_neighbours import MOST_PEERS
from sandnet.core.state import events, index
from sandnet.dns import message, reply_cache
from sandnet.dns.server import budget, forwarder, resolver, server_liveness, tcp, upstream_sockets
from sandnet.firewall.balancing.flow_learning import DEFAULT_ROOM
from sandnet.kernel import safe_files
from sandnet.kernel.linux import namespace_sockets
from sandnet.kernel.netlink import socket as netlink_socket
from sandnet.logs import BURST, LOG_LIMIT, MAX_LINE, MAX_TRACE, RATE
from sandnet.serving import connection_limits, http_connection, http_server, tls
from tests.architecture.source import REPOSITORY

PAGE = " ".join((REPOSITORY / "docs" / "security.md").read_text().split())
KIB, MIB = 1 << 10, 1 << 20
TIMES = http_connection.ConnectionTimeouts()
STREAMS_OF_ALL, STREAMS_OF_ONE = forwarder.STREAMS
ASKING = 2 * (namespace_sockets._QUERY_SOCKETS_UDP + namespace_sockets._QUERY_SOCKETS_TCP)
UNANSWERED, UNREAD = connection_limits.REQUEST_BYTES // MIB, connection_limits.ANSWER_BYTES // MIB
QUESTION = (tcp._READ + message.LARGEST_QUERY) / 1000

FIGURES = [
    f"a port has {sum(DEFAULT_ROOM.shares):,} places in each protocol and family",
    f"pauses four times as long as it took, but never more than {drift_watcher.LONGEST_PAUSE} s",
    f"one check reads {netlink_socket.MOST_INSIDE // MIB} MiB of it",
    f"whose last repair took longer than {reconciler.SLOW_REPAIR} s",
    f"a machine that can open {http_server.TCP_CONNECTIONS} connections",
    f"handshakes are counted, and end after {http_server.HANDSHAKE:.0f} s",
    f"headers have {TIMES.head:.0f} s, bodies {TIMES.body:.0f} s",
    f"they have {TIMES.stall:.0f} s",
    f"requests beyond {normalization.MAX_REQUESTS} are refused at once",
    f"| {LOG_LIMIT // MIB} MiB each | emptied |",
    f"lines are cut at {MAX_LINE:,} characters; each place in the source logs {RATE:.0f} lines a second",
    f"| {MAX_LINE:,} characters; {MAX_TRACE} lines; {BURST} at once, {RATE:.0f} a second |",
    f"each sandbox has {budget.SLICE * 1000} ms in a turn",
    f"more than four additional ones or {message.LARGEST_QUERY:,} bytes",
    f"an error of {message.HEADER_SIZE} bytes",
    f"at most {resolver.CONNECTIONS} of {resolver.ALL_CONNECTIONS:,}, and no more",
    f"at most {forwarder.OWN} of {forwarder.OUTSTANDING:,} questions",
    f"answers over TCP {STREAMS_OF_ONE} of {STREAMS_OF_ALL}",
    f"| {index.MOST_BYTES // MIB} MiB in all |",
    f"| {parsing.MAX_LABELS} each, of {parsing.MAX_LABEL_BYTES // KIB} KiB |",
    f"| {decode.MAX_ALIASES}; {decode.MAX_PORTS:,} each; {decode.MAX_SERVERS} |",
    f"| `extra_hosts` of a sandbox, by all its joins | {decode.MAX_LINES:,} |",
    f"| names that `parent_updates` of other joins gave to a sandbox | {join_plan.MAX_HOSTS:,} |",
    f"| `parent_updates` that a sandbox has still to deliver | {parent_updates.MAX_PENDING:,} |",
    f"| {events.HISTORY:,}, of {events.REMEMBERED_BYTES // MIB} MiB |",
    f"| {events.AHEAD_BYTES // MIB} MiB, or one event; {Streams()._most} readers; {TIMES.stall:.0f} s |",
    f"| {2 * MOST_PEERS * (MOST_PEERS - 1):,}: of {MOST_PEERS} interfaces, in both families |",
    f"sandboxes of a network with more than {MOST_PEERS} interfaces",
    f"| {http_server.UNIX_CONNECTIONS:,} unix, {http_server.TCP_CONNECTIONS} TCP |",
    f"| {http_connection.MAX_HEAD // KIB} KiB a connection |",
    f"| {UNANSWERED} MiB of all unix sockets, {UNANSWERED} MiB of all TCP sockets; a body "
    f"{normalization.MAX_BODY // MIB} MiB |",
    f"| {http_connection.MAX_PIPELINE} a connection |",
    f"| {UNREAD} MiB of all unix sockets, {UNREAD} MiB of all TCP sockets, and",
    f"| {normalization.MAX_REQUESTS} each |",
    f"| {safe_files.MAX_READ // MIB} MiB | the rest is not read |",
    f"| {reply_cache.CLIENT_LIMIT // MIB} MiB | {reply_cache.TOTAL_LIMIT // MIB} MiB |",
    f"({resolver.CONNECTIONS} connections, {QUESTION:.1f} KB each)",
    f"({resolver.CONNECTIONS} connections, {round(tcp.UNSENT / KIB)} KiB each)",
    f"({2 * tcp._SENDING // KIB} KiB out, {2 * tcp._RECEIVING // KIB} KiB in)",
    f"| {2 * namespace_sockets._RECEIVE_BUFFER // MIB} MiB at most, the kernel's overhead included",
    f"whose join names some | {ASKING} |",
    f"| {forwarder.OWN}, 2 MiB; the kernel holds up to {2 * upstream_sockets.RECEIVED // KIB} KiB of answers a socket "
    f"| {forwarder.OUTSTANDING:,}, 16 MiB |",
    f"up to {forwarder.SERVERS} servers",
    f"({STREAMS_OF_ONE} of 192 KiB) | {STREAMS_OF_ALL * 192 // KIB} MiB |",
    f"2 × {server_liveness._MOST:,} servers",
]


@pytest.mark.parametrize("figure", FIGURES)
def test_figure_of_the_security_page_is_the_one_of_the_source(figure: str) -> None:
    assert figure in PAGE


def test_renewed_files_are_looked_at_as_often_as_the_page_states() -> None:
    assert tls.CHECK_INTERVAL == 2.0
    assert "new connections use renewed files within two seconds" in PAGE


def test_proof_column_names_a_test_or_refers_to_one() -> None:
    rows = [line for line in (REPOSITORY / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    proofs = [line.rstrip(" |").rpartition("|")[2] for line in rows]
    without = [
        proof
        for proof in proofs
        if not re.search(r"`test_\w+`|proved by|the same|the test under a live systemd", proof)
    ]
    assert without == []
