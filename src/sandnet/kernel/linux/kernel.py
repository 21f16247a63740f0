"""The kernel of this machine: the protocols of ``base``, each by its own module, combined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sandnet.kernel.linux.dhcp.clients import LinuxDhcpClients
from sandnet.kernel.linux.host import LinuxHost
from sandnet.kernel.linux.interfaces.settings import LinuxInterfaceSettings
from sandnet.kernel.linux.links import LinuxLinks
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.linux.nftables import Nftables
from sandnet.kernel.linux.pool.pool_size import PoolLimits
from sandnet.kernel.linux.pool.preparation import Listen
from sandnet.kernel.linux.pool.sandbox_pool import LinuxSandboxPool
from sandnet.kernel.linux.processes import LinuxProcesses
from sandnet.kernel.linux.shaping.limits import LinuxTrafficLimits
from sandnet.kernel.linux.state_reader import LinuxStateReader
from sandnet.kernel.linux.supplied.links import LinuxSuppliedLinks
from sandnet.kernel.linux.sysctl import ProcSysctl
from sandnet.kernel.linux.vxlan.vxlan_links import LinuxVxlanPorts
from sandnet.kernel.linux.watcher import LinuxWatcher
from sandnet.kernel.linux.wireguard.wireguard_links import LinuxTunnels
from sandnet.kernel.netlink.conntrack import Conntrack
from sandnet.kernel.types import NO_ELEMENTS, Elements, Listing, TableStructure
from sandnet.model.address import Address

WIREGUARD_LOG: Final = "wireguard.log"


class LinuxFirewall:
    """The nftables rules, and the connections that the kernel tracks."""

    def __init__(self) -> None:
        self._nftables = Nftables()
        self._conntrack = Conntrack()

    def apply(self, script: str, elements: Elements = NO_ELEMENTS) -> None:
        """See :meth:`sandnet.kernel.base.Firewall.apply`.

        Raises:
            Error: as :meth:`sandnet.kernel.linux.nftables.Nftables.run`.
        """
        self._nftables.run(script, elements)

    def change(self, removed: Elements, added: Elements, *, absent: bool = False) -> None:
        """See :meth:`sandnet.kernel.base.Firewall.change`.

        Raises:
            Error: as :meth:`sandnet.kernel.linux.nftables.Nftables.run`.
        """
        self._nftables.change(removed, added, absent=absent)

    def listing(self, table: str) -> Listing | None:
        """See :meth:`sandnet.kernel.linux.nftables.Nftables.listing`."""
        return self._nftables.listing(table)

    def structure(self, table: str) -> TableStructure | None:
        """See :meth:`sandnet.kernel.linux.nftables.Nftables.structure`."""
        return self._nftables.structure(table)

    def members(self, table: str, name: str) -> frozenset[bytes]:
        """See :meth:`sandnet.kernel.base.Firewall.members`."""
        return self._nftables.members(table, name)

    def foreign_generation(self) -> int:
        """See :meth:`sandnet.kernel.linux.nftables.Nftables.foreign_generation`."""
        return self._nftables.foreign_generation()

    def acknowledge(self, generation: int) -> None:
        """See :meth:`sandnet.kernel.linux.nftables.Nftables.acknowledge`."""
        self._nftables.acknowledge(generation)

    def forget_flows(
        self,
        *,
        addresses: Iterable[Address] = (),
        bound: Iterable[tuple[int, int]] = (),
        live: Iterable[Address] = (),
    ) -> None:
        """See :meth:`sandnet.kernel.base.Firewall.forget_flows`."""
        self._conntrack.forget_flows(addresses=addresses, bound=bound, live=live)

    def close(self) -> None:
        """Release resources; a later call takes new ones."""
        self._nftables.close()
        self._conntrack.close()


class LinuxKernel:
    """See :class:`sandnet.kernel.base.Kernel`.

    Its parts work in the network namespace of the calling thread. Those that keep a socket work in the namespace of
    their first use: the daemon and its workers never leave their own.

    Args:
        sandbox_dir: the directory that all sandbox keys are below.
        listen: where the resolver listens in sandboxes; ``None``: there is no resolver.
        pool: how many sandboxes are prepared ahead of joins; ``None``: none.
        run_dir: the directory for the log of wireguard-go, and for the files of DHCP clients.
        userspace_wireguard: use wireguard-go where the kernel has WireGuard, too.
    """

    def __init__(
        self,
        sandbox_dir: str,
        listen: Listen | None = None,
        pool: PoolLimits | None = None,
        *,
        run_dir: str = "/run",
        userspace_wireguard: bool = False,
    ) -> None:
        self._links = LinuxLinks()
        self._limits = LinuxTrafficLimits()
        self._interface_settings = LinuxInterfaceSettings()
        self._supplied_links = LinuxSuppliedLinks()
        self._vxlan = LinuxVxlanPorts()
        self._namespaces = LinuxNamespaces(sandbox_dir)
        self._firewall = LinuxFirewall()
        self._sysctl = ProcSysctl()
        self._host = LinuxHost()
        log = f"{run_dir}/{WIREGUARD_LOG}"
        self._tunnels = LinuxTunnels(log, self._host.missing_features, userspace_only=userspace_wireguard)
        self._state_reader = LinuxStateReader(self._namespaces, sandbox_dir)
        self._dhcp_clients = LinuxDhcpClients(run_dir)
        self._processes = LinuxProcesses(self._dhcp_clients.pids)
        self._watcher = LinuxWatcher(self._firewall)
        self._pool = LinuxSandboxPool(listen, pool)

    @property
    def links(self) -> LinuxLinks:
        """Bridges and veth pairs."""
        return self._links

    @property
    def limits(self) -> LinuxTrafficLimits:
        """Limits of traffic."""
        return self._limits

    @property
    def interface_settings(self) -> LinuxInterfaceSettings:
        """Routes and parameters of interfaces."""
        return self._interface_settings

    @property
    def supplied_links(self) -> LinuxSuppliedLinks:
        """Links of other programs that move into namespaces."""
        return self._supplied_links

    @property
    def dhcp_clients(self) -> LinuxDhcpClients:
        """Clients of DHCP in sandboxes."""
        return self._dhcp_clients

    @property
    def vxlan(self) -> LinuxVxlanPorts:
        """VXLAN links, and the entries that lead to other hosts."""
        return self._vxlan

    @property
    def tunnels(self) -> LinuxTunnels:
        """WireGuard links."""
        return self._tunnels

    @property
    def namespaces(self) -> LinuxNamespaces:
        """Network namespaces pinned below the sandbox directory."""
        return self._namespaces

    @property
    def firewall(self) -> LinuxFirewall:
        """The nftables rules and the tracked connections."""
        return self._firewall

    @property
    def sysctl(self) -> ProcSysctl:
        """Kernel parameters."""
        return self._sysctl

    @property
    def host(self) -> LinuxHost:
        """Facts about the host, and its ports."""
        return self._host

    @property
    def state_reader(self) -> LinuxStateReader:
        """Bulk reads of the kernel's state."""
        return self._state_reader

    @property
    def processes(self) -> LinuxProcesses:
        """The machine's processes."""
        return self._processes

    @property
    def watcher(self) -> LinuxWatcher:
        """Notifications of changes."""
        return self._watcher

    @property
    def pool(self) -> LinuxSandboxPool:
        """Prepared sandboxes."""
        return self._pool

    def close(self) -> None:
        """Close sockets and release memory; of the kernel's state, only unused prepared sandboxes are deleted."""
        self._pool.close()
        self._watcher.close()
        self._vxlan.close()
        self._firewall.close()
        self._host.close()
