"""The hosts and resolv.conf files of sandboxes, and the names that resolve from them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import LOCAL_HOSTS, RefusedError, RunningDaemon, Sandbox, files_of
from tests.support.privileges import knows_other_users
from tests.support.traffic import until


def test_hosts_file_has_own_names_and_resolv_conf_the_resolver(
    daemon: RunningDaemon,
) -> None:
    for name in ("foo", "bar"):
        daemon.api.network(name, ipv6=True)
        daemon.sandbox(name, "peer", join={"host_name": "peer"})
    join = {"host_name": "web", "domain_name": "example.com", "dns": ["192.0.2.53"]}
    sandbox = daemon.sandbox("foo", "one", join={**join, "extra_hosts": [{"name": "db", "address": "192.0.2.5"}]})
    daemon.api.endpoint("bar", "one")
    second = daemon.attach("bar", "one", sandbox.container)
    daemon.sandbox("foo", "late")
    hosts, resolv_conf = files_of(daemon, sandbox.container)
    own = [address for each in (sandbox, second) for address in (each.address, each.address6)]
    assert hosts == [*(f"{address}\tweb.example.com web" for address in own), *LOCAL_HOSTS, "192.0.2.5\tdb"]
    assert resolv_conf == "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n"


def test_hosts_file_without_a_host_name_has_no_nameless_line(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one", join={"domain_name": "example.com"})
    hosts, _ = files_of(daemon, sandbox.container)
    assert all(len(line.split()) >= 2 for line in hosts)
    assert not [line for line in hosts if ".example.com" in line]


def test_parent_update_puts_the_new_address_in_the_parents_file(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    parent = daemon.sandbox("foo", "parent", join={"extra_hosts": [{"name": "web2", "address": "192.0.2.9"}]})
    reported = daemon.api.reported("foo", "parent")
    for address in ("192.0.2.7", "192.0.2.8"):
        update = {"endpoint_id": reported["id"], "name": "web", "address": address}
        child = daemon.sandbox("foo", f"child{address[-1]}", join={"parent_updates": [update]})
        hosts, _ = files_of(daemon, parent.container)
        assert f"{address}\tweb" in hosts
        assert "192.0.2.9\tweb2" in hosts
        assert not [line for line in files_of(daemon, child.container)[0] if line.endswith("\tweb")]
    assert [line for line in hosts if line.endswith("\tweb")] == ["192.0.2.8\tweb"]


def test_edited_resolv_conf_survives_a_second_join(daemon: RunningDaemon) -> None:
    for name in ("foo", "bar"):
        daemon.api.network(name)
        daemon.api.endpoint(name, "e")
    daemon.attach("foo", "e", "c1")
    path = Path(daemon.api.get("/sandboxes/c1", verbose="true")["resolv_conf_path"])
    path.write_text("nameserver 192.0.2.1\n")
    daemon.attach("bar", "e", "c1")
    assert path.read_text() == "nameserver 192.0.2.1\n"


def test_files_have_mode_0644_and_are_removed_after_the_leave(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    hosts, resolv_conf = daemon.files / "c1" / "deep" / "hosts", daemon.files / "c1" / "resolv.conf"
    sandbox = daemon.sandbox(
        "foo", "e", join={"host_name": "web", "hosts_path": str(hosts), "resolv_conf_path": str(resolv_conf)}
    )
    for path in (hosts, resolv_conf):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(hosts.parent.stat().st_mode) == 0o755
    assert f"{sandbox.address}\tweb" in hosts.read_text().splitlines()
    daemon.api.leave("foo", "e", sandbox.container)
    assert not hosts.exists()
    assert not resolv_conf.exists()
    for folder in (hosts.parent, hosts.parent.parent):
        if folder.exists():
            folder.rmdir()


OWNER = (1234, 2345) if knows_other_users() else (0, 0)


class Original:
    """A file that its owner had at a path that a join names."""

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content = path, content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.chown(path, *OWNER)
        path.chmod(0o640)
        self.inode = path.stat().st_ino

    def is_back(self) -> bool:
        """Whether it is there as it was, with nothing left beside it."""
        found = self.path.stat()
        same = (found.st_ino, found.st_uid, found.st_gid, found.st_mode & 0o7777)
        beside = [each for each in self.path.parent.iterdir() if "sandnet" in each.name]
        return self.path.read_text() == self.content and same == (self.inode, *OWNER, 0o640) and not beside


def originals_in(folder: Path) -> tuple[Original, Original]:
    return Original(folder / "hosts", "192.0.2.1\tmine\n"), Original(folder / "resolv.conf", "nameserver 192.0.2.2\n")


@pytest.fixture
def originals(daemon: RunningDaemon) -> Iterator[tuple[Original, Original]]:
    """Hosts and resolv.conf of a container engine, as it left them."""
    folder = daemon.files / "engine"
    yield originals_in(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def named(originals: tuple[Original, Original]) -> dict[str, str]:
    hosts, resolv_conf = originals
    return {"hosts_path": str(hosts.path), "resolv_conf_path": str(resolv_conf.path)}


Originals = tuple[Original, Original]


@pytest.mark.parametrize("network", ["foo", "none", "host"])
def test_existing_files_are_restored_after_the_last_leave(
    daemon: RunningDaemon, originals: Originals, network: str
) -> None:
    daemon.api.network("foo")
    daemon.api.network("bar")
    others = {"foo": "bar", "none": "foo", "host": ""}[network]
    for each in filter(None, (network, others)):
        daemon.api.endpoint(each, "e")
    for _ in range(2):
        daemon.api.join(network, "e", "c1", **named(originals))
        assert originals[0].path.read_text() != originals[0].content
        assert originals[1].path.read_text() != originals[1].content
        if others:
            daemon.api.join(others, "e", "c1", **named(originals))
            daemon.api.leave(network, "e", "c1")
            assert "localhost" in originals[0].path.read_text()
            daemon.api.leave(others, "e", "c1")
        else:
            daemon.api.leave(network, "e", "c1")
        assert all(each.is_back() for each in originals)
    for each in filter(None, (network, others)):
        daemon.api.delete(f"/networks/{each}/endpoints/e")


def test_existing_files_are_restored_after_a_failed_join(daemon: RunningDaemon, originals: Originals) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    (daemon.files / "trap").mkdir()
    try:
        for paths in (
            {"hosts_path": str(originals[0].path), "resolv_conf_path": str(daemon.files / "trap")},
            {"hosts_path": str(daemon.files / "trap"), "resolv_conf_path": str(originals[1].path)},
        ):
            with pytest.raises(RefusedError):
                daemon.api.join("foo", "e", "c1", **paths)
            assert all(each.is_back() for each in originals)
    finally:
        (daemon.files / "trap").rmdir()


def test_edited_resolv_conf_replaces_the_existing_one(daemon: RunningDaemon, originals: Originals) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    hosts, resolv_conf = originals
    daemon.api.join("foo", "e", "c1", **named(originals))
    resolv_conf.path.write_text("nameserver 192.0.2.77\n")
    daemon.api.leave("foo", "e", "c1")
    assert resolv_conf.path.read_text() == "nameserver 192.0.2.77\n"
    assert hosts.is_back()


def test_edited_new_resolv_conf_is_kept_after_the_leave(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    path = daemon.files / "resolv.conf"
    for _ in range(2):
        daemon.api.join("foo", "e", "c1", resolv_conf_path=str(path))
        path.write_text("nameserver 192.0.2.77\n")
        daemon.api.leave("foo", "e", "c1")
        assert path.read_text() == "nameserver 192.0.2.77\n"
    path.unlink()


def test_existing_files_are_restored_by_down_after_a_kill(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon, originals = fresh_daemon, originals_in(fresh_daemon.files / "engine")
    daemon.start()
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    daemon.api.join("foo", "e", "c1", **named(originals))
    daemon.kill()
    daemon.start()
    assert "localhost" in originals[0].path.read_text()
    daemon.kill()
    daemon.down()
    assert all(each.is_back() for each in originals)


def test_existing_files_are_restored_on_reuse_after_state_loss(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon, originals = fresh_daemon, originals_in(fresh_daemon.files / "engine")
    daemon.start()
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    daemon.api.join("foo", "e", "c1", **named(originals))
    daemon.kill()
    for path in daemon.state.glob("sandnet.db*"):
        path.unlink()
    daemon.start()
    daemon.api.leave("foo", "e", "c1")
    daemon.api.join("foo", "e", "c2", **named(originals))
    daemon.api.leave("foo", "e", "c2")
    assert all(each.is_back() for each in originals)


def test_path_named_like_a_backup_file_returns_400(daemon: RunningDaemon, originals: Originals) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    for name in (".hosts.sandnet", ".hosts.sandnet-original"):
        with pytest.raises(RefusedError) as refused:
            daemon.api.join("foo", "e", "c1", hosts_path=str(originals[0].path.parent / name))
        assert refused.value.status == 400


@pytest.mark.parametrize("ref", ["id", "prefix", "name"])
def test_parent_update_of_an_existing_name_replaces_its_address(daemon: RunningDaemon, ref: str) -> None:
    daemon.api.network("foo")
    extra = [
        {"name": "db", "address": "192.0.2.5"}, {"name": "other", "address": "192.0.2.6"},
        {"name": "DB", "address": "2001:db8::5"}, {"name": "db2", "address": "192.0.2.7"},
    ]  # fmt: skip
    parent = daemon.sandbox("foo", "parent", join={"extra_hosts": extra})
    ident = daemon.api.reported("foo", "parent")["id"]
    meant = {"id": ident, "prefix": ident[:12], "name": "parent"}[ref]
    updates = [
        {"endpoint_id": meant, "name": "db", "address": "192.0.2.50"},
        {"endpoint_id": meant, "name": "new", "address": "192.0.2.51"},
        {"endpoint_id": "f" * 64, "name": "lost", "address": "192.0.2.52"},
    ]
    daemon.sandbox("foo", "child", join={"parent_updates": updates})
    hosts, _ = files_of(daemon, parent.container)
    lines = [line for line in hosts if line.startswith(("192.0.2.", "2001:db8::"))]
    assert lines == ["192.0.2.50\tdb", "192.0.2.6\tother", "192.0.2.7\tdb2", "192.0.2.51\tnew"]


@pytest.mark.parametrize("field", ["hosts_path", "resolv_conf_path"])
@pytest.mark.parametrize(
    "kind", ["directory", "symlink", "symlinked parent", "fifo", "outside", "up", "root", "file parent"]
)
def test_path_that_is_not_a_regular_file_returns_400(daemon: RunningDaemon, kind: str, field: str) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    base = daemon.files / "trap"
    target = daemon.folder / "precious"
    target.write_text("precious")
    path = str(base)
    if kind == "directory":
        base.mkdir()
    elif kind == "symlink":
        base.symlink_to(target)
    elif kind == "symlinked parent":
        base.symlink_to(daemon.folder)
        path = f"{base}/precious"
    elif kind == "fifo":
        os.mkfifo(base)
    elif kind == "file parent":
        base.write_text("")
        path = f"{base}/hosts"
    else:
        path = {"outside": str(target), "up": f"{daemon.files}/../precious", "root": str(daemon.files)}[kind]
    try:
        with pytest.raises(RefusedError) as refused:
            daemon.api.join("foo", "e", "c1", **{field: path})
        assert refused.value.status == 400, refused.value
        assert target.read_text() == "precious"
        assert os.path.lexists(base) == (kind not in ("outside", "up", "root"))
        assert daemon.api.get("/sandboxes") == []
        assert daemon.pinned() == []
        until(lambda: len(daemon.our_links()) == 2)
    finally:
        if base.is_dir() and not base.is_symlink():
            base.rmdir()
        else:
            base.unlink(missing_ok=True)
    assert daemon.attach("foo", "e", "c1").reaches("198.51.100.2")


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
def test_values_that_would_corrupt_a_file_return_400(daemon: RunningDaemon, join: dict[str, Any]) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "e")
    with pytest.raises(RefusedError) as refused:
        daemon.api.join("foo", "e", "c1", **join)
    assert refused.value.status == 400
    assert daemon.api.get("/sandboxes") == []


# Following the host.


def host_resolv_conf(daemon: RunningDaemon) -> Path:
    return daemon.folder / "host-resolv.conf"


@pytest.fixture
def changing(daemon: RunningDaemon) -> Iterator[Path]:
    """The host's resolv.conf, for a test that changes it."""
    path = host_resolv_conf(daemon)
    before = path.read_text()
    yield path
    path.write_text(before)


