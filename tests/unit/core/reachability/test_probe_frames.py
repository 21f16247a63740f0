"""Probes as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandnet.core.reachability.probe_frames import (
    ANSWER,
    NONCE,
    QUESTION,
    SMALLEST,
    Probe,
    decode,
    digest,
    encode,
    size_of,
)
from sandnet.kernel.vxlan.base import PROBE_VNI

VXLAN = 8
IP_AND_UDP = {4: 28, 6: 48}
PROBE = Probe(QUESTION, digest("h1"), bytes(range(NONCE)), 1_790_000_000_123_456_789)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1400, 9000])
def test_probe_is_read_as_it_was_written(version: int, size: int) -> None:
    size = size or SMALLEST[version]
    content = encode(PROBE, size, version)
    assert len(content) + IP_AND_UDP[version] == size
    assert content[4:7] == PROBE_VNI.to_bytes(3, "big")
    assert decode(content[VXLAN:]) == PROBE
    assert size_of(content[VXLAN:], version) == size


def test_answer_is_as_large_as_its_question() -> None:
    question = encode(PROBE, 777, 4)
    answer = encode(PROBE._replace(kind=ANSWER), size_of(question[VXLAN:], 4), 4)
    assert len(answer) == len(question)


@given(st.binary(max_size=200))
def test_other_frames_are_no_probes(frame: bytes) -> None:
    assert decode(frame) is None


@pytest.mark.parametrize("damage", [slice(0, 30), slice(12, None)], ids=["cut", "without addresses"])
def test_damaged_probe_is_none(damage: slice) -> None:
    assert decode(encode(PROBE, SMALLEST[4], 4)[VXLAN:][damage]) is None
