"""Pinned network namespaces in the real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import Any

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.links import LinuxLinks
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.linux.state_reader import LinuxStateReader
from sandnet.kernel.types import Bridge, DefaultRoute, Veth
from tests.support.network_host import Host

FOLDER = "/run/netns-test"
KEY = f"{FOLDER}/box"
OURS = "115"

links = LinuxLinks()
namespaces = LinuxNamespaces(FOLDER)


def own_inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def loopback_is_up(host: Host, namespace: str) -> bool:
    return "UP" in json.loads(host.sh("ip", "-j", "link", "show", "lo", namespace=namespace))[0]["flags"]


def files(host: Host) -> list[str]:
    return host.run(lambda: sorted(os.listdir(FOLDER)))


def defaults(host: Host, family: str = "-4") -> list[tuple[str, str, str]]:
    """Gateway, interface and protocol of each default route, as ``ip`` shows them."""
    found: list[dict[str, Any]] = json.loads(
        host.sh("ip", family, "-j", "-d", "route", "show", "default", namespace=KEY) or "[]"
    )
    return [(route["gateway"], route["dev"], route["protocol"]) for route in found]


@pytest.fixture
def plugged(host: Host) -> Host:
    """A host with a sandbox that has two interfaces on one bridge."""
    bridge = Bridge("snb0", 0, (IPv4Interface("10.9.0.1/24"), IPv6Interface("fd09::1/64")))
    host.run(links.ensure_bridge, bridge)
    host.run(namespaces.make, KEY)
    for i in (0, 1):
        four, six = IPv4Interface(f"10.9.0.{i + 2}/24"), IPv6Interface(f"fd09::{i + 2}/64")
        veth = Veth(f"snv{i}", "snb0", f"eth{i}", f"02:42:0a:09:00:0{i + 2}", 0, four, six, False, False)
        host.run(links.plug, KEY, veth)
    return host


def route(gateway: str, interface: str = "eth0") -> DefaultRoute:
    return DefaultRoute(interface, ip_address(gateway))


def test_lock_free_lookup_survives_repeated_make_and_release(
    host: Host,
) -> None:
    rounds, done = 300, threading.Event()
    seen: set[bool] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(namespaces.find(KEY) is None)

    with ThreadPoolExecutor(2, initializer=host.enter) as threads:
        looking = threads.submit(look)
        for _ in range(rounds):
            threads.submit(namespaces.make, KEY).result()
            threads.submit(namespaces.release, KEY).result()
        done.set()
        looking.result()
    assert seen == {True, False}


def test_new_namespace_is_pinned_with_lo_up(host: Host) -> None:
    made = host.run(namespaces.make, KEY)
    assert made.key == KEY
    assert made.inode == host.inside(KEY, own_inode) == host.run(lambda: os.stat(KEY).st_ino)
    assert made.inode != host.run(own_inode)
    assert made.loopback_was_up is False
    assert loopback_is_up(host, KEY)
    assert host.reaches("127.0.0.1", namespace=KEY)


def test_making_a_namespace_again_returns_the_same_with_lo_up(host: Host) -> None:
    made = host.run(namespaces.make, KEY)
    host.sh("ip", "link", "set", "lo", "down", namespace=KEY)
    assert host.run(namespaces.make, KEY).inode == made.inode
    assert loopback_is_up(host, KEY)


def test_file_left_by_a_crash_before_the_mount_is_reused(host: Host) -> None:
    host.run(os.makedirs, FOLDER)
    host.run(Path(KEY).touch)
    assert host.run(namespaces.find, KEY) is None
    assert host.run(namespaces.make, KEY).inode == host.inside(KEY, own_inode)


@pytest.mark.parametrize("what", ["text", "folder", "symlink", "pipe", "other namespace", "hard link"])
def test_foreign_file_at_the_key_is_a_conflict_and_is_kept(host: Host, what: str) -> None:
    def put() -> None:
        os.makedirs(FOLDER)
        path = Path(KEY)
        if what == "text":
            path.write_text("mine")
        elif what == "folder":
            path.mkdir()
        elif what == "symlink":
            path.symlink_to("/run/victim")
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "hard link":
            path.touch()
            os.link(path, f"{FOLDER}/twin")
        else:
            path.touch()
            subprocess.run(["mount", "--bind", "/proc/self/ns/uts", KEY], check=True)

    host.run(put)
    before = host.run(lambda: os.lstat(KEY).st_ino)
    for verb in (namespaces.make, namespaces.pin, namespaces.release, namespaces.find):
        with pytest.raises(Error) as caught:
            host.run(verb, KEY)
        assert caught.value.kind == Kind.CONFLICT
    assert host.run(lambda: os.lstat(KEY).st_ino) == before
    assert not host.run(Path("/run/victim").exists)


@pytest.mark.parametrize("key", ["/etc/box", FOLDER, f"{FOLDER}/", f"{FOLDER}/../box", f"{FOLDER}//box", "box", ""])
def test_key_outside_the_directory_is_invalid(host: Host, key: str) -> None:
    for verb in (namespaces.make, namespaces.find, namespaces.release):
        with pytest.raises(Error) as caught:
            host.run(verb, key)
        assert caught.value.kind == Kind.INVALID


def test_nested_key_creates_its_directories(host: Host) -> None:
    key = f"{FOLDER}/a/b/box"
    made = host.run(namespaces.make, key)
    assert host.run(namespaces.find, key) == made._replace(loopback_was_up=True)
    assert host.run(lambda: os.stat(f"{FOLDER}/a").st_mode & 0o777) == 0o755


def test_symlink_in_the_key_path_is_a_conflict(host: Host) -> None:
    host.run(os.makedirs, FOLDER)
    host.run(os.makedirs, "/run/elsewhere")
    host.run(os.symlink, "/run/elsewhere", f"{FOLDER}/a")
    with pytest.raises(Error) as caught:
        host.run(namespaces.make, f"{FOLDER}/a/box")
    assert caught.value.kind == Kind.CONFLICT
    assert host.run(os.listdir, "/run/elsewhere") == []


def test_symlinked_base_directory_is_followed(host: Host) -> None:
    host.run(os.makedirs, "/run/elsewhere")
    host.run(os.symlink, "/run/elsewhere", FOLDER)
    host.run(namespaces.make, KEY)
    assert host.run(os.listdir, "/run/elsewhere") == ["box"]


@pytest.mark.parametrize("actual", ["/run/elsewhere", "/run/else where"])
def test_pinned_keys_are_found_below_a_symlinked_base_directory(host: Host, actual: str) -> None:
    host.run(os.makedirs, actual)
    host.run(os.symlink, actual, FOLDER)
    state_reader = LinuxStateReader(namespaces, FOLDER)
    assert host.run(state_reader.pinned) == frozenset()
    host.run(namespaces.make, KEY)
    host.run(namespaces.make, f"{FOLDER}/a/box")
    assert host.run(state_reader.pinned) == {KEY, f"{FOLDER}/a/box"}
    host.run(namespaces.release, KEY)
    assert host.run(state_reader.pinned) == {f"{FOLDER}/a/box"}


def test_unpinned_key_is_found_as_none(host: Host) -> None:
    assert host.run(namespaces.find, KEY) is None
    assert host.run(namespaces.interfaces, KEY) == []
    host.run(namespaces.default_routes, KEY, [])
    host.run(namespaces.release, KEY)


def test_release_removes_file_and_namespace_and_is_idempotent(
    host: Host,
) -> None:
    host.run(namespaces.make, KEY)
    host.run(namespaces.release, KEY)
    assert files(host) == []
    host.run(namespaces.release, KEY)
    assert host.run(namespaces.find, KEY) is None


def test_release_after_a_crash_before_unlink_removes_the_file(host: Host) -> None:
    host.run(namespaces.make, KEY)
    host.sh("umount", KEY)
    host.run(namespaces.release, KEY)
    assert files(host) == []


def test_release_removes_every_stacked_mount(host: Host) -> None:
    host.run(namespaces.make, KEY)
    host.sh("mount", "--bind", "/proc/self/ns/net", KEY)
    host.run(namespaces.release, KEY)
    assert files(host) == []


def test_release_succeeds_with_a_process_inside(host: Host) -> None:
    host.run(namespaces.make, KEY)
    process = host.inside(KEY, host.start_here, "sleep", "60")
    host.run(namespaces.release, KEY)
    assert files(host) == []
    assert process.poll() is None


def test_release_leaves_a_namespace_of_another_identity(host: Host) -> None:
    made = host.run(namespaces.make, KEY)
    host.run(namespaces.release, KEY, inode=made.inode + 1)
    assert host.run(namespaces.find, KEY) is not None
    host.run(namespaces.release, KEY, inode=made.inode)
    assert host.run(namespaces.find, KEY) is None


@pytest.mark.parametrize("way", ["path", "pid"])
def test_pinned_container_is_its_own_namespace_with_lo_up(host: Host, way: str) -> None:
    container = host.container()
    process = container.popen("sleep", "60")
    source: dict[str, Any] = {"path": container.path} if way == "path" else {"pid": process.pid}
    pinned = host.run(namespaces.pin, KEY, **source)
    assert pinned.inode == os.stat(container.path).st_ino == host.run(namespaces.identify, **source).inode
    assert pinned.loopback_was_up is False
    assert loopback_is_up(host, KEY)
    assert host.run(namespaces.pin, KEY, **source).inode == pinned.inode


def test_pinning_reports_that_lo_was_already_up(host: Host) -> None:
    container = host.container()
    host.sh("ip", "link", "set", "lo", "up", namespace=container.path)
    assert host.run(namespaces.pin, KEY, path=container.path).loopback_was_up is True


@pytest.mark.parametrize("down", [True, False])
def test_released_container_keeps_running_with_lo_as_requested(host: Host, down: bool) -> None:
    container = host.container()
    host.run(namespaces.pin, KEY, path=container.path)
    host.run(namespaces.release, KEY, loopback_down=down)
    assert files(host) == []
    assert loopback_is_up(host, container.path) is not down


def test_pinning_without_path_or_pid_pins_our_own_leaving_lo(host: Host) -> None:
    host.sh("ip", "link", "set", "lo", "down")
    pinned = host.run(namespaces.pin, KEY)
    assert pinned.inode == host.run(own_inode) == host.run(namespaces.identify).inode
    assert not loopback_is_up(host, KEY)


def test_pinning_over_another_namespace_raises_conflict(host: Host) -> None:
    made = host.run(namespaces.make, KEY)
    with pytest.raises(Error, match="another namespace") as caught:
        host.run(namespaces.pin, KEY)
    assert caught.value.kind == Kind.CONFLICT
    assert host.inside(KEY, own_inode) == made.inode


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"path": "/run/nothing"}, Kind.NOT_FOUND),
        ({"path": "/etc/passwd/x"}, Kind.NOT_FOUND),
        ({"pid": 4194305}, Kind.NOT_FOUND),
        ({"pid": -1}, Kind.NOT_FOUND),
        ({"path": "/etc/passwd"}, Kind.INVALID),
        ({"path": "/dev/null"}, Kind.INVALID),
        ({"path": "/proc/self/ns/uts"}, Kind.INVALID),
    ],
    ids=str,
)
def test_bad_source_is_refused_and_leaves_nothing(host: Host, source: dict[str, Any], kind: Kind) -> None:
    for job in (lambda: namespaces.pin(KEY, **source), lambda: namespaces.identify(**source)):
        with pytest.raises(Error) as caught:
            host.run(job)
        assert caught.value.kind == kind
    assert files(host) == []


def test_interfaces_are_listed_with_lo(plugged: Host) -> None:
    assert sorted(plugged.run(namespaces.interfaces, KEY)) == ["eth0", "eth1", "lo"]


def test_routes_of_both_families_carry_our_protocol(plugged: Host) -> None:
    plugged.run(namespaces.default_routes, KEY, [route("10.9.0.1"), route("fd09::1")])
    assert defaults(plugged) == [("10.9.0.1", "eth0", OURS)]
    assert defaults(plugged, "-6") == [("fd09::1", "eth0", OURS)]


@pytest.mark.parametrize(("family", "one", "other"), [("-4", "10.9.0.1", "10.9.0.9"), ("-6", "fd09::1", "fd09::9")])
def test_default_route_replaces_our_previous_one(plugged: Host, family: str, one: str, other: str) -> None:
    plugged.run(namespaces.default_routes, KEY, [route(one)])
    for gateway, interface in ((other, "eth0"), (other, "eth1"), (other, "eth1"), (one, "eth1")):
        plugged.run(namespaces.default_routes, KEY, [route(gateway, interface)])
        assert defaults(plugged, family) == [(gateway, interface, OURS)]


@pytest.mark.parametrize(("family", "gateway"), [("-4", "10.9.0.1"), ("-6", "fd09::1")])
def test_correct_route_is_not_rewritten(plugged: Host, family: str, gateway: str) -> None:
    plugged.sh(
        *("ip", family, "route", "add", "default", "via", gateway, "dev", "eth0", "proto", OURS, "mtu", "1300"),
        namespace=KEY,
    )
    plugged.run(namespaces.default_routes, KEY, [route(gateway)])
    assert "mtu 1300" in plugged.sh("ip", family, "route", "show", "default", namespace=KEY)


def test_unwanted_routes_are_removed_one_family_at_a_time(plugged: Host) -> None:
    plugged.run(namespaces.default_routes, KEY, [route("10.9.0.1"), route("fd09::1")])
    plugged.run(namespaces.default_routes, KEY, [route("fd09::1")])
    assert (defaults(plugged), len(defaults(plugged, "-6"))) == ([], 1)
    plugged.run(namespaces.default_routes, KEY, [])
    assert defaults(plugged, "-6") == []


@pytest.mark.parametrize(("family", "theirs", "ours"), [("-4", "10.9.0.8", "10.9.0.1"), ("-6", "fd09::8", "fd09::1")])
def test_foreign_default_route_survives_set_and_unset_of_ours(
    plugged: Host, family: str, theirs: str, ours: str
) -> None:
    plugged.sh("ip", family, "route", "add", "default", "via", theirs, "dev", "eth0", "proto", "static", namespace=KEY)
    plugged.run(namespaces.default_routes, KEY, [route(ours)])
    assert defaults(plugged, family) == [(theirs, "eth0", "static")]
    plugged.run(namespaces.default_routes, KEY, [])
    assert defaults(plugged, family) == [(theirs, "eth0", "static")]


def test_route_without_namespace_or_interface_is_not_found(plugged: Host) -> None:
    for key, wanted in ((f"{FOLDER}/nothing", route("10.9.0.1")), (KEY, route("10.9.0.1", "eth7"))):
        with pytest.raises(Error) as caught:
            plugged.run(namespaces.default_routes, key, [wanted])
        assert caught.value.kind == Kind.NOT_FOUND


def test_unreachable_gateway_returns_the_kernel_message(plugged: Host) -> None:
    with pytest.raises(Error, match="Nexthop has invalid gateway"):
        plugged.run(namespaces.default_routes, KEY, [route("192.0.2.1")])


def test_path_by_another_name_of_the_directory_is_a_key(host: Host) -> None:
    host.run(os.makedirs, FOLDER, exist_ok=True)
    host.run(os.symlink, FOLDER, "/run/other-name")
    assert host.run(namespaces.key_of, "/run/other-name/box") == KEY
    for path in (KEY, "/run/elsewhere/box", f"{FOLDER}/deeper/box", "/run/absent/box"):
        assert host.run(namespaces.key_of, path) == path
