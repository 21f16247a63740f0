"""The head of an answer is sent with its body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from sandnet.serving.answer_buffer import AnswerBuffer


class Noting(asyncio.Transport):
    """A transport that notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.calls.append(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.calls.append("eof")

    def close(self) -> None:
        self.closing = True
        self.calls.append("close")

    def abort(self) -> None:
        self.closing = True
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 7


@pytest.fixture
async def behind() -> Noting:
    return Noting()


@pytest.fixture
async def buffer(behind: Noting) -> AnswerBuffer:
    return AnswerBuffer(behind, asyncio.get_running_loop())


async def test_two_writes_reach_the_kernel_as_one(behind: Noting, buffer: AnswerBuffer) -> None:
    for _ in range(2):
        buffer.write(b"head ")
        buffer.write(b"body")
    assert behind.calls == [b"head body"] * 2
    await asyncio.sleep(0)
    assert behind.calls == [b"head body"] * 2


async def test_single_write_is_sent_when_the_round_ends(behind: Noting, buffer: AnswerBuffer) -> None:
    buffer.write(b"head of a stream")
    assert behind.calls == []
    assert buffer.get_write_buffer_size() == 7 + 16
    await asyncio.sleep(0)
    assert behind.calls == [b"head of a stream"]
    assert buffer.get_write_buffer_size() == 7


@pytest.mark.parametrize(("end", "last"), [("close", "close"), ("write_eof", "eof")])
async def test_end_follows_what_was_written(behind: Noting, buffer: AnswerBuffer, end: str, last: str) -> None:
    buffer.write(b"refusal")
    getattr(buffer, end)()
    assert behind.calls == [b"refusal", last]


async def test_abort_sends_nothing_more(behind: Noting, buffer: AnswerBuffer) -> None:
    buffer.write(b"head")
    buffer.abort()
    await asyncio.sleep(0)
    assert behind.calls == ["abort"]


async def test_write_to_a_connection_that_is_lost_meanwhile_is_dropped(behind: Noting, buffer: AnswerBuffer) -> None:
    buffer.write(b"head")
    behind.closing = True
    await asyncio.sleep(0)
    assert behind.calls == []
