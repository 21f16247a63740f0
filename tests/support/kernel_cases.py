"""The two kernels under one contract, and the same few acts of strangers in each."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Protocol, cast

from sandnet.kernel.base import Kernel
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.linux.kernel import LinuxKernel
from tests.support.network_host import Host

SANDBOXES = "/run/sandboxes"


class KernelCase(Protocol):
    """A kernel, and what others do on its host."""

    kernel: Kernel

    def add_link(self, name: str, address: str = "") -> None:
        """Make a veth device, up, with an address."""
        ...

    def add_route(self, prefix: str, link: str) -> None:
        """Route a prefix through a link."""
        ...

    def foreign_namespace(self) -> str:
        """Make a namespace; its path."""
        ...

    def begin_process(self, namespace: str = "") -> int:
        """Start a process, on the host or in the namespace at a path; its number."""
        ...

    def end_process(self, pid: int) -> None:
        """Kill it; no one reaps it."""
        ...

    def take_port(self, address: str) -> int:
        """Listen on a TCP port."""
        ...

    def obstruct(self, key: str) -> None:
        """Put a plain file where a namespace is to be pinned."""
        ...

    def inner_addresses(self, key: str, interface: str) -> set[str]:
        """The addresses on a link of a sandbox, link-local ones left out."""
        ...

    def neighbours(self, key: str, interface: str) -> dict[str, str]:
        """The neighbours' entries of a link of a sandbox that were given to it, with their MACs."""
        ...

    def gateways(self, key: str) -> set[str]:
        """Where a sandbox's default routes go."""
        ...


class FakeKernelCase:
    """The in-memory kernel."""

    def __init__(self) -> None:
        self.fake = FakeKernel(SANDBOXES)
        self.kernel: Kernel = self.fake
        self._pids = itertools.count(4000)

    def add_link(self, name: str, address: str = "") -> None:
        self.fake.links.add(name, "veth", *([ip_interface(address)] if address else []))

    def add_route(self, prefix: str, link: str) -> None:
        self.fake.host.routes.append((link, ip_network(prefix)))

    def foreign_namespace(self) -> str:
        self.fake.namespaces.add_foreign("/proc/1234/ns/net")
        return "/proc/1234/ns/net"

    def begin_process(self, namespace: str = "") -> int:
        pid = next(self._pids)
        self.fake.processes.begin(pid, inode=self.kernel.namespaces.identify(path=namespace).inode)
        return pid

    def end_process(self, pid: int) -> None:
        self.fake.processes.end(pid)

    def take_port(self, address: str) -> int:
        self.fake.host.foreign.add((6, ip_address(address), 8080))
        return 8080

    def obstruct(self, key: str) -> None:
        self.fake.namespaces.obstacles.add(key)

    def inner_addresses(self, key: str, interface: str) -> set[str]:
        space = self.fake.namespaces.inside(key)
        found = space.loopback if interface == "lo" else space.links[interface].addresses
        return {str(address) for address in found}

    def neighbours(self, key: str, interface: str) -> dict[str, str]:
        inner = self.fake.namespaces.inside(key).links[interface]
        return {str(address): mac for address, mac in inner.neighbours.items()}

    def gateways(self, key: str) -> set[str]:
        return {str(route.gateway) for route in self.fake.namespaces.inside(key).default_routes.values()}


class LinuxKernelCase:
    """The real kernel, on a host of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._real = LinuxKernel(SANDBOXES)
        self._sockets: list[socket.socket] = []
        self.kernel = cast(Kernel, _OnHost(host, self._real))

    def add_link(self, name: str, address: str = "") -> None:
        self.host.sh("ip", "link", "add", name, "type", "veth", "peer", f"{name}p")
        self.host.sh("ip", "link", "set", name, "up")
        if address:
            self.host.sh("ip", "address", "add", address, "dev", name)

    def add_route(self, prefix: str, link: str) -> None:
        self.host.sh("ip", "route", "add", prefix, "dev", link)

    def foreign_namespace(self) -> str:
        return self.host.container().path

    def begin_process(self, namespace: str = "") -> int:
        start = self.host.start_here
        process = self.host.inside(namespace, start, "sleep", "60") if namespace else self.host.popen("sleep", "60")
        return process.pid

    def end_process(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def take_port(self, address: str) -> int:
        taken = self.host.run(socket.create_server, (address, 0))
        self._sockets.append(taken)
        return int(taken.getsockname()[1])

    def obstruct(self, key: str) -> None:
        self.host.sh("mkdir", "-p", SANDBOXES)
        self.host.sh("sh", "-c", f"echo something > {key}")

    def inner_addresses(self, key: str, interface: str) -> set[str]:
        lines = self.host.sh("ip", "-o", "address", "show", "dev", interface, "scope", "global", namespace=key)
        return {line.split()[3] for line in lines.splitlines()}

    def neighbours(self, key: str, interface: str) -> dict[str, str]:
        entries = json.loads(self.host.sh("ip", "-j", "neigh", "show", "dev", interface, namespace=key) or "[]")
        return {each["dst"]: each["lladdr"] for each in entries if "extern_learn" in each and "lladdr" in each}

    def gateways(self, key: str) -> set[str]:
        shown = "".join(
            self.host.sh("ip", family, "route", "show", "default", namespace=key) for family in ("-4", "-6")
        )
        return {line.split()[2] for line in shown.splitlines()}

    def close(self) -> None:
        for taken in self._sockets:
            taken.close()
        self._real.close()


class _OnHost:
    """Calls every method of an object, and of its parts, on the host's thread."""

    def __init__(self, host: Host, target: object) -> None:
        self._host = host
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return partial(self._host.run, value) if callable(value) else _OnHost(self._host, value)
