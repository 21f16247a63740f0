"""What is interrupted: pairs of calls that undo each other, each on a host made ready for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import NamedTuple

from tests.crash.coverage import interrupts
from tests.crash.daemon_case import CrashDaemon
from tests.support.daemon import JSON, mapping
from tests.support.network_host import Container
from tests.support.traffic import UDP

Call = Callable[[], object]


class Stage(NamedTuple):
    """A host made ready, and what is done on it."""

    forth: Call
    """The call that is interrupted."""
    back: Call
    """Undoes it, and is interrupted too."""
    theirs: Sequence[str] = ()
    """Paths of namespaces that are not ours."""
    ports: Sequence[tuple[int, int]] = ()
    """Socket types and host ports that come and go."""
    back_is_one: bool = True
    """Whether ``back`` is one call, which is wholly done or not."""
    differs: bool = True
    """Whether the host is another one when it is done: not after a repair."""
    twice: bool = True
    """Whether the start after a death is interrupted too, where it does what no start did before; else that is left to
    the thorough mode."""


Setting = Callable[[CrashDaemon], Stage]

FOO: dict[str, JSON] = {"subnet": "10.9.1.0/24", "ipv6": True, "subnet_ipv6": "fd00:9:1::/64"}
BAR: dict[str, JSON] = {"subnet": "10.9.2.0/24", "icc": False}
MORE = ["10.9.1.50", "fd00:9:1::50"]
PORTS = (mapping(80, 8080), mapping(53, 5353, UDP))
HELD = ((SOCK_STREAM, 8080), (SOCK_DGRAM, 5353))


@interrupts("POST /networks", "DELETE /networks/{network}")
def network(daemon: CrashDaemon) -> Stage:
    """IPv4, made by us."""
    return Stage(partial(daemon.api.network, "foo", subnet="10.9.1.0/24"), partial(daemon.api.delete, "/networks/foo"))


def network_ipv6(daemon: CrashDaemon) -> Stage:
    """The second network with IPv6: parameters of the host are as they should be already."""
    daemon.api.network("first", ipv6=True, subnet="10.9.3.0/24", subnet_ipv6="fd00:9:3::/64")
    return Stage(partial(daemon.api.network, "foo", **FOO), partial(daemon.api.delete, "/networks/foo"))


def network_named(daemon: CrashDaemon) -> Stage:
    """A bridge of a name of the caller's."""
    forth = partial(daemon.api.network, "foo", subnet="10.9.1.0/24", bridge_name="mine0")
    return Stage(forth, partial(daemon.api.delete, "/networks/foo"))


def network_adopted(daemon: CrashDaemon) -> Stage:
    """On a bridge that was there before, with an address of its own."""
    daemon.host.sh("ip", "link", "add", "theirs0", "type", "bridge")
    daemon.host.sh("ip", "address", "add", "10.9.1.1/24", "dev", "theirs0")
    daemon.stack.callback(daemon.host.sh, "ip", "link", "delete", "theirs0")
    forth = partial(daemon.api.network, "foo", bridge_name="theirs0", ipv6=True, subnet_ipv6="fd00:9:1::/64")
    return Stage(forth, partial(daemon.api.delete, "/networks/foo"))


@interrupts("PATCH /networks/{network}")
def network_changed(daemon: CrashDaemon) -> Stage:
    """The MTU of a bridge and of links, the search domains in files, and labels."""
    daemon.api.network("foo", subnet="10.9.1.0/24", mtu=1400, dns_search=["a.example"])
    daemon.api.endpoint("foo", "web")
    daemon.api.join("foo", "web", "c1")
    change = partial(daemon.api.patch, "/networks/foo")
    return Stage(
        partial(change, options={"mtu": 1300, "dns_search": ["b.example"]}, labels={"a": "b"}),
        partial(change, options={"mtu": 1400, "dns_search": ["a.example"]}, labels={}),
        twice=False,
    )


@interrupts(
    "POST /networks/{network}/endpoints",
    "DELETE /networks/{network}/endpoints/{endpoint}",
)
def endpoint(daemon: CrashDaemon) -> Stage:
    """With published ports, beside a neighbour whose hosts file knows it."""
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "peer")
    daemon.api.join("foo", "peer", "neighbour")
    forth = partial(daemon.api.endpoint, "foo", "web", *PORTS, aliases=["www"])
    return Stage(forth, partial(daemon.api.delete, "/networks/foo/endpoints/web"), ports=HELD)


def endpoint_routed(daemon: CrashDaemon) -> Stage:
    """Its ports are open at its own address, and none of the host is bound."""
    daemon.api.network("foo", **FOO, routed_ipv4=True, routed_ipv6=True)
    forth = partial(daemon.api.endpoint, "foo", "web", *PORTS)
    return Stage(forth, partial(daemon.api.delete, "/networks/foo/endpoints/web"))


