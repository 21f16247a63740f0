"""Descriptors that another process passes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sandnet.passed_descriptors import receive


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_received_descriptors_are_not_inherited(ends: tuple[socket.socket, socket.socket]) -> None:
    with open(os.devnull) as sent:
        socket.send_fds(ends[1], [b"x"], [sent.fileno(), sent.fileno()])
    data, descriptors, truncated = receive(ends[0], 10, 3)
    assert (data, len(descriptors), truncated) == (b"x", 2, False)
    assert not any(os.get_inheritable(each) for each in descriptors)
    for each in descriptors:
        os.close(each)


def test_more_descriptors_than_expected_are_reported(ends: tuple[socket.socket, socket.socket]) -> None:
    with open(os.devnull) as sent:
        socket.send_fds(ends[1], [b"x"], [sent.fileno()] * 5)
    _, descriptors, truncated = receive(ends[0], 10, 1)
    assert truncated
    for each in descriptors:
        os.close(each)


def test_closed_end_is_empty_data(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    assert receive(ends[0], 10, 1) == (b"", [], False)
