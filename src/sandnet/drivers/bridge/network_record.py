"""Build the record of a network from the alias of its bridge (``model/link_alias``), after the store was lost.

Options that an alias does not contain get the values of a request without them.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address

from msgspec import structs
from msgspec.structs import replace

from sandnet.errors import Error
from sandnet.kernel.types import Link
from sandnet.model import Network, NetworkOptions, Phase, Subnet
from sandnet.model.interfaces.bandwidth import Bandwidth
from sandnet.model.link_alias import OPTIONS, NetworkAlias, address4, address6, bandwidth, created_of, host_access
from sandnet.model.link_names import OUR_LINKS
from sandnet.model.resolv_conf import check_options, check_search


def network_from_alias(driver: str, link: Link, alias: NetworkAlias, sequence: int) -> Network | None:
    """Return the network whose bridge is ``link``; ``None``: the alias is not valid."""
    values = alias.values
    flags_set = {name: value for letter, (name, value) in OPTIONS.items() if letter in alias.flags}
    try:
        own, own6 = IPv4Interface(values["4"]), IPv6Interface(values["6"]) if "6" in values else None
        options = NetworkOptions(
            ip_range=IPv4Network(values["r"]) if "r" in values else None,
            reserved_addresses={text: ip_address(text) for text in _listed(values.get("a"))},
            mtu=int(values["t"]) if "t" in values else None,
            binding_address=ip_address(values["b"]) if "b" in values else None,
            host_access=host_access(values.get("o")),
            dns_search=check_search(_listed(values.get("d")), "d"),
            dns_options=check_options(_listed(values.get("n")), "n"),
            max_flows=int(values["c"]) if "c" in values else None,
            egress_ipv4=address4(values.get("e")),
            egress_ipv6=address6(values.get("x")),
            **structs.asdict(bandwidth(values.get("l")) or Bandwidth()),
            bridge_name=None if OUR_LINKS["bridge"].fullmatch(link.name) else link.name,
        )
        options = replace(options, **flags_set)
    except (KeyError, ValueError, Error):
        return None
    gateway, gateway6 = address4(values.get("g")) or own.ip, address6(values.get("h")) or (own6 and own6.ip)
    internal = options.internal
    return Network(
        id=alias.id,
        name=alias.name,
        driver=driver,
        phase=Phase.READY,
        sequence=sequence,
        created=created_of(alias),
        options=options,
        ipv4=Subnet(
            prefix=own.network, host_address=own, gateway=None if internal else gateway, range=options.ip_range
        ),
        ipv6=Subnet(prefix=own6.network, host_address=own6, gateway=None if internal else gateway6) if own6 else None,
        link=link.name,
        predefined="p" in alias.flags,
    )


def _listed(text: str | None) -> list[str]:
    return text.split(",") if text else []
