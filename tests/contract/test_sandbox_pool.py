"""What every pool of prepared sandboxes promises: the same suite for the in-memory one and for Linux."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandnet.kernel.types import PREPARED, PreparedSandbox
from sandnet.model.link_names import OUR_LINKS
from tests.support.kernel_cases import KernelCase
from tests.support.network_host import eventually


@pytest.fixture
def case(kernel_case: KernelCase) -> KernelCase:
    return kernel_case


@pytest.fixture
def prepared(case: KernelCase) -> Iterator[PreparedSandbox]:
    made = case.kernel.pool.prepare()
    yield made
    case.kernel.pool.discard(made)


def test_prepared_link_is_down_on_no_bridge_and_in_its_group(case: KernelCase, prepared: PreparedSandbox) -> None:
    link = case.kernel.links.find(prepared.host_link)
    assert link
    assert (link.kind, link.up, link.master, link.alias, link.group) == ("veth", False, 0, "", PREPARED)
    assert link.ifindex == prepared.host_index
    assert OUR_LINKS["veth"].fullmatch(prepared.host_link)


def test_prepared_sandboxes_are_distinct(case: KernelCase) -> None:
    made = [case.kernel.pool.prepare() for _ in range(3)]
    assert len({each.inode for each in made}) == len({each.host_link for each in made}) == 3
    assert {each.interface for each in made} == {"eth0"}
    for each in made:
        case.kernel.pool.discard(each)


def test_discarded_sandbox_leaves_no_link(case: KernelCase) -> None:
    before = {link.name for link in case.kernel.links.list()}
    made = case.kernel.pool.prepare()
    case.kernel.pool.discard(made)
    eventually(lambda: {link.name for link in case.kernel.links.list()} == before)


def test_pool_without_sandboxes_counts_a_miss(case: KernelCase) -> None:
    assert case.kernel.pool.take() is None
    status = case.kernel.pool.status()
    assert (status.ready, status.handed_out, status.misses) == (0, 0, 1)


def test_inline_preparations_are_counted(case: KernelCase, prepared: PreparedSandbox) -> None:
    assert prepared.inode
    assert case.kernel.pool.status().prepared_inline == 1
