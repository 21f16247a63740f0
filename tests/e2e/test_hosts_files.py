"""The hosts and resolv.conf files of sandboxes, and the names that resolve from them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.traffic import until
from tests.e2e.world import LOCAL_HOSTS, RefusedError, World, files_of


def test_given_a_resolver_when_joined_then_the_hosts_file_holds_own_names_only_and_resolv_conf_names_it(
    world: World,
) -> None:
    for name in ("foo", "bar"):
        world.api.network(name, ipv6=True)
        world.box(name, "peer", join={"host_name": "peer"})
    join = {"host_name": "web", "domain_name": "example.com", "dns": ["192.0.2.53"]}
    box = world.box("foo", "one", join={**join, "extra_hosts": [{"name": "db", "address": "192.0.2.5"}]})
    world.api.endpoint("bar", "one")
    second = world.attach("bar", "one", box.container)
    world.box("foo", "late")
    hosts, resolv_conf = files_of(world, box.container)
    own = [address for each in (box, second) for address in (each.address, each.address6)]
    assert hosts == [*(f"{address}\tweb.example.com web" for address in own), *LOCAL_HOSTS, "192.0.2.5\tdb"]
    assert resolv_conf == "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n"


def test_given_no_host_name_when_joined_then_no_line_is_without_a_name(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one", join={"domain_name": "example.com"})
    hosts, _ = files_of(world, box.container)
    assert all(len(line.split()) >= 2 for line in hosts)
    assert not [line for line in hosts if ".example.com" in line]


def test_given_a_parent_update_when_joined_then_the_parents_file_points_to_the_new_address(world: World) -> None:
    world.api.network("foo")
    parent = world.box("foo", "parent", join={"extra_hosts": [{"name": "web2", "address": "192.0.2.9"}]})
    told = world.api.told("foo", "parent")
    for address in ("192.0.2.7", "192.0.2.8"):
        update = {"endpoint_id": told["id"], "name": "web", "address": address}
        child = world.box("foo", f"child{address[-1]}", join={"parent_updates": [update]})
        hosts, _ = files_of(world, parent.container)
        assert f"{address}\tweb" in hosts
        assert "192.0.2.9\tweb2" in hosts
        assert not [line for line in files_of(world, child.container)[0] if line.endswith("\tweb")]
    assert [line for line in hosts if line.endswith("\tweb")] == ["192.0.2.8\tweb"]


def test_given_a_user_who_changed_resolv_conf_when_a_second_network_is_joined_then_it_stays(world: World) -> None:
    for name in ("foo", "bar"):
        world.api.network(name)
        world.api.endpoint(name, "e")
    world.attach("foo", "e", "c1")
    path = Path(world.api.get("/sandboxes/c1", verbose="true")["resolv_conf_path"])
    path.write_text("nameserver 192.0.2.1\n")
    world.attach("bar", "e", "c1")
    assert path.read_text() == "nameserver 192.0.2.1\n"


def test_given_paths_when_joined_then_the_files_are_there_with_mode_0644_and_gone_after_the_leave(
    world: World,
) -> None:
    world.api.network("foo")
    hosts, resolv_conf = world.files / "c1" / "deep" / "hosts", world.files / "c1" / "resolv.conf"
    box = world.box(
        "foo", "e", join={"host_name": "web", "hosts_path": str(hosts), "resolv_conf_path": str(resolv_conf)}
    )
    for path in (hosts, resolv_conf):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(hosts.parent.stat().st_mode) == 0o755
    assert f"{box.address}\tweb" in hosts.read_text().splitlines()
    world.api.leave("foo", "e", box.container)
    assert not hosts.exists()
    assert not resolv_conf.exists()
    for folder in (hosts.parent, hosts.parent.parent):
        if folder.exists():
            folder.rmdir()


@pytest.mark.parametrize("field", ["hosts_path", "resolv_conf_path"])
@pytest.mark.parametrize(
    "kind", ["directory", "symlink", "symlinked parent", "fifo", "outside", "up", "root", "file parent"]
)
def test_given_a_path_that_is_no_plain_file_when_joined_then_400_and_nothing_is_left(
    world: World, kind: str, field: str
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    base = world.files / "trap"
    target = world.folder / "precious"
    target.write_text("precious")
    path = str(base)
    if kind == "directory":
        base.mkdir()
    elif kind == "symlink":
        base.symlink_to(target)
    elif kind == "symlinked parent":
        base.symlink_to(world.folder)
        path = f"{base}/precious"
    elif kind == "fifo":
        os.mkfifo(base)
    elif kind == "file parent":
        base.write_text("")
        path = f"{base}/hosts"
    else:
        path = {"outside": str(target), "up": f"{world.files}/../precious", "root": str(world.files)}[kind]
    try:
        with pytest.raises(RefusedError) as refused:
            world.api.join("foo", "e", "c1", **{field: path})
        assert refused.value.status == 400, refused.value
        assert target.read_text() == "precious"
        assert os.path.lexists(base) == (kind not in ("outside", "up", "root"))
        assert world.api.get("/sandboxes") == []
        assert world.pinned() == []
        until(lambda: len(world.our_links()) == 2)
    finally:
        if base.is_dir() and not base.is_symlink():
            base.rmdir()
        else:
            base.unlink(missing_ok=True)
    assert world.attach("foo", "e", "c1").reaches("198.51.100.2")


@pytest.mark.parametrize(
    "join",
    [
        {"host_name": "a\nb"},
        {"host_name": "a b"},
        {"domain_name": "x\ty"},
        {"host_name": "a" * 64},
        {"dns": ["8.8.8.8\nsearch evil"]},
        {"dns": ["not-an-address"]},
        {"dns": ["0.0.0.0"]},
        {"extra_hosts": [{"name": "a\n192.0.2.1 b", "address": "192.0.2.1"}]},
        {"extra_hosts": [{"name": "a", "address": "192.0.2.1\n"}]},
        {"extra_hosts": [{"name": "", "address": "192.0.2.1"}]},
        {"extra_hosts": [{"name": "a"}]},
        {"parent_updates": [{"endpoint_id": "../x", "name": "a", "address": "192.0.2.1"}]},
        {"parent_updates": [{"endpoint_id": "a" * 64, "name": "a\n", "address": "192.0.2.1"}]},
    ],
)
def test_given_values_that_would_break_a_file_when_joined_then_400(world: World, join: dict[str, Any]) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    with pytest.raises(RefusedError) as refused:
        world.api.join("foo", "e", "c1", **join)
    assert refused.value.status == 400
    assert world.api.get("/sandboxes") == []
