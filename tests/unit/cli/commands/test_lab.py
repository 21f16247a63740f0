"""Which groups, names and numbers ``sandnet lab`` accepts, before anything is started."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from sandnet.cli.commands.lab import lab
from sandnet.errors import Error
from sandnet.lab.lab_spec import LabSpec, check_name, check_spec


@pytest.mark.parametrize("groups", [["1"], ["1", "1"], ["1,2", "2,3"], ["one", "2"], ["1", ""]])
def test_partition_of_no_groups_is_wrong_usage(groups: list[str]) -> None:
    assert CliRunner().invoke(lab, ["partition", *groups]).exit_code == 2


def test_state_is_lost_with_the_power_only() -> None:
    assert CliRunner().invoke(lab, ["kill", "--lose-state", "1"]).exit_code == 2


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "A", "a" * 32])
def test_name_that_is_no_plain_component_is_refused(name: str) -> None:
    with pytest.raises(Error, match="cannot be the name"):
        check_name(name)


@pytest.mark.parametrize(("hosts", "mtu"), [(0, 1500), (65, 1500), (3, 1279), (3, 65536)])
def test_numbers_that_no_lab_can_have_are_refused(hosts: int, mtu: int) -> None:
    with pytest.raises(Error):
        check_spec(LabSpec(name="lab", hosts=hosts, store=True, mtu=mtu, daemon_options=(), program=""))


@pytest.mark.parametrize(("hosts", "members"), [(1, 1), (2, 1), (3, 3), (5, 3)])
def test_number_of_members_is_odd(hosts: int, members: int) -> None:
    spec = LabSpec(name="lab", hosts=hosts, store=True, mtu=1500, daemon_options=(), program="")
    assert spec.members == members
    assert spec.store_url.count(":2379") == members


def test_lab_without_store_has_no_members() -> None:
    spec = LabSpec(name="lab", hosts=3, store=False, mtu=1500, daemon_options=(), program="")
    assert spec.members == 0
