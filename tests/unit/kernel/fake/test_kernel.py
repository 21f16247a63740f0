"""What the in-memory kernel offers to tests beyond the contract."""

from __future__ import annotations

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.base import Kernel
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.types import Bridge, Veth

ROOT = "/var/run/docker/netns"


def veth(number: int, interface: str) -> Veth:
    return Veth(f"snv{number}", "snb0", interface, "02:42:00:00:00:01", 0, None, None, isolated=True, hairpin=True)


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.links.ensure_bridge(Bridge("snb0", 0, ()))
    return made


def test_injected_failure_fires_once_and_has_no_effect(kernel: FakeKernel) -> None:
    kernel.fail_on("namespaces.make", Error(Kind.UNAVAILABLE, "no more namespaces"), after=1)
    kernel.namespaces.make(f"{ROOT}/a")
    with pytest.raises(Error, match="no more namespaces"):
        kernel.namespaces.make(f"{ROOT}/b")
    assert kernel.namespaces.keys() == [f"{ROOT}/a"]
    kernel.namespaces.make(f"{ROOT}/b")
    assert kernel.namespaces.keys() == [f"{ROOT}/a", f"{ROOT}/b"]


def test_calls_are_recorded_in_order(kernel: FakeKernel) -> None:
    as_others_see_it: Kernel = kernel
    as_others_see_it.firewall.apply("add table inet t")
    as_others_see_it.sysctl.get("net/ipv4/ip_forward")
    assert kernel.calls == ["links.ensure_bridge", "firewall.apply", "sysctl.get"]
    assert kernel.firewall.applied == ["add table inet t"]


def test_full_bridge_is_network_full_until_ports_are_retired(kernel: FakeKernel) -> None:
    kernel.namespaces.make(f"{ROOT}/a")
    for number in range(1023):
        kernel.links.plug(f"{ROOT}/a", veth(number, f"eth{number}"))
    with pytest.raises(Error) as refusal:
        kernel.links.plug(f"{ROOT}/a", veth(2000, "eth2000"))
    assert (refusal.value.kind, refusal.value.code) == (Kind.EXHAUSTED, "network_full")
    kernel.links.retire(["snv7"])
    kernel.links.plug(f"{ROOT}/a", veth(2000, "eth2000"))


def test_released_namespace_loses_its_veth_pairs(kernel: FakeKernel) -> None:
    kernel.namespaces.make(f"{ROOT}/a")
    kernel.links.plug(f"{ROOT}/a", veth(1, "eth0"))
    assert kernel.links.options["snv1"].isolated
    kernel.namespaces.release(f"{ROOT}/a")
    assert kernel.links.find("snv1") is None
    assert [link.name for link in kernel.links.list() if link.master] == []


def test_released_foreign_namespace_keeps_its_links(kernel: FakeKernel) -> None:
    space = kernel.namespaces.add_foreign(4242)
    kernel.namespaces.pin(f"{ROOT}/a", pid=4242)
    kernel.links.plug(f"{ROOT}/a", veth(1, "eth0"))
    kernel.namespaces.release(f"{ROOT}/a", loopback_down=True)
    assert list(space.links) == ["eth0"]
    assert not space.loopback_up
