"""An in-memory kernel that passes the same contract suite as the real one.

It keeps what callers can see and nothing below: no packets, no rules. Tests inspect the public attributes of its parts,
read the recorded calls in ``calls``, and make one call fail with :meth:`FakeKernel.fail_on`. Like the real one it may
be used from several threads.
"""

from __future__ import annotations

from sandnet.kernel.fake.common import FakeNamespace, FaultInjector
from sandnet.kernel.fake.dhcp_clients import FakeDhcpClients
from sandnet.kernel.fake.host import FakeFirewall, FakeHost, FakeSysctl
from sandnet.kernel.fake.interface_settings import FakeInterfaceSettings
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.fake.namespaces import HOST_NAMESPACE, FakeNamespaces
from sandnet.kernel.fake.processes import FakeProcesses
from sandnet.kernel.fake.sandbox_pool import FakeSandboxPool
from sandnet.kernel.fake.state_reader import FakeStateReader, FakeWatcher
from sandnet.kernel.fake.supplied_links import FakeSuppliedLinks
from sandnet.kernel.fake.traffic_limits import FakeTrafficLimits
from sandnet.kernel.fake.tunnels import FakeTunnels
from sandnet.kernel.fake.vxlan_ports import FakeVxlanPorts


class FakeKernel:
    """See :class:`sandnet.kernel.base.Kernel`.

    Args:
        sandbox_dir: the directory that all sandbox keys are below; nothing is made there.
    """

    def __init__(self, sandbox_dir: str = "/var/run/docker/netns") -> None:
        spaces: dict[int, FakeNamespace] = {HOST_NAMESPACE: FakeNamespace(loopback_up=True)}
        pins: dict[str, int] = {}
        self._faults = FaultInjector()
        self._links = FakeLinks(self._faults, spaces, pins)
        self._namespaces = FakeNamespaces(self._faults, self._links, spaces, pins, sandbox_dir)
        self._limits = FakeTrafficLimits(self._faults, self._links)
        self._interface_settings = FakeInterfaceSettings(self._faults, spaces, pins)
        self._supplied_links = FakeSuppliedLinks(self._faults, self._links, spaces, pins)
        self._dhcp_clients = FakeDhcpClients(self._faults)
        self._vxlan = FakeVxlanPorts(self._faults, self._links)
        self._tunnels = FakeTunnels(self._faults, self._links)
        self._firewall = FakeFirewall(self._faults)
        self._sysctl = FakeSysctl(self._faults, self._links)
        self._state_reader = FakeStateReader(self._faults, self._links, self._namespaces)
        self._watcher = FakeWatcher()
        self._host = FakeHost(self._faults, self._links, self._sysctl)
        self._processes = FakeProcesses(self._faults)
        self._pool = FakeSandboxPool(self._faults, self._links, self._namespaces, spaces)

    @property
    def links(self) -> FakeLinks:
        """Bridges and veth pairs."""
        return self._links

    @property
    def limits(self) -> FakeTrafficLimits:
        """Limits of traffic."""
        return self._limits

    @property
    def interface_settings(self) -> FakeInterfaceSettings:
        """Routes and parameters of interfaces."""
        return self._interface_settings

    @property
    def supplied_links(self) -> FakeSuppliedLinks:
        """Links of other programs that move into namespaces."""
        return self._supplied_links

    @property
    def dhcp_clients(self) -> FakeDhcpClients:
        """Clients of DHCP: tests are their servers."""
        return self._dhcp_clients

    @property
    def vxlan(self) -> FakeVxlanPorts:
        """VXLAN links, and the entries that lead to other hosts."""
        return self._vxlan

    @property
    def tunnels(self) -> FakeTunnels:
        """WireGuard links."""
        return self._tunnels

    @property
    def namespaces(self) -> FakeNamespaces:
        """Network namespaces."""
        return self._namespaces

    @property
    def firewall(self) -> FakeFirewall:
        """The firewall: it records the scripts."""
        return self._firewall

    @property
    def sysctl(self) -> FakeSysctl:
        """Kernel parameters."""
        return self._sysctl

    @property
    def host(self) -> FakeHost:
        """Facts about the host, and its ports."""
        return self._host

    @property
    def state_reader(self) -> FakeStateReader:
        """Bulk reads of its state."""
        return self._state_reader

    @property
    def processes(self) -> FakeProcesses:
        """Processes, as far as tests start any."""
        return self._processes

    @property
    def watcher(self) -> FakeWatcher:
        """Notifications: none."""
        return self._watcher

    @property
    def pool(self) -> FakeSandboxPool:
        """Prepared sandboxes."""
        return self._pool

    @property
    def calls(self) -> list[str]:
        """The methods called so far, as ``links.plug``."""
        return self._faults.calls

    def fail_on(self, method: str, error: BaseException, *, after: int = 0) -> None:
        """Make one call of a method raise instead of doing anything.

        Args:
            method: as in :attr:`calls`, ``links.plug`` or ``firewall.apply``.
            error: the error it raises.
            after: how many calls of it succeed before.
        """
        self._faults.pending[method] = (after, error)
