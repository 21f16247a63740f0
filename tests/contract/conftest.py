"""Both kernels, for the suites that run over each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
