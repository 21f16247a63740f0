"""The hosts and resolv.conf files of sandboxes, and the names that resolve from them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import LOCAL_HOSTS, Box, RefusedError, World, files_of
from tests.support.traffic import until


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


class Original:
    """A file that its owner had at a path that a join names."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content = path, content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.chown(path, 1234, 2345)
        path.chmod(0o640)
        self.inode = path.stat().st_ino

    def is_back(self) -> bool:
        """Whether it is there as it was, with nothing left beside it."""
        found = self.path.stat()
        same = (found.st_ino, found.st_uid, found.st_gid, found.st_mode & 0o7777)
        beside = [each for each in self.path.parent.iterdir() if "sandnet" in each.name]
        return self.path.read_text() == self.content and same == (self.inode, 1234, 2345, 0o640) and not beside


def originals_in(folder: Path) -> tuple[Original, Original]:
    return Original(folder / "hosts", "192.0.2.1\tmine\n"), Original(folder / "resolv.conf", "nameserver 192.0.2.2\n")


@pytest.fixture
def originals(world: World) -> Iterator[tuple[Original, Original]]:
    """Hosts and resolv.conf of a container engine, as it left them."""
    folder = world.files / "engine"
    yield originals_in(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def named(originals: tuple[Original, Original]) -> dict[str, str]:
    hosts, resolv_conf = originals
    return {"hosts_path": str(hosts.path), "resolv_conf_path": str(resolv_conf.path)}


Originals = tuple[Original, Original]


@pytest.mark.parametrize("network", ["foo", "none", "host"])
def test_given_files_that_were_there_when_the_last_network_is_left_then_they_are_back_as_they_were(
    world: World, originals: Originals, network: str
) -> None:
    world.api.network("foo")
    world.api.network("bar")
    others = {"foo": "bar", "none": "foo", "host": ""}[network]
    for each in filter(None, (network, others)):
        world.api.endpoint(each, "e")
    for _ in range(2):
        world.api.join(network, "e", "c1", **named(originals))
        assert originals[0].path.read_text() != originals[0].content
        assert originals[1].path.read_text() != originals[1].content
        if others:
            world.api.join(others, "e", "c1", **named(originals))
            world.api.leave(network, "e", "c1")
            assert "localhost" in originals[0].path.read_text()
            world.api.leave(others, "e", "c1")
        else:
            world.api.leave(network, "e", "c1")
        assert all(each.is_back() for each in originals)
    for each in filter(None, (network, others)):
        world.api.delete(f"/networks/{each}/endpoints/e")


def test_given_files_that_were_there_when_a_join_fails_then_they_are_back_as_they_were(
    world: World, originals: Originals
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    (world.files / "trap").mkdir()
    try:
        for paths in (
            {"hosts_path": str(originals[0].path), "resolv_conf_path": str(world.files / "trap")},
            {"hosts_path": str(world.files / "trap"), "resolv_conf_path": str(originals[1].path)},
        ):
            with pytest.raises(RefusedError):
                world.api.join("foo", "e", "c1", **paths)
            assert all(each.is_back() for each in originals)
    finally:
        (world.files / "trap").rmdir()


def test_given_files_that_were_there_when_the_user_edits_resolv_conf_then_that_one_stays(
    world: World, originals: Originals
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    hosts, resolv_conf = originals
    world.api.join("foo", "e", "c1", **named(originals))
    resolv_conf.path.write_text("nameserver 192.0.2.77\n")
    world.api.leave("foo", "e", "c1")
    assert resolv_conf.path.read_text() == "nameserver 192.0.2.77\n"
    assert hosts.is_back()


def test_given_no_file_when_the_user_edits_resolv_conf_then_it_stays_after_the_leave(world: World) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    path = world.files / "resolv.conf"
    for _ in range(2):
        world.api.join("foo", "e", "c1", resolv_conf_path=str(path))
        path.write_text("nameserver 192.0.2.77\n")
        world.api.leave("foo", "e", "c1")
        assert path.read_text() == "nameserver 192.0.2.77\n"
    path.unlink()


def test_given_files_that_were_there_when_the_daemon_is_killed_and_all_is_taken_down_then_they_are_back(
    fresh_world: World,
) -> None:
    world, originals = fresh_world, originals_in(fresh_world.files / "engine")
    world.start()
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    world.api.join("foo", "e", "c1", **named(originals))
    world.kill()
    world.start()
    assert "localhost" in originals[0].path.read_text()
    world.kill()
    world.down()
    assert all(each.is_back() for each in originals)


def test_given_files_that_were_there_when_the_state_is_lost_then_the_next_use_of_the_paths_gives_them_back(
    fresh_world: World,
) -> None:
    world, originals = fresh_world, originals_in(fresh_world.files / "engine")
    world.start()
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    world.api.join("foo", "e", "c1", **named(originals))
    world.kill()
    for path in world.state.glob("sandnet.db*"):
        path.unlink()
    world.start()
    world.api.leave("foo", "e", "c1")
    world.api.join("foo", "e", "c2", **named(originals))
    world.api.leave("foo", "e", "c2")
    assert all(each.is_back() for each in originals)


def test_given_a_name_of_what_is_kept_beside_a_file_when_joined_then_400(world: World, originals: Originals) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "e")
    for name in (".hosts.sandnet", ".hosts.sandnet-original"):
        with pytest.raises(RefusedError) as refused:
            world.api.join("foo", "e", "c1", hosts_path=str(originals[0].path.parent / name))
        assert refused.value.status == 400


@pytest.mark.parametrize("ref", ["id", "prefix", "name"])
def test_given_a_parent_update_of_a_name_it_has_when_joined_then_it_has_the_new_address_alone(
    world: World, ref: str
) -> None:
    world.api.network("foo")
    extra = [
        {"name": "db", "address": "192.0.2.5"}, {"name": "other", "address": "192.0.2.6"},
        {"name": "DB", "address": "2001:db8::5"}, {"name": "db2", "address": "192.0.2.7"},
    ]  # fmt: skip
    parent = world.box("foo", "parent", join={"extra_hosts": extra})
    ident = world.api.told("foo", "parent")["id"]
    meant = {"id": ident, "prefix": ident[:12], "name": "parent"}[ref]
    updates = [
        {"endpoint_id": meant, "name": "db", "address": "192.0.2.50"},
        {"endpoint_id": meant, "name": "new", "address": "192.0.2.51"},
        {"endpoint_id": "f" * 64, "name": "lost", "address": "192.0.2.52"},
    ]
    world.box("foo", "child", join={"parent_updates": updates})
    hosts, _ = files_of(world, parent.container)
    lines = [line for line in hosts if line.startswith(("192.0.2.", "2001:db8::"))]
    assert lines == ["192.0.2.50\tdb", "192.0.2.6\tother", "192.0.2.7\tdb2", "192.0.2.51\tnew"]


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


# Following the host.


def host_resolv_conf(world: World) -> Path:
    return world.folder / "host-resolv.conf"


@pytest.fixture
def changing(world: World) -> Iterator[Path]:
    """The host's resolv.conf, for a test that changes it."""
    path = host_resolv_conf(world)
    before = path.read_text()
    yield path
    path.write_text(before)


def until_resolv_conf(world: World, box: Box, text: str) -> None:
    """Until a sandbox's file says so."""
    until(lambda: files_of(world, box.container)[1] == text)


def test_given_a_host_whose_resolv_conf_changes_when_sandboxes_hold_parts_of_it_then_they_follow_within_seconds(
    world: World, changing: Path
) -> None:
    world.api.network("foo")
    boxes = [world.box("foo", f"e{number}") for number in range(3)]
    on_host = world.box("host", "app")
    edited = world.box("foo", "edited")
    mine = Path(world.api.get(f"/sandboxes/{edited.container}", verbose="true")["resolv_conf_path"])
    mine.write_text("nameserver 192.0.2.99\n")
    for text, search in (
        ("domain corp.example\nnameserver 192.0.2.53\noptions timeout:1 ndots:3\n", "corp.example"),
        ("search a.example b.example\nnameserver 192.0.2.54\noptions timeout:1\n", "a.example b.example"),
    ):
        changing.write_text(text)
        stub = f"nameserver 127.0.0.11\nsearch {search}\noptions timeout:1 ndots:0\n"
        for box in boxes:
            until_resolv_conf(world, box, stub)
        until_resolv_conf(world, on_host, text)
    assert mine.read_text() == "nameserver 192.0.2.99\n"
    until(lambda: world.api.get("/healthz")["status"] == "ok")


def test_given_a_host_whose_files_changed_while_no_daemon_ran_when_it_starts_then_the_sandboxes_have_the_new_ones(
    world: World, changing: Path
) -> None:
    world.api.network("foo")
    box, on_host = world.box("foo", "one"), world.box("host", "app")
    world.kill()
    changing.write_text("search new.example\nnameserver 192.0.2.53\n")
    world.start()
    assert "search new.example\n" in files_of(world, box.container)[1]
    assert files_of(world, on_host.container)[1] == "search new.example\nnameserver 192.0.2.53\n"


def test_given_a_sandbox_on_the_host_network_when_its_user_changes_its_files_then_they_stay(
    world: World, changing: Path
) -> None:
    on_host = world.box("host", "app")
    told = world.api.get(f"/sandboxes/{on_host.container}", verbose="true")
    for name in ("hosts_path", "resolv_conf_path"):
        Path(told[name]).write_text("# mine\n")
    watched = world.box("host", "watched")
    changing.write_text("nameserver 192.0.2.53\n")
    until_resolv_conf(world, watched, "nameserver 192.0.2.53\n")
    assert {Path(told[name]).read_text() for name in ("hosts_path", "resolv_conf_path")} == {"# mine\n"}
    assert files_of(world, watched.container)[0] == Path("/etc/hosts").read_text().splitlines()


def test_given_wishes_for_lookups_when_joined_then_the_joins_go_before_the_networks_and_those_before_the_hosts(
    world: World,
) -> None:
    world.api.network("foo", dns_search=["foo.example"], dns_options=["ndots:1", "timeout:2"])
    world.cli("network", "create", "--dns-search", "bar.example", "--dns-option", "rotate", "bar")
    plain = world.box("foo", "plain")
    assert files_of(world, plain.container)[1] == (
        "nameserver 127.0.0.11\nsearch foo.example\noptions ndots:1 timeout:2\n"
    )
    world.api.endpoint("bar", "plain")
    world.attach("bar", "plain", plain.container)
    assert "search foo.example bar.example\noptions ndots:1 timeout:2 rotate\n" in files_of(world, plain.container)[1]
    world.api.leave("foo", "plain", plain.container)
    assert files_of(world, plain.container)[1] == (
        "nameserver 127.0.0.11\nsearch bar.example\noptions ndots:0 rotate\n"
    )
    wishes = {"dns_search": ["join.example", "."], "dns_options": ["ndots:4"]}
    own = world.box("foo", "own", join=wishes)
    assert "search join.example .\noptions timeout:2 ndots:4\n" in files_of(world, own.container)[1]
    told = world.api.get(f"/sandboxes/{own.container}", verbose="true")
    assert {name: told[name] for name in wishes} == wishes
    assert world.api.told("foo")["options"]["dns_search"] == ["foo.example"]
    seen = world.cli(
        "run", "--net", "bar", "--dns-search", "run.example", "--dns-option", "use-vc", "--", "cat", "/etc/resolv.conf"
    )
    assert seen == "nameserver 127.0.0.11\nsearch run.example\noptions ndots:0 rotate use-vc\n"
    on_host = world.box("host", "app", join={"dns_search": ["h.example"], "dns": ["192.0.2.1"]})
    assert files_of(world, on_host.container)[1] == "nameserver 192.0.2.1\nsearch h.example\noptions ndots:2\n"


@pytest.mark.parametrize("field", ["dns_search", "dns_options"])
def test_given_a_wish_that_would_write_another_line_when_asked_for_then_400(world: World, field: str) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    for value in ("a\nnameserver 192.0.2.1", "a b", ""):
        with pytest.raises(RefusedError) as refused:
            world.api.join("foo", "one", "c1", **{field: [value]})
        assert (refused.value.status, field in refused.value.message) == (400, True)
    with pytest.raises(RefusedError) as refused:
        world.api.post("/networks", name="bar", options={field: ["a b"]})
    assert refused.value.status == 400
