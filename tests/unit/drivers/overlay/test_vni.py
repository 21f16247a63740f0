"""The choice of VXLAN network identifiers."""

from __future__ import annotations

import pytest

from sandnet.drivers.overlay.vni import FIRST_VNI, plan_vni
from sandnet.errors import Error, Kind
from sandnet.model import Network, NetworkOptions, Phase


def network(name: str, vni: int = 0, requested: int | None = None) -> Network:
    return Network(
        id=name * 64, name=name, driver="overlay", phase=Phase.READY, sequence=1, created=0.0, vni=vni,
        options=NetworkOptions(vni=requested),
    )  # fmt: skip


def test_lowest_free_vni_is_chosen_again_beside_new_networks() -> None:
    net = network("a")
    assert plan_vni(net, [network("b")]) == FIRST_VNI
    assert plan_vni(net, [network("b", FIRST_VNI), network("c", FIRST_VNI + 2)]) == FIRST_VNI + 1


def test_requested_vni_is_taken_unless_another_network_has_it() -> None:
    net = network("a", requested=77)
    assert plan_vni(net, [network("b", FIRST_VNI)]) == 77
    with pytest.raises(Error) as refused:
        plan_vni(net, [network("b", 77)])
    assert (refused.value.kind, refused.value.code) == (Kind.CONFLICT, "vni_taken")


def test_network_itself_is_not_in_its_own_way() -> None:
    assert plan_vni(network("a", requested=77), [network("a", 77)]) == 77