def join_configured(daemon: CrashDaemon) -> Stage:
    """With a name, limits, additional addresses, routes and parameters of the interface."""
    daemon.api.network("foo", **FOO)
    rates = {"ingress_rate": 10_000_000, "egress_rate": 10_000_000}
    daemon.api.endpoint("foo", "web", bandwidth=rates, additional_addresses=MORE)
    options = {
        "interface": "wan0",
        "routes": [{"destination": "10.77.0.0/16", "gateway": "10.9.1.7"}],
        "sysctls": {"net.ipv4.conf.IFNAME.rp_filter": 2},
    }
    return Stage(*_joining(daemon, "foo", "web", "c1", **options))


def endpoint_without_ports(daemon: CrashDaemon) -> Stage:
    """Nothing of it is in the kernel."""
    daemon.api.network("foo", **FOO)
    forth = partial(daemon.api.endpoint, "foo", "web", additional_addresses=MORE)
    return Stage(forth, partial(daemon.api.delete, "/networks/foo/endpoints/web"))


@interrupts("POST /services", "DELETE /services/{service}")
def service(daemon: CrashDaemon) -> Stage:
    """The same by the other URL."""
    daemon.api.network("foo", **FOO)
    forth = partial(daemon.api.post, "/services", name="web", network_name="foo", port_mapping=[*PORTS])
    return Stage(forth, partial(daemon.api.delete, "/services/web"), ports=HELD)


@interrupts(
    "POST /networks/{network}/endpoints/{endpoint}/containers",
    "DELETE /networks/{network}/endpoints/{endpoint}/containers/{container}",
)
def join_made(daemon: CrashDaemon) -> Stage:
    """In a namespace made for the container, on an endpoint with published ports."""
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "web", *PORTS)
    return Stage(
        *_joining(daemon, "foo", "web", "c1", host_name="www", extra_hosts=[{"name": "db", "address": "10.9.9.9"}]),
        ports=HELD,
    )


def join_path(daemon: CrashDaemon) -> Stage:
    """In a namespace that was there, by its path; its ``lo`` is down."""
    theirs = daemon.host.container()
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "web")
    return Stage(*_joining(daemon, "foo", "web", "c1", netns=theirs.path), theirs=[theirs.path])


def join_pid(daemon: CrashDaemon) -> Stage:
    """In the namespace of a process; its ``lo`` is up and it has an interface of its own."""
    theirs = daemon.host.container()
    for words in (["link", "set", "lo", "up"], ["link", "add", "eth0", "type", "veth", "peer", "name", "other"]):
        daemon.host.sh("ip", *words, namespace=theirs.path)
    process = _process_in(daemon, theirs)
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("bar", "web")
    return Stage(*_joining(daemon, "bar", "web", "c1", pid=process.pid), theirs=[theirs.path])


def join_second(daemon: CrashDaemon) -> Stage:
    """A second network in one sandbox, which takes the default route."""
    daemon.api.network("foo", **FOO)
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("foo", "web")
    daemon.api.endpoint("bar", "web2")
    daemon.api.join("foo", "web", "c1")
    return Stage(*_joining(daemon, "bar", "web2", "c1", gateway_priority=5))


def join_second_path(daemon: CrashDaemon) -> Stage:
    """A second network in a sandbox whose namespace is another program's."""
    theirs = daemon.host.container()
    daemon.api.network("foo", **FOO)
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("foo", "web")
    daemon.api.endpoint("bar", "web2")
    daemon.api.join("foo", "web", "c1", netns=theirs.path)
    return Stage(*_joining(daemon, "bar", "web2", "c1"), theirs=[theirs.path])


def join_host(daemon: CrashDaemon) -> Stage:
    """On the host's own network."""
    daemon.api.endpoint("host", "app")
    return Stage(*_joining(daemon, "host", "app", "c1"))


def join_none(daemon: CrashDaemon) -> Stage:
    """With nothing but ``lo``, its files at paths of the caller's."""
    daemon.api.endpoint("none", "app")
    paths = {"hosts_path": f"{daemon.files}/c1/hosts", "resolv_conf_path": f"{daemon.files}/c1/resolv.conf"}
    return Stage(*_joining(daemon, "none", "app", "c1", **paths))


def join_over_files(daemon: CrashDaemon) -> Stage:
    """Its files at paths at which others have files: these are set aside, and given back."""
    daemon.api.endpoint("none", "app")
    folder = daemon.files / "engine"
    folder.mkdir(exist_ok=True)
    daemon.stack.callback(shutil.rmtree, folder)
    for name in ("hosts", "resolv.conf"):
        (folder / name).write_text(f"their {name}")
        (folder / name).chmod(0o640)
    paths = {"hosts_path": f"{folder}/hosts", "resolv_conf_path": f"{folder}/resolv.conf"}
    return Stage(*_joining(daemon, "none", "app", "c1", **paths))


def join_tap(daemon: CrashDaemon) -> Stage:
    """A virtual machine, which gets a tap on the host."""
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("bar", "web")
    options: JSON = {"queues": 2}
    return Stage(*_joining(daemon, "bar", "web", "c1", type="tap", tap=options), twice=False)


