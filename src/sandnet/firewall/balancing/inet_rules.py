"""Load balancing in the inet table: rules and maps for packets that pass through the host."""

from __future__ import annotations

from typing import Final

from sandnet.firewall.balancing.flow_learning import hashed
from sandnet.firewall.balancing.service_elements import SLOTS
from sandnet.model import Affinity

_FAMILIES: Final = (("ip", 4), ("ip6", 6))
_PORT: Final = "meta l4proto . th dport . meta length"


def inet_maps() -> str:
    """Return the maps of the inet table to addresses, one for each kind of destination and each affinity."""
    lines = []
    for affinity in Affinity:
        for ip, version in _FAMILIES:
            lines += [
                f"  map span{version}_{affinity} {{ typeof {_PORT} : {ip} daddr; flags interval; }}",
                f"  map one_span{version}_{affinity} {{ typeof {ip} daddr . {_PORT} : {ip} daddr; flags interval; }}",
                f"  map own{version}_{affinity} {{ typeof {ip} daddr . meta length : {ip} daddr; }}",
            ]
    return "\n".join(lines) + "\n"


def inet_port_maps() -> str:
    """Return the maps of the inet table to addresses with ports.

    With a port of TCP as the target, libnftables would make their rules match TCP only. But libnftables 1.0.6 cannot
    read ``ip daddr . th dport`` back from the kernel ("conflicting protocols"), so these maps are made again each time.
    """
    lines = []
    for affinity in Affinity:
        for ip, version in _FAMILIES:
            target = f"{ip} daddr . th dport"
            lines += [
                f"  map any{version}_{affinity} {{ typeof {_PORT} : {target}; }}",
                f"  map one{version}_{affinity} {{ typeof {ip} daddr . {_PORT} : {target}; }}",
            ]
    return "\n".join(lines) + "\n"


def _slots(ip: str, affinity: Affinity) -> str:
    source = f"{ip} saddr" if affinity is Affinity.CLIENT else f"{ip} saddr . th sport"
    return hashed(source, SLOTS)


def inet_published() -> str:
    """Return the rules that translate packets to a published port of the host."""
    lines = []
    for affinity in Affinity:
        for ip, version in (("ip", 4), ("ip6", 6)):
            key = f"meta l4proto . th dport . {_slots(ip, affinity)}"
            beside_loopback = "" if version == 4 else "ip6 daddr != ::1 "
            lines += [
                f"    dnat {ip} to {ip} daddr . {key} map @one{version}_{affinity}",
                f"    {beside_loopback}dnat {ip} to {key} map @any{version}_{affinity}",
                f"    dnat {ip} to {ip} daddr . {key} map @one_span{version}_{affinity}",
                f"    {beside_loopback}dnat {ip} to {key} map @span{version}_{affinity}",
            ]
    return "\n".join(lines) + "\n"


def inet_own() -> str:
    """Return the rules that translate what the host itself sends to a service's address."""
    lines = [
        f"    dnat {ip} to {ip} daddr . {_slots(ip, affinity)} map @own{version}_{affinity}"
        for affinity in Affinity
        for ip, version in (("ip", 4), ("ip6", 6))
    ]
    return "\n".join(lines) + "\n"
