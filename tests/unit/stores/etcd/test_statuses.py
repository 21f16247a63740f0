"""What the statuses of etcd mean."""

from __future__ import annotations

import pytest

from sandnet.stores.etcd.gateway import Status
from sandnet.stores.etcd.member_connection import HttpAnswer
from sandnet.stores.etcd.statuses import Meaning, error_of, meaning, status_of, unwrapped


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ("etcdserver: requested lease not found", 5, Meaning.LEASE_ENDED),
        ("etcdserver: mvcc: required revision has been compacted", 11, Meaning.COMPACTED),
        ("etcdserver: invalid auth token", 16, Meaning.TOKEN_REFUSED),
        ("etcdserver: no leader", 14, Meaning.NOT_APPLIED),
        ("etcdserver: too many requests", 8, Meaning.NOT_APPLIED),
        ("etcdserver: request timed out", 14, Meaning.UNCLEAR),
        ("etcdserver: request timed out, possibly due to previous leader failure", 14, Meaning.UNCLEAR),
        ("etcdserver: leader changed", 14, Meaning.UNCLEAR),
        ("context canceled", 1, Meaning.UNCLEAR),
        ("anything new", 2, Meaning.UNCLEAR),
        ("etcdserver: permission denied", 7, Meaning.REFUSED),
        ("etcdserver: mvcc: database space exceeded", 8, Meaning.REFUSED),
    ],
)
def test_status_has_its_meaning(message: str, code: int, expected: Meaning) -> None:
    assert meaning(Status(message, code)) is expected
    assert meaning(Status(message, grpc_code=code)) is expected


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ("etcdserver: mvcc: database space exceeded", 8, "store_full"),
        ("etcdserver: permission denied", 7, "store_denied"),
        ("etcdserver: authentication failed, invalid user ID or password", 3, "store_unauthorized"),
        ("etcdserver: user name is empty", 3, "store_unauthorized"),
        ("etcdserver: invalid auth token", 16, "store_unauthorized"),
        ("etcdserver: corrupt cluster", 15, "store_unavailable"),
    ],
)
def test_error_has_a_code_for_programs(message: str, code: int, expected: str) -> None:
    assert error_of(Status(message, code), "h1:2379").code == expected


def test_error_shows_what_was_sent_in_one_safe_line() -> None:
    text = error_of(Status("a\n\x1b[31m" + "b" * 1000, 2), "h1:2379").message

    assert text.isprintable()
    assert len(text) < 500


def test_gateway_that_is_switched_off_is_named() -> None:
    status = status_of(HttpAnswer(404, b"404 page not found\n"))

    assert "--enable-grpc-gateway" in error_of(status, "h1:2379").hint


def test_only_message_of_a_stream_is_unwrapped() -> None:
    assert unwrapped(HttpAnswer(200, b'{"result":{"TTL":"5"}}\n')) == HttpAnswer(200, b'{"TTL":"5"}')
    refused = unwrapped(HttpAnswer(200, b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}\n'))
    assert refused.status == 503
    assert meaning(status_of(refused)) is Meaning.NOT_APPLIED
    early = HttpAnswer(401, b'{"error":"x","message":"x","code":16}')
    assert unwrapped(early) == early