def join_parents(daemon: CrashDaemon) -> Stage:
    """Another container receives a name of the one that joins; leaving does not take it back."""
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "peer")
    daemon.api.endpoint("foo", "web")
    daemon.api.join("foo", "peer", "neighbour")
    ident = daemon.api.reported("foo", "peer")["id"]
    updates = [{"endpoint_id": ident, "name": "www", "address": "10.9.1.77"}]
    forth, back = _joining(daemon, "foo", "web", "c1", parent_updates=updates)

    def back_and_forget() -> None:
        back()
        daemon.api.leave("foo", "peer", "neighbour")
        daemon.api.join("foo", "peer", "neighbour")

    return Stage(forth, back_and_forget, back_is_one=False)


@interrupts("POST /services/{service}/backend", "DELETE /services/{service}/backend/{container}")
def second_backend(daemon: CrashDaemon) -> Stage:
    """One more container behind a service, and its leave."""
    _serve(daemon, "c1")
    forth = partial(daemon.api.post, "/services/web/backend", container_id="c2")
    return Stage(forth, partial(daemon.api.delete, "/services/web/backend/c2"), ports=HELD)


def holder_leaves(daemon: CrashDaemon) -> Stage:
    """The one that answers for the service's address goes."""
    _serve(daemon, "c1", "c2", "c3")

    def back() -> None:
        for container in ("c3", "c2"):
            daemon.api.delete(f"/services/web/backend/{container}")
        for container in ("c1", "c2", "c3"):
            daemon.api.post("/services/web/backend", container_id=container)

    return Stage(partial(daemon.api.delete, "/services/web/backend/c1"), back, ports=HELD, back_is_one=False)


@interrupts("PATCH /services/{service}", "PATCH /networks/{network}/endpoints/{endpoint}")
def limited(daemon: CrashDaemon) -> Stage:
    """The limits of a container in use change, and are lifted in one direction."""
    daemon.api.network("foo", **FOO)
    daemon.api.endpoint("foo", "web", bandwidth={"egress_rate": 10_000_000})
    daemon.api.join("foo", "web", "c1")
    forth = partial(daemon.api.patch, "/services/web", bandwidth={"ingress_rate": 20_000_000})
    back = partial(daemon.api.patch, "/networks/foo/endpoints/web", bandwidth={"egress_rate": 10_000_000})
    return Stage(forth, back, twice=False)


@interrupts("PATCH /services/{service}/backend/{container}")
def drained(daemon: CrashDaemon) -> Stage:
    """A backend takes no more flows, and takes them again."""
    _serve(daemon, "c1", "c2")
    path = "/services/web/backend/c2"
    return Stage(partial(daemon.api.patch, path, state="drained"), partial(daemon.api.patch, path, state="active"))


@interrupts("POST /cni/add", "POST /cni/del")
def runtime_attachment(daemon: CrashDaemon) -> Stage:
    """An endpoint with a published port and its join, in one request of a container runtime."""
    theirs = daemon.host.container()
    daemon.api.network("bar", **BAR)
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    forth = partial(daemon.api.cni, "add", "bar", "c1", theirs.path, runtimeConfig=ports)
    back = partial(daemon.api.cni, "del", "bar", "c1", "")
    return Stage(forth, back, theirs=[theirs.path], twice=False)


@interrupts("POST /v1.55/networks/{network}/connect", "POST /v1.55/networks/{network}/disconnect")
def docker_connection(daemon: CrashDaemon) -> Stage:
    """An endpoint with its join, for a container that is on another network."""
    daemon.api.network("foo", **FOO)
    daemon.api.network("bar", **BAR)
    daemon.api.endpoint("foo", "web")
    daemon.api.join("foo", "web", "c1")
    path = "/v1.55/networks/bar"
    forth = partial(daemon.api.post, f"{path}/connect", Container="c1")
    return Stage(forth, partial(daemon.api.post, f"{path}/disconnect", Container="c1"), twice=False)


SETTINGS: tuple[Setting, ...] = (
    network, network_ipv6, network_named, network_adopted, network_changed, endpoint, endpoint_routed,
    endpoint_without_ports, service, join_made, join_path, join_pid, join_second, join_second_path, join_host,
    join_none, join_over_files, join_tap, join_configured, join_parents, second_backend, holder_leaves, drained,
    limited, runtime_attachment, docker_connection,
)  # fmt: skip


NAMED: tuple[Setting, ...] = (endpoint, second_backend)
"""Those that are done with a resolver too."""


def _joining(daemon: CrashDaemon, network: str, endpoint: str, container: str, **how: JSON) -> tuple[Call, Call]:
    forth = partial(daemon.api.join, network, endpoint, container, **how)
    return forth, partial(daemon.api.leave, network, endpoint, container)


def _serve(daemon: CrashDaemon, *containers: str) -> None:
    daemon.api.network("foo", **FOO)
    daemon.api.post("/services", name="web", network_name="foo", port_mapping=[*PORTS])
    for container in containers:
        daemon.api.post("/services/web/backend", container_id=container)


def _process_in(daemon: CrashDaemon, container: Container) -> subprocess.Popen[str]:
    return container.popen("sleep", "infinity")
