"""How many flows of one sandbox the host tracks: text of rules, and an element for each network.

The kernel's table of tracked connections is one for all. Only what begins a flow is counted, as the last thing before
it is let through, by the bridge that it comes from and by its source, which the guard keeps honest. Without the guard
a sandbox may use any source, so such a network is counted as a whole.

The kernel finds out what has ended by walking over all flows of a counter, at most once a tick for each (0.26 µs a
flow, ``nf_conncount``). So the flows of a sandbox are spread over several counters by a hash of where they lead. A
counter of 128 flows costs a new flow at most 33 µs; one of 16,384 would cost it 4 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sandnet.kernel.base import Sysctl
from sandnet.model import Network

PER_COUNTER: Final = 128
"""Flows that one counter counts, as long as there are not too many counters."""
MAX_COUNTERS: Final = 128
"""For each source. More would cost memory, 64 bytes each, where a sandbox has many flows."""
LIMITS: Final = "flow_limits"
"""The map from a bridge to the chain that counts for it."""
SETS: Final = """\
  set flows4 { typeof iif . ip saddr . meta length; flags dynamic; size 1048576; }
  set flows6 { typeof iif . ip6 saddr . meta length; flags dynamic; size 1048576; }
  set flows_shared { typeof iif . meta length; flags dynamic; size 1048576; }
  map flow_limits { type ifname : verdict; }
"""
_SEED: Final = "0x736e6574"
_FAMILIES: Final = (("ip", "flows4"), ("ip6", "flows6"))

SHARE: Final = 8
"""Where the host's table is small, as on a machine with little memory: no more than this part of it."""
TABLE_SIZE: Final = "net/netfilter/nf_conntrack_max"

Counted = tuple[int, bool]
"""A limit, and whether it is each sandbox's; false: the network's."""


def counted(net: Network, usual: int) -> Counted | None:
    """How a network's flows are counted; ``None``: they are not.

    Args:
        net: the network.
        usual: the limit of networks that ask for none; 0: no limit.
    """
    asked = net.options.max_flows
    limit = usual if asked is None else asked
    return (limit, net.options.anti_spoofing) if limit and net.options.firewall else None


def usual_max_flows(sysctl: Sysctl, asked: int) -> int:
    """The limit of networks that ask for none, by what the operator says and the size of the host's table."""
    size = sysctl.get(TABLE_SIZE) or ""
    return min(asked, int(size) // SHARE) if size.isdecimal() else asked


def element(net: Network, usual: int) -> tuple[str, str] | None:
    """The key of a network's element, and the verdict that it maps to; ``None``: it has none."""
    how = counted(net, usual)
    return (f'"{net.link}"', f"jump {_name(how)}") if how else None


def chains(needed: Iterable[Counted]) -> str:
    """The chains that count, one for each limit that some network has."""
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
    """One rule a family: what is not tcp or udp may have no ports, and is spread by its target alone."""
    limit, each = how
    counters = min(max(limit // PER_COUNTER, 1), MAX_COUNTERS)
    over = -(-limit // counters)
    for ip, name in _FAMILIES:
        spread = f"jhash {' . '.join((f'{ip} daddr', *also))} mod {counters} seed {_SEED}"
        key, where = (f"iif . {ip} saddr . {spread}", name) if each else (f"iif . {spread}", "flows_shared")
        yield f"    add @{where} {{ {key} ct count over {over} }} drop"
