"""Groups of records: a record is found by what it says now, and by nothing that it said before."""

from __future__ import annotations

from msgspec.structs import replace

from sandnet.core.state.index import Table
from sandnet.model import Attachment
from tests.unit.core.state.test_schema import ATTACHMENT


def test_changed_record_leaves_its_former_groups() -> None:
    table = Table(Attachment)
    first = replace(ATTACHMENT, host_link="snv1")
    table.put(first)
    assert table.group("link/snv1") == [first]
    second = replace(first, host_link="snv2")
    table.put(second)
    assert not table.group("link/snv1")
    assert table.group("link/snv2") == [second]
    assert table.group(f"container/{second.container_id}") == [second]
    third = replace(first, host_link="")
    table.put(third)
    assert not table.group("link/snv2")
    assert not table.group("link/")
    table.drop(third)
    assert not table.group(f"container/{second.container_id}")
