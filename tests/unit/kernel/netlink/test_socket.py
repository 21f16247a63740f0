"""Netlink messages as bytes: what we write, and what we make of what we read."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.kernel.netlink.rtnetlink import link_header, mac_and_mtu, mac_bytes, veth_info
from sandnet.kernel.netlink.socket import (
    Reply,
    attribute,
    attributes,
    error_of,
    mapped_error,
    nested,
    replies,
    string,
    to_number,
    to_text,
    u32,
)

ERROR, DONE, ACK_TLVS = 2, 3, 0x200


def message(kind: int, body: bytes, sequence: int = 7, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def test_attribute_of_five_bytes_has_true_length_and_padding() -> None:
    assert attribute(3, b"eth0\0") == struct.pack("=HH", 9, 3) + b"eth0\0\0\0\0"


def test_nested_attributes_set_the_nested_flag() -> None:
    assert nested(18, u32(1, 5)) == struct.pack("=HHHHI", 12, 18 | 0x8000, 8, 1, 5)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=64)))
def test_attributes_survive_a_round_trip(wanted: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in wanted.items())
    assert attributes(b"head" + data, 4) == wanted


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    attributes(data)
    list(replies(data))


@pytest.mark.parametrize("length", [0, 3, 9, 0xFFFF])
def test_attribute_with_an_impossible_length_ends_parsing(length: int) -> None:
    assert attributes(u32(1, 5) + struct.pack("=HHI", length, 2, 6)) == {1: struct.pack("=I", 5)}


def test_text_and_number_attributes_read_back_equal() -> None:
    found = attributes(string(3, "eth0") + u32(4, 1500))
    assert (to_text(found[3]), to_number(found[4])) == ("eth0", 1500)


def test_absent_attributes_read_as_empty() -> None:
    assert (to_text(None), to_number(None)) == ("", 0)


def test_two_messages_in_a_datagram_are_read_in_order() -> None:
    data = message(16, b"12345") + message(DONE, b"\0" * 4, sequence=8)
    assert [(reply.kind, reply.sequence, reply.body) for reply in replies(data)] == [
        (16, 7, b"12345"),
        (DONE, 8, b"\0" * 4),
    ]


def test_acknowledgement_is_no_failure() -> None:
    assert error_of(Reply(ERROR, 0, 1, struct.pack("=i", 0) + bytes(16))) is None


def test_netlink_error_keeps_the_kernel_message() -> None:
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + string(1, "Nexthop has invalid gateway")
    refused = error_of(Reply(ERROR, ACK_TLVS, 1, body))
    assert refused is not None
    assert (refused.errno, refused.strerror) == (errno.EINVAL, "Nexthop has invalid gateway")


def test_netlink_error_without_a_message_is_described_by_errno() -> None:
    refused = error_of(Reply(ERROR, 0, 1, struct.pack("=i", -errno.ENODEV) + bytes(16)))
    assert refused is not None
    assert refused.strerror == "No such device"


def test_dump_ending_with_an_error_is_a_failure() -> None:
    refused = error_of(Reply(DONE, 0, 1, struct.pack("=i", -errno.EPERM)))
    assert refused is not None
    assert refused.errno == errno.EPERM


def test_errno_maps_to_a_kind_and_a_sentence() -> None:
    error = mapped_error("make bridge sn0", OSError(errno.EPERM, "Operation not permitted"))
    assert (error.kind, error.message) == ("unavailable", "cannot make bridge sn0: Operation not permitted")
    assert "CAP_NET_ADMIN" in error.hint


@pytest.mark.parametrize(("up", "flags", "change"), [(True, 1, 1), (False, 0, 1), (None, 0, 0)])
def test_link_header_changes_only_the_up_flag(up: bool | None, flags: int, change: int) -> None:
    assert struct.unpack("=BxHiII", link_header(9, up=up)) == (0, 0, 9, flags, change)


def test_link_without_mac_and_mtu_requests_nothing() -> None:
    assert mac_and_mtu() == b""
    assert attributes(mac_and_mtu("02:42:0a:00:00:02", 1400)) == {
        1: mac_bytes("02:42:0a:00:00:02"),
        4: struct.pack("=I", 1400),
    }


def test_veth_peer_is_created_down_in_the_other_namespace() -> None:
    info = attributes(attributes(veth_info("eth0", 42, b""))[18])
    peer = attributes(info[2])[1]
    assert to_text(info[1]) == "veth"
    assert peer[:16] == bytes(16)
    assert attributes(peer, 16) == {3: b"eth0\0", 28: struct.pack("=I", 42)}