def until_resolv_conf(daemon: RunningDaemon, sandbox: Sandbox, text: str) -> None:
    """Until a sandbox's file reports so."""
    until(lambda: files_of(daemon, sandbox.container)[1] == text)


def test_host_resolv_conf_changes_reach_sandboxes_within_seconds(daemon: RunningDaemon, changing: Path) -> None:
    daemon.api.network("foo")
    sandboxes = [daemon.sandbox("foo", f"e{number}") for number in range(3)]
    on_host = daemon.sandbox("host", "app")
    edited = daemon.sandbox("foo", "edited")
    mine = Path(daemon.api.get(f"/sandboxes/{edited.container}", verbose="true")["resolv_conf_path"])
    mine.write_text("nameserver 192.0.2.99\n")
    for text, search in (
        ("domain corp.example\nnameserver 192.0.2.53\noptions timeout:1 ndots:3\n", "corp.example"),
        ("search a.example b.example\nnameserver 192.0.2.54\noptions timeout:1\n", "a.example b.example"),
    ):
        changing.write_text(text)
        stub = f"nameserver 127.0.0.11\nsearch {search}\noptions timeout:1 ndots:0\n"
        for sandbox in sandboxes:
            until_resolv_conf(daemon, sandbox, stub)
        until_resolv_conf(daemon, on_host, text)
    assert mine.read_text() == "nameserver 192.0.2.99\n"
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")


