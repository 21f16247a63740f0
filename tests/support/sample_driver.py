"""The sample driver of docs/add-a-driver.md."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

from sandnet.drivers.base import Driver
from sandnet.drivers.host_network import HostNetwork
from sandnet.kernel.base import Kernel
from sandnet.kernel.workers import Workers

PATH = Path(__file__).parents[2] / "docs" / "examples" / "segment.py"


def sample_driver(kernel: Kernel, workers: Workers, host_network: HostNetwork, pools: Sequence[IPv4Network]) -> Driver:
    """The driver of networks that are closed segments."""
    spec = importlib.util.spec_from_file_location("segment", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Driver, module.SegmentDriver(kernel, workers, host_network, pools))
