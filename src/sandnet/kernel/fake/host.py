"""The firewall, the parameters and the host of the in-memory kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.base import RULES_MISSING
from sandnet.kernel.fake.common import FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.types import NO_ELEMENTS, BridgeRoute, Elements, Listing, RouteSource, TableStructure, Value
from sandnet.kernel.validation import MAX_PORT, check_name, check_port, conflicts, not_local, taken
from sandnet.model.address import Address, Prefix

_PARAMETERS: Final = {
    "kernel/random/boot_id": "b0070000-0000-4000-8000-000000000001",
    "net/ipv4/ip_forward": "0",
    "net/ipv4/ip_local_port_range": "32768\t60999",
    "net/ipv6/conf/all/forwarding": "0",
}
_PER_LINK: Final = {
    "net/ipv4/conf": {
        "route_localnet": "0",
        "forwarding": "1",
        "rp_filter": "0",
        "arp_ignore": "0",
        "arp_announce": "0",
    },
    "net/ipv6/conf": {"accept_ra": "1", "accept_dad": "1", "disable_ipv6": "0", "forwarding": "0"},
}
_GROUPS: Final = ("all", "default")


class FakeFirewall:
    """See :class:`sandnet.kernel.base.Firewall`."""

    area = "firewall"

    def __init__(self, faults: FaultInjector) -> None:
        self.faults = faults
        self.applied: list[str] = []
        """Every script, in order."""
        self.tables: dict[str, dict[str, dict[bytes, Value]]] = {}
        """By table, by set or map: the values by key."""
        self.foreign = 0
        """Transactions of other programs that have not been checked."""
        self.forgotten_addresses: list[Address] = []
        self.forgotten_ports: list[tuple[int, int]] = []

    @recorded
    def apply(self, script: str, elements: Elements = NO_ELEMENTS) -> None:
        """Record the script and apply its tables and elements."""
        if "\0" in script:
            raise Error(Kind.INTERNAL, "nftables: the script holds a NUL character")
        before = self._copy()
        try:
            for line in script.splitlines():
                self._execute(line.split())
            for which, found in elements.items():
                self.tables[which.table].setdefault(which.name, {}).update(found)
        except KeyError as missing:
            self.tables = before
            raise Error(Kind.UNAVAILABLE, f"nftables: no table {missing}", code=RULES_MISSING) from missing
        self.applied.append(script)

    @recorded
    def change(self, removed: Elements, added: Elements, *, absent: bool = False) -> None:
        """Change the elements; all of it or nothing."""
        before = self._copy()
        try:
            for which, found in removed.items():
                present = self.tables[which.table].setdefault(which.name, {})
                for key in found:
                    if absent:
                        present.pop(key, None)
                    else:
                        del present[key]
            for which, found in added.items():
                self.tables[which.table].setdefault(which.name, {}).update(found)
        except KeyError as missing:
            self.tables = before
            raise Error(Kind.UNAVAILABLE, "nftables: No such file or directory", code=RULES_MISSING) from missing

    @recorded
    def forget_flows(
        self,
        *,
        addresses: Iterable[Address] = (),
        bound: Iterable[tuple[int, int]] = (),
        live: Iterable[Address] = (),
    ) -> None:
        """Record the addresses and ports."""
        self.forgotten_addresses.extend(addresses)
        self.forgotten_ports.extend(bound)

    @recorded
    def listing(self, table: str) -> Listing | None:
        """Return its elements; there are no rules to compare."""
        if table not in self.tables:
            return None
        return Listing(TableStructure(), {name: dict(found) for name, found in self.tables[table].items()})

    @recorded
    def structure(self, table: str) -> TableStructure | None:
        """Return that of :meth:`listing`."""
        return TableStructure() if table in self.tables else None

    @recorded
    def members(self, table: str, name: str) -> frozenset[bytes]:
        """Return the keys that were added."""
        return frozenset(self.tables.get(table, {}).get(name, ()))

    @recorded
    def foreign_generation(self) -> int:
        """Return the number that a test set."""
        return self.foreign

    @recorded
    def acknowledge(self, generation: int) -> None:
        """Reset the number."""
        self.foreign = 0

    def _execute(self, words: list[str]) -> None:
        """Execute a statement that adds, deletes or empties tables or sets; ignore rules and declarations."""
        match words:
            case ["add", "table", *name] | ["table", *name, "{"]:
                self.tables.setdefault(" ".join(name), {})
            case ["delete", "table", *name]:
                self.tables.pop(" ".join(name), None)
            case ["flush", "set" | "map", family, table, name]:
                self.tables[f"{family} {table}"].pop(name, None)

    def _copy(self) -> dict[str, dict[str, dict[bytes, Value]]]:
        return {table: {name: {**found} for name, found in sets.items()} for table, sets in self.tables.items()}


class FakeSysctl:
    """See :class:`sandnet.kernel.base.Sysctl`. Parameters of a link exist as long as the link."""

    area = "sysctl"

    def __init__(self, faults: FaultInjector, links: FakeLinks) -> None:
        self.faults = faults
        self.values: dict[str, str] = dict(_PARAMETERS)
        """Values that have been set, and parameters that do not belong to a link."""
        self.read_only: set[str] = set()
        self._links = links

    @recorded
    def get(self, name: str) -> str | None:
        """Return the value, or ``None``."""
        check_name(name)
        return self._get(name)

    @recorded
    def is_writable(self, name: str) -> bool:
        """Return whether the parameter is none of those that a test made read-only."""
        return name not in self.read_only

    @recorded
    def set(self, name: str, value: str) -> None:
        """Change a parameter that exists."""
        check_name(name)
        if self._get(name) is None:
            raise Error(Kind.UNAVAILABLE, f"cannot set sysctl {name} to {value!r}: No such file or directory")
        self.values[name] = value

    def _get(self, name: str) -> str | None:
        folder, _, rest = name.partition("/conf/")
        link, _, parameter = rest.rpartition("/")
        own = _PER_LINK.get(f"{folder}/conf", {})
        if parameter not in own:
            return self.values.get(name)
        if link not in (*self._links.present, *_GROUPS):
            self.values.pop(name, None)
            return None
        return self.values.get(name, own[parameter])


class FakeHeld:
    """See :class:`sandnet.kernel.base.HeldPort`."""

    def __init__(self, host: FakeHost, claim: tuple[int, Address, int]) -> None:
        self._host = host
        self._claim = claim

    @property
    def port(self) -> int:
        """The host port."""
        return self._claim[2]

    def close(self) -> None:
        """Release the port."""
        self._host.held.discard(self._claim)


class FakeHost:
    """See :class:`sandnet.kernel.base.Host`."""

    area = "host"

    def __init__(self, faults: FaultInjector, links: FakeLinks, sysctl: FakeSysctl) -> None:
        self.faults = faults
        self.held: set[tuple[int, Address, int]] = set()
        """Our ports: protocol, address and port."""
        self.foreign: set[tuple[int, Address, int]] = set()
        """Ports bound by other programs."""
        self.routes: list[tuple[str, Prefix]] = []
        """Link and prefix; the addresses of links are added to these."""
        self.local_prefixes: set[Prefix] = set()
        self.nameservers: list[Prefix] = []
        self.preferred: list[RouteSource] = []
        """The result of :meth:`route_sources`."""
        self.absent: dict[str, str] = {}
        """The result of :meth:`missing_features`."""
        self.reserved: set[int] = set()
        """The result of :meth:`reserved_ports`."""
        self._links = links
        self._sysctl = sysctl

    @recorded
    def occupied(self, ignore: Collection[str] = ()) -> Sequence[Prefix]:
        """List routes, addresses and nameservers."""
        connected = [(link, address.network) for link, held in self._links.held.items() for address in held]
        return [*(prefix for link, prefix in (*self.routes, *connected) if link not in ignore), *self.nameservers]

    @recorded
    def local_port_range(self) -> tuple[int, int]:
        """Return both ends, included."""
        low, high = self._sysctl.values["net/ipv4/ip_local_port_range"].split()
        return int(low), int(high)

    @recorded
    def reserved_ports(self) -> Collection[int]:
        """Return the ports that a test reserved."""
        return frozenset(self.reserved)

    @recorded
    def is_preferred(self, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
        """Return true: no other program has rules."""
        return True

    @recorded
    def prefer(self, routes: Sequence[BridgeRoute]) -> None:
        """Do nothing."""

    @recorded
    def is_local_prefix(self, prefix: Prefix) -> bool:
        """Return whether the prefix was added."""
        return prefix in self.local_prefixes

    @recorded
    def add_local_prefix(self, prefix: Prefix) -> None:
        """Add the prefix."""
        self.local_prefixes.add(prefix)

    @recorded
    def remove_local_prefix(self, prefix: Prefix) -> None:
        """Remove the prefix."""
        self.local_prefixes.discard(prefix)

    @recorded
    def route_sources(self) -> Sequence[RouteSource]:
        """Return the sources that a test set."""
        return tuple(self.preferred)

    @recorded
    def hold(self, proto: int, address: Address, port: int) -> FakeHeld:
        """Bind the port, unless it is taken."""
        check_port(proto, port)
        if not self._is_local(address):
            raise not_local(address)
        claim = (proto, address, port or self._choose(proto, address))
        if any(conflicts(claim, other) for other in self.held):
            raise taken(claim, "by another endpoint")
        if any(conflicts(claim, other) for other in self.foreign):
            raise taken(claim, "by another program")
        self.held.add(claim)
        return FakeHeld(self, claim)

    @recorded
    def missing_features(self) -> dict[str, str]:
        """Return the features that a test removed."""
        return dict(self.absent)

    def _is_local(self, address: Address) -> bool:
        own = (held.ip for addresses in self._links.held.values() for held in addresses)
        return address.is_unspecified or address.is_loopback or address in own

    def _choose(self, proto: int, address: Address) -> int:
        low, high = self.local_port_range()
        for port in range(low, min(high, MAX_PORT) + 1):
            if not any(conflicts((proto, address, port), other) for other in self.held | self.foreign):
                return port
        raise taken((proto, address, 0), "by other programs: the whole range is in use")