def test_host_file_changes_during_downtime_are_applied_at_start(daemon: RunningDaemon, changing: Path) -> None:
    daemon.api.network("foo")
    sandbox, on_host = daemon.sandbox("foo", "one"), daemon.sandbox("host", "app")
    daemon.kill()
    changing.write_text("search new.example\nnameserver 192.0.2.53\n")
    daemon.start()
    assert "search new.example\n" in files_of(daemon, sandbox.container)[1]
    assert files_of(daemon, on_host.container)[1] == "search new.example\nnameserver 192.0.2.53\n"


def test_edited_files_on_the_host_network_are_kept(daemon: RunningDaemon, changing: Path) -> None:
    on_host = daemon.sandbox("host", "app")
    reported = daemon.api.get(f"/sandboxes/{on_host.container}", verbose="true")
    for name in ("hosts_path", "resolv_conf_path"):
        Path(reported[name]).write_text("# mine\n")
    watched = daemon.sandbox("host", "watched")
    changing.write_text("nameserver 192.0.2.53\n")
    until_resolv_conf(daemon, watched, "nameserver 192.0.2.53\n")
    assert {Path(reported[name]).read_text() for name in ("hosts_path", "resolv_conf_path")} == {"# mine\n"}
    assert files_of(daemon, watched.container)[0] == Path("/etc/hosts").read_text().splitlines()


