"""Which ports the guard takes for a network's."""

from __future__ import annotations

from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.base import NetworkState
from sandnet.firewall.ruleset.elements import bridge_set
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.fake.common import FaultInjector
from sandnet.kernel.fake.host import FakeFirewall
from sandnet.kernel.nft_types import host_number, link_name
from sandnet.kernel.types import Link
from sandnet.kernel.workers import Workers
from tests.unit.firewall.test_ruleset_reconciler import NET


def link(name: str, index: int, kind: str = "veth", master: int = 0) -> Link:
    return Link(name, index, kind, master, True, 1500, "", 0)


def test_start_assigns_only_foreign_ports_to_the_network() -> None:
    guarding = AntiSpoofing(FakeFirewall(FaultInjector()), Workers(), RulesetTransaction())
    links = [link(NET.link, 2, "bridge"), link("tap0", 3, master=2), link("snv0123456789", 4, master=2)]
    guarding.start([NetworkState(NET, [])], links)
    assert guarding.elements() == {bridge_set("ports"): {link_name("tap0"): host_number(network_number(NET.id))}}
