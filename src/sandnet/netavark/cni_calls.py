"""What netavark passes, as a CNI configuration, and a CNI result as netavark expects it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sandnet.cni import PluginError

MOST_PORTS = 8192
"""Limit of published ports, as the daemon has it."""
OPTIONS = ("network", "mtu", "driver", "parent", "mode")
"""Options of a network (``podman network create -o``)."""

DHCP = "dhcp"
"""Podman's name of the IPAM driver by which a server of the segment gives the addresses, and the daemon's."""
IPAM_DRIVERS = ("", "host-local", DHCP)
"""Of Podman's; ``none``, a network without addresses, has no counterpart."""

Message = dict[str, Any]


def created(network: Message) -> Message:
    """Return the configuration of a new network. The daemon makes the network with its first container.

    Name, id and driver stay as they were given. Podman's own name server does not serve networks of plugins.

    Raises:
        PluginError: an option is unknown, or its value is none that it can have.
    """
    _options(network)
    _ipam_driver(network)
    return {**network, "dns_enabled": False}


def cni_configuration(given: Message) -> Message:
    """Return the network configuration for the daemon.

    Raises:
        PluginError: a field is missing or has no counterpart.
    """
    network, options = _object(given, "network"), _object(given, "network_options")
    name, chosen = required(network, "name"), _options(network)
    ranges = [[_range(each)] for each in network.get("subnets") or ()]
    ipam: Message = {"type": DHCP} if _ipam_driver(network) == DHCP else {}
    if ranges:
        ipam["ranges"] = ranges
    names = [given.get("container_name"), *(options.get("aliases") or ())]
    runtime = {
        "portMappings": list(_ports(given)),
        "ips": options.get("static_ips") or None,
        "mac": options.get("static_mac") or None,
        "aliases": {name: [each for each in names if each]},
    }
    return {
        "cniVersion": "1.0.0",
        "name": name,
        "network": chosen.get("network"),
        "mtu": int(chosen["mtu"]) if "mtu" in chosen else None,
        "internal": bool(network.get("internal")),
        "driver": chosen.get("driver"),
        "master": chosen.get("parent"),
        "mode": chosen.get("mode"),
        "ipam": ipam or None,
        "runtimeConfig": runtime,
    }


def status_block(given: Message, result: Message) -> Message:
    """Return the answer to ``setup``: the interface with its addresses, and the name servers."""
    interface = interface_of(given)
    mac = next((each.get("mac", "") for each in result.get("interfaces", ()) if each.get("sandbox")), "")
    subnets = [
        {"ipnet": each["address"], **({"gateway": each["gateway"]} if each.get("gateway") else {})}
        for each in result.get("ips", ())
    ]
    dns = result.get("dns", {})
    return {
        "dns_search_domains": dns.get("search", []),
        "dns_server_ips": dns.get("nameservers", []),
        "interfaces": {interface: {"mac_address": mac, "subnets": subnets}},
    }


def arguments_of(given: Message) -> str:
    """Return ``CNI_ARGS`` with the container's name, which becomes the endpoint's; empty: it has none that can be."""
    name = str(given.get("container_name") or "")
    return f"IgnoreUnknown=1;K8S_POD_NAME={name}" if name and not set(name) & {";", "="} else ""


def interface_of(given: Message) -> str:
    """Return the name of the interface.

    Raises:
        PluginError: it is missing.
    """
    return required(_object(given, "network_options"), "interface_name")


def required(message: Mapping[str, Any], field: str) -> str:
    """Return a text of a message.

    Raises:
        PluginError: it is missing.
    """
    value = message.get(field)
    if not isinstance(value, str) or not value:
        raise PluginError(0, f"{field} is missing")
    return value


def _object(message: Message, field: str) -> Message:
    value = message.get(field)
    if not isinstance(value, dict):
        raise PluginError(0, f"{field} is missing")
    return value


def _options(network: Message) -> dict[str, str]:
    options = network.get("options") or {}
    for key in options:
        if key not in OPTIONS:
            raise PluginError(0, f"unknown option {key!r}", f"known: {', '.join(OPTIONS)}")
    texts = {key: str(value) for key, value in options.items()}
    mtu = texts.get("mtu", "0")
    if not (mtu.isascii() and mtu.isdecimal()):
        raise PluginError(0, f"the option mtu is no number: {mtu!r}", "give bytes, as in -o mtu=1400")
    return texts


def _ipam_driver(network: Message) -> str:
    driver = str((network.get("ipam_options") or {}).get("driver") or "")
    if driver not in IPAM_DRIVERS:
        raise PluginError(0, f"unknown IPAM driver {driver!r}", f"known: {', '.join(filter(None, IPAM_DRIVERS))}")
    return driver


def _range(subnet: Message) -> Message:
    lease = subnet.get("lease_range") or {}
    fields = {
        "subnet": subnet.get("subnet"),
        "gateway": subnet.get("gateway"),
        "rangeStart": lease.get("start_ip"),
        "rangeEnd": lease.get("end_ip"),
    }
    return {key: value for key, value in fields.items() if value}


def _ports(given: Message) -> Iterator[Message]:
    """Yield one mapping for each port of a range and each protocol (``tcp,udp``)."""
    count = 0
    for each in given.get("port_mappings") or ():
        for protocol in str(each.get("protocol") or "tcp").split(","):
            for offset in range(int(each.get("range") or 1)):
                count += 1
                if count > MOST_PORTS:
                    raise PluginError(0, f"more than {MOST_PORTS} published ports")
                yield {
                    "hostPort": int(each.get("host_port") or 0) + offset,
                    "containerPort": int(each.get("container_port") or 0) + offset,
                    "protocol": protocol,
                    "hostIP": each.get("host_ip") or None,
                    "held": True,  # Podman binds the ports before it runs netavark
                }