def test_dns_options_of_join_precede_those_of_network_and_host(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo", dns_search=["foo.example"], dns_options=["ndots:1", "timeout:2"])
    daemon.cli("network", "create", "--dns-search", "bar.example", "--dns-option", "rotate", "bar")
    plain = daemon.sandbox("foo", "plain")
    assert files_of(daemon, plain.container)[1] == (
        "nameserver 127.0.0.11\nsearch foo.example\noptions ndots:1 timeout:2\n"
    )
    daemon.api.endpoint("bar", "plain")
    daemon.attach("bar", "plain", plain.container)
    assert "search foo.example bar.example\noptions ndots:1 timeout:2 rotate\n" in files_of(daemon, plain.container)[1]
    daemon.api.leave("foo", "plain", plain.container)
    assert files_of(daemon, plain.container)[1] == (
        "nameserver 127.0.0.11\nsearch bar.example\noptions ndots:0 rotate\n"
    )
    requests = {"dns_search": ["join.example", "."], "dns_options": ["ndots:4"]}
    own = daemon.sandbox("foo", "own", join=requests)
    assert "search join.example .\noptions timeout:2 ndots:4\n" in files_of(daemon, own.container)[1]
    reported = daemon.api.get(f"/sandboxes/{own.container}", verbose="true")
    assert {name: reported[name] for name in requests} == requests
    assert daemon.api.reported("foo")["options"]["dns_search"] == ["foo.example"]
    seen = daemon.cli(
        "run", "--net", "bar", "--dns-search", "run.example", "--dns-option", "use-vc", "--", "cat", "/etc/resolv.conf"
    )
    assert seen == "nameserver 127.0.0.11\nsearch run.example\noptions ndots:0 rotate use-vc\n"
    on_host = daemon.sandbox("host", "app", join={"dns_search": ["h.example"], "dns": ["192.0.2.1"]})
    assert files_of(daemon, on_host.container)[1] == "nameserver 192.0.2.1\nsearch h.example\noptions ndots:2\n"


@pytest.mark.parametrize("field", ["dns_search", "dns_options"])
def test_dns_option_that_would_add_a_line_returns_400(daemon: RunningDaemon, field: str) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    for value in ("a\nnameserver 192.0.2.1", "a b", ""):
        with pytest.raises(RefusedError) as refused:
            daemon.api.join("foo", "one", "c1", **{field: [value]})
        assert (refused.value.status, field in refused.value.message) == (400, True)
    with pytest.raises(RefusedError) as refused:
        daemon.api.post("/networks", name="bar", options={field: ["a b"]})
    assert refused.value.status == 400
