"""What the suites run over: both kernels, and an etcd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from sandnet.stores.etcd.location import EtcdLocation
from tests.support import etcd
from tests.support.kernel_cases import FakeKernelCase, KernelCase, LinuxKernelCase
from tests.support.network_host import Host, unavailable


@pytest.fixture(params=["fake", "linux"])
def kernel_case(request: pytest.FixtureRequest) -> Iterator[KernelCase]:
    if request.param == "fake":
        yield FakeKernelCase()
        return
    if reason := unavailable():
        pytest.skip(reason)
    with Host() as host:
        linux = LinuxKernelCase(host)
        yield linux
        linux.close()


@pytest.fixture(scope="session")
def _etcd() -> Iterator[Callable[[], etcd.EtcdCluster]]:
    started: list[etcd.EtcdCluster] = []

    def cluster() -> etcd.EtcdCluster:
        if not started:
            if reason := etcd.missing():
                pytest.skip(reason)
            started.append(etcd.EtcdCluster())
            started[0].start()
        return started[0]

    yield cluster
    for each in started:
        each.close()


_prefixes = count()


@pytest.fixture
def etcd_location(_etcd: Callable[[], etcd.EtcdCluster]) -> Callable[[], EtcdLocation]:
    """A function that returns the location of an empty store on etcd, which is started when it is first needed."""
    return lambda: _etcd().location(f"test-{next(_prefixes)}")
