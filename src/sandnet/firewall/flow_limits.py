"""Limits of the flows that the host tracks for one sandbox: rules, and an element for each network.

All sandboxes share the kernel's table of tracked connections. Only the first packet of a flow is counted, as the last
step before it is accepted, by its bridge and by its source. Anti-spoofing makes the source trustworthy. Without it a
sandbox may use any source, so such a network is counted as a whole.

The kernel finds ended flows by walking over all flows of a counter, at most once per tick and counter (0.26 µs a flow,
``nf_conncount``). So the flows of a sandbox are spread over several counters by a hash of their destination. A counter
of 128 flows costs a new flow at most 33 µs; one of 16,384 would cost it 4 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sandnet.kernel.base import Sysctl
from sandnet.model import Network

PER_COUNTER: Final = 128
"""Flows per counter, unless that would take too many counters."""
MAX_COUNTERS: Final = 128
"""Limit of counters for each source. More would cost memory, 64 bytes each, where a sandbox has many flows."""
LIMITS: Final = "flow_limits"
"""The map from a bridge to the chain that counts its flows."""
SETS: Final = """\
  set flows4 { typeof iif . ip saddr . meta length; flags dynamic; size 1048576; }
  set flows6 { typeof iif . ip6 saddr . meta length; flags dynamic; size 1048576; }
  set flows_shared { typeof iif . meta length; flags dynamic; size 1048576; }
  map flow_limits { type ifname : verdict; }
"""
_SEED: Final = "0x736e6574"
_FAMILIES: Final = (("ip", "flows4"), ("ip6", "flows6"))

SHARE: Final = 8
"""Divisor of the host's table size: one sandbox may use at most this part of a small table (little memory)."""
TABLE_SIZE: Final = "net/netfilter/nf_conntrack_max"

Counted = tuple[int, bool]
"""A limit, and whether it is per sandbox; false: for the whole network."""


def counted(net: Network, usual: int) -> Counted | None:
    """Return how a network's flows are counted; ``None``: not at all.

    Args:
        net: the network.
        usual: the limit of networks that set none; 0: no limit.
    """
    own = net.options.max_flows
    limit = usual if own is None else own
    return (limit, net.options.anti_spoofing) if limit and net.options.firewall else None


def usual_max_flows(sysctl: Sysctl, requested: int) -> int:
    """Return the limit of networks that set none: the operator's value, capped by the size of the host's table."""
    size = sysctl.get(TABLE_SIZE) or ""
    return min(requested, int(size) // SHARE) if size.isdecimal() else requested


def verdict(net: Network, usual: int) -> str:
    """Return the verdict that has a network's flows counted; empty: they are not counted."""
    how = counted(net, usual)
    return f"jump {_name(how)}" if how else ""


def chains(needed: Iterable[Counted]) -> str:
    """Return the chains that count flows, one for each limit that a network has."""
    lines: list[str] = []
    for how in sorted(set(needed)):
        by_ports, by_target = (("th sport . th dport",), ())
        lines += [f"  chain {_name(how)}_ports {{", *_rules(how, by_ports), "  }"]
        lines += [f"  chain {_name(how)} {{", f"    meta l4proto {{ tcp, udp }} goto {_name(how)}_ports"]
        lines += [*_rules(how, by_target), "  }"]
    return "".join(f"{line}\n" for line in lines)


def _name(how: Counted) -> str:
    limit, each = how
    return f"flows_{limit}" if each else f"flows_{limit}_shared"


def _rules(how: Counted, also: tuple[str, ...]) -> Iterator[str]:
    """Yield one rule per family. Protocols but tcp and udp may have no ports, and are spread by destination alone."""
    limit, each = how
    counters = min(max(limit // PER_COUNTER, 1), MAX_COUNTERS)
    over = -(-limit // counters)
    for ip, name in _FAMILIES:
        spread = f"jhash {' . '.join((f'{ip} daddr', *also))} mod {counters} seed {_SEED}"
        key, where = (f"iif . {ip} saddr . {spread}", name) if each else (f"iif . {spread}", "flows_shared")
        yield f"    add @{where} {{ {key} ct count over {over} }} drop"
