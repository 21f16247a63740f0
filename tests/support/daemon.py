"""A host with a real daemon on it, and another machine beside it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpcore
import httpx
from httpcore._backends.sync import SyncStream

from sandnet.firewall.balancing import hash_seeds
from sandnet.kernel.types import PREPARED
from tests.support.network_host import Host, eventually
from tests.support.traffic import TCP, Place

SANDNET = Path(sys.executable).with_name("sandnet")
PREDEFINED = ["none", "host", "bridge"]
HOST_ADDRESS, HOST_ADDRESS6 = "198.51.100.1", "2001:db8:1::1"
OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6 = "198.51.100.2", "2001:db8:1::2"
RESOLV_CONF = "nameserver 198.51.100.53\nnameserver 2001:db8:1::53\nsearch example.org\noptions ndots:2\n"
LOCAL_HOSTS = [
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
]
"""Lines that every hosts file has."""
START = 40.0
"""Seconds a daemon may take to serve (it takes about one)."""
LEARNED = re.compile(r"\n\s*elements = \{[^}]*(?:expires|ct count)[^}]*\}")
"""Elements that rules have added from traffic, and forget by themselves."""
_SECRET = re.compile(rf"set {hash_seeds.SEED_SET} \{{[^}}]*elements = \{{ (\S+) \}}")
JSON = Any
"""A decoded answer: tests look into it without ceremony."""


class RefusedError(AssertionError):
    """The daemon answered with another status than 200."""

    def __init__(self, method: str, path: str, response: httpx.Response) -> None:
        super().__init__(f"{method} {path}: {response.status_code} {response.text}")
        self.status = response.status_code
        self.body: JSON = response.json() if response.content else None
        reported = self.body.get("message", self.body.get("msg")) if isinstance(self.body, dict) else None
        self.message = str(reported or response.text)
        self.code = str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


def is_possible(change: Callable[[], object]) -> bool:
    """Whether a change is not refused."""
    try:
        change()
    except RefusedError:
        return False
    return True


class _Sockets(httpcore.SyncBackend):
    """Closes those that cannot be connected, as when the daemon is killed just then: httpcore leaves it to the garbage
    collector, and Python warns of that in whichever test runs when it comes by."""

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: object = None
    ) -> httpcore.NetworkStream:
        own = socket.socket(socket.AF_UNIX)
        try:
            own.settimeout(timeout)
            own.connect(path)
        except OSError as failure:
            own.close()
            raise httpcore.ConnectError(str(failure)) from failure
        return SyncStream(own)


class Api:
    """The daemon's REST interface on its Unix socket."""

    def __init__(self, path: Path) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        transport = httpx.HTTPTransport(uds=str(path), limits=limits)
        transport._pool._network_backend = _Sockets()
        self.http = httpx.Client(transport=transport, base_url="http://sandnet", timeout=40)

    def get(self, path: str, **query: str) -> JSON:
        return self._call("GET", path, params=query or None)

    def post(self, path: str, **body: JSON) -> JSON:
        return self._call("POST", path, json=body)

    def patch(self, path: str, **body: JSON) -> None:
        self._call("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def _call(self, method: str, path: str, **how: JSON) -> JSON:
        response = self.http.request(method, path, **how)
        if response.status_code != 200:
            raise RefusedError(method, path, response)
        return response.json() if response.content else None

    def network(self, name: str, driver: str = "", **options: JSON) -> str:
        """Create a network; its id."""
        return str(self.post("/networks", name=name, network_type=driver, options=options))

    def endpoint(self, network: str, name: str, *ports: JSON, **more: JSON) -> str:
        """Create an endpoint with published ports; its id."""
        return str(self.post(f"/networks/{network}/endpoints", name=name, port_mapping=list(ports), **more))

    def join(self, network: str, endpoint: str, container: str, **more: JSON) -> str:
        """Join a container; its sandbox key."""
        path = f"/networks/{network}/endpoints/{quote(endpoint, safe='')}/containers"
        return str(self.post(path, container_id=container, **more))

    def leave(self, network: str, endpoint: str, container: str) -> None:
        self.delete(f"/networks/{network}/endpoints/{quote(endpoint, safe='')}/containers/{container}")

    def cni(self, command: str, network: str, container: str, netns: str, **more: JSON) -> JSON:
        """What the CNI plugin requests of the daemon; the result."""
        query = {"container": container, "netns": netns, "ifname": "eth0"}
        configuration = {"cniVersion": "1.1.0", "name": network, **more}
        return self._call("POST", f"/cni/{command}", params=query, json=configuration)

    def reported(self, network: str, endpoint: str = "") -> JSON:
        """All that is known of a network or an endpoint."""
        tail = f"/endpoints/{quote(endpoint, safe='')}" if endpoint else ""
        return self.get(f"/networks/{network}{tail}", verbose="true")

    def clear(self) -> None:
        """Remove everything but the predefined networks."""
        for sandbox in self.get("/sandboxes", verbose="true"):
            for interface in sandbox["interfaces"]:
                self.leave(interface["network"], interface["endpoint"], sandbox["id"])
        for service in self.get("/services"):
            self.delete(f"/services/{service['id']}")
        for network in self.get("/networks"):
            if network["name"] not in PREDEFINED:
                self.delete(f"/networks/{network['id']}")


class Sandbox(Place):
    """A container attached to one endpoint."""

    network: str
    endpoint: str
    container: str
    key: str
    address: str
    address6: str
    mac: str
    host_ports: list[int]


class Facts(NamedTuple):
    """What stands in the host's kernel, as text that can be compared."""

    links: tuple[str, ...]
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    rules: tuple[str, ...]
    mounts: tuple[str, ...]
    files: tuple[str, ...]
    sysctls: tuple[str, ...]


class RunningDaemon:
    """The host, the daemon on it, and the outside.

    Args:
        folder: where the daemon keeps its files.
        dns: whether a resolver answers names; without one, they stand in hosts files.
    """

    def __init__(self, folder: Path, *, dns: bool = True) -> None:
        self.folder, self.dns = folder, dns
        self.state, self.run, self.netns, self.files = (folder / name for name in ("state", "run", "netns", "files"))
        self.stack = ExitStack()
        """Closed at the end of each test: its sockets and servers."""
        self.host = Host()
        self.here = Place(self.host, self.stack)
        self._prepare()
        self.outside = self._connect_outside()
        self.process: subprocess.Popen[bytes] | None = None
        self.before = self.facts()
        self.api = Api(self.run / "sandnet.sock")

    def _prepare(self) -> None:
        self.files.mkdir(parents=True)
        (self.folder / "config.toml").write_text(f'file_dirs = ["{self.files}"]\ndns = {str(self.dns).lower()}\n')
        resolv_conf = self.folder / "host-resolv.conf"
        resolv_conf.write_text(RESOLV_CONF)
        self.host.sh("mount", "--bind", str(resolv_conf), "/etc/resolv.conf")

    def _connect_outside(self) -> Place:
        machine = self.host.container()
        sh = self.host.sh
        sh("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", machine.path)
        for link, namespace, v4, v6 in (
            ("uplink", "", HOST_ADDRESS, HOST_ADDRESS6),
            ("eth0", machine.path, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6),
        ):
            sh("sysctl", "-qw", f"net.ipv6.conf.{link}.accept_dad=0", namespace=namespace)
            sh("ip", "address", "add", f"{v4}/24", "dev", link, namespace=namespace)
            sh("ip", "address", "add", f"{v6}/64", "dev", link, "nodad", namespace=namespace)
            sh("ip", "link", "set", link, "up", namespace=namespace)
        sh("ip", "route", "add", "default", "via", HOST_ADDRESS, namespace=machine.path)
        sh("ip", "-6", "route", "add", "default", "via", HOST_ADDRESS6, namespace=machine.path)
        sh("sysctl", "-qw", "net.ipv6.conf.uplink.keep_addr_on_down=1")
        return Place(self.host, self.stack, machine.path)

    # The daemon.

    @property
    def directories(self) -> list[str]:
        """Options of the daemon and of ``down``."""
        config = self.folder / "config.toml"
        return [
            f"--state-dir={self.state}", f"--run-dir={self.run}", f"--sandbox-dir={self.netns}", f"--config={config}",
        ]  # fmt: skip

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, *options: str, through: Sequence[str] = ()) -> None:
        """Start the daemon and wait until it serves.

        Args:
            options: further ones.
            through: the words of a command that becomes the daemon.
        """
        with (self.folder / "log").open("wb") as log:
            command = [*through, str(SANDNET), "daemon", *self.directories, *options]
            self.process = self.host.run(lambda: subprocess.Popen(command, stdout=log, stderr=log))
        eventually(lambda: "sandnet: ready" in self.log or not self.is_running(), START)
        assert self.is_running(), self.log

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self.process
        self.process.terminate()
        assert self.process.wait(40) == 0, self.log

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self.process
        self.process.kill()
        self.process.wait(40)

    def down(self) -> None:
        """``sandnet down`` with the daemon's directories."""
        self.host.sh(str(SANDNET), "down", *self.directories)

    def resolvers(self) -> list[int]:
        """Processes that answer names for this daemon."""
        return [pid for pid, words in processes() if b"sandnet.resolver" in words and str(self.run).encode() in words]

    def preparers(self) -> list[int]:
        """Processes that prepare sandboxes for this daemon."""
        assert self.process
        return [pid for pid, words in processes() if b"sandnet.preparer" in words and _parent(pid) == self.process.pid]

    def kill_resolvers(self) -> None:
        """SIGKILL, and wait."""
        for pid in self.resolvers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.resolvers())

    def dhcp_clients(self) -> list[int]:
        """DHCP clients that this daemon has started: their current directories are below its own."""
        found = []
        for pid, words in processes():
            with suppress(OSError):
                if words[0] == b"udhcpc" and os.readlink(f"/proc/{pid}/cwd").startswith(str(self.run)):
                    found.append(pid)
        return found

    def kill_dhcp_clients(self) -> None:
        """SIGKILL, and wait."""
        for pid in self.dhcp_clients():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.dhcp_clients())

    def cli(self, *words: str) -> str:
        """The output of the command line, run on the host."""
        return self.host.sh(str(SANDNET), "-H", f"unix://{self.run}/sandnet.sock", *words)

    def close(self) -> None:
        self.stack.close()
        self.api.http.close()
        if self.is_running():
            self.kill()
        self.kill_resolvers()
        self.kill_dhcp_clients()
        self.host.close()

    # What tests make.

    def place(self, key: str) -> Place:
        """A namespace of the host, by path."""
        return Place(self.host, self.stack, key)

    def sandbox(self, network: str, name: str, *ports: JSON, join: JSON = None, **more: JSON) -> Sandbox:
        """A new endpoint with a new container attached."""
        self.api.endpoint(network, name, *ports, **more)
        return self.attach(network, name, secrets.token_hex(32), **(join or {}))

    def attach(self, network: str, name: str, container: str, **join: JSON) -> Sandbox:
        """A container attached to an endpoint there is."""
        key = self.api.join(network, name, container, **join)
        reported = self.api.reported(network, name)
        sandbox = Sandbox(self.host, self.stack, key)
        sandbox.network, sandbox.endpoint, sandbox.container, sandbox.key = network, name, container, key
        sandbox.address = (reported["address"] or "").partition("/")[0]
        sandbox.address6 = (reported["address_ipv6"] or "").partition("/")[0]
        sandbox.mac = reported["mac"]
        sandbox.host_ports = [port["host_port"] for port in reported["port_mapping"]]
        return sandbox

    # What stands in the kernel.

    def links(self) -> list[str]:
        """Names of the host's links; while the daemon runs, without those of its pool, which come and go."""
        running = self.is_running()
        return [name for name, group in self._links().items() if not (running and group == PREPARED)]

    def prepared(self) -> set[str]:
        """Names of the links of sandboxes that are prepared and not in use."""
        return {name for name, group in self._links().items() if group == PREPARED}

    def _links(self) -> dict[str, int]:
        """Groups of the host's links, by name; 0: one with a name (ip-link(8))."""
        found = json.loads(self.host.sh("ip", "-j", "link"))
        return {link["ifname"]: int(link["group"]) if link["group"].isdecimal() else 0 for link in found}

    def our_links(self) -> list[str]:
        """Those that bear our mark and are alive."""
        return [name for name in self.links() if name.startswith("sn")]

    def pinned(self) -> list[str]:
        """Paths of the namespaces pinned below the sandbox directory."""
        table = self.host.run(Path("/proc/thread-self/mountinfo").read_text)
        found = [line.split()[4] for line in table.splitlines()]
        return sorted(path for path in found if path.startswith(f"{self.netns}/"))

    def facts(self) -> Facts:
        """All of it, without what changes by itself."""
        sh = self.host.sh
        addresses = json.loads(sh("ip", "-j", "address"))
        flat = [
            f"{link['ifname']} {a['local']}/{a['prefixlen']}"
            for link in addresses
            for a in link["addr_info"]
            if not a["local"].startswith("fe80:")
        ]
        routes = sh("ip", "route").splitlines() + sh("ip", "-6", "route").splitlines()
        routes = [route for route in routes if not route.startswith(("fe80:", "multicast"))]
        return Facts(
            links=tuple(sorted(self.links())),
            addresses=tuple(sorted(flat)),
            routes=tuple(sorted(re.sub(r" linkdown| dead", "", route).strip() for route in routes)),
            rules=tuple(blocks(unseeded(LEARNED.sub("", sh("nft", "list", "ruleset"))))),
            mounts=tuple(self.pinned()),
            files=tuple(sorted(str(path) for place in (self.netns, self.run / "sandboxes", self.files)
                               for path in place.rglob("*"))),
            sysctls=tuple(sh("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding",
                             "net.ipv4.conf.all.route_localnet", "net.ipv6.conf.uplink.accept_ra").splitlines()),
        )  # fmt: skip


def blocks(ruleset: str) -> list[str]:
    """The maps, sets and chains of a ruleset, sorted: their order changes when one is deleted and made again."""
    found = []
    for table in re.split(r"^(?=table )", ruleset, flags=re.MULTILINE):
        head, _, body = table.rstrip().removesuffix("}").partition("\n")
        found += [f"{head} {block.rstrip()}" for block in re.split(r"^(?=\t\w)", body, flags=re.MULTILINE)]
    return sorted(found)


def unseeded(ruleset: str) -> str:
    """Name the secret of load balancing and the seeds that come from it: they change when their table is removed."""
    for secret in _SECRET.findall(ruleset):
        ruleset = ruleset.replace(secret, "<secret>")
        for name in hash_seeds.PLACEHOLDERS:
            ruleset = ruleset.replace(f"seed {hash_seeds.seed(IPv6Address(secret), name)} ", f"seed <{name}> ")
    return ruleset


def mapping(port: int, host_port: int = 0, proto: int = TCP, **more: JSON) -> JSON:
    """A port mapping of a request."""
    return {"proto": proto, "port": port, "host_port": host_port, **more}


def _parent(pid: int) -> int:
    """Number of the parent process; 0: the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def processes() -> list[tuple[int, list[bytes]]]:
    """All processes of the machine, each with the words of its command line."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):
            found.append((pid, Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")))
    return found


def ids(objects: Sequence[JSON]) -> list[str]:
    return [each["id"] for each in objects]


def state_of(place: Place) -> list[JSON]:
    """Links, addresses and routes of a namespace, without what changes by itself."""
    reported = [
        (link["ifname"], sorted(link["flags"]), link["mtu"], link.get("address"),
         sorted(a["local"] for a in link["addr_info"] if not a["local"].startswith("fe80:")))
        for link in json.loads(place.sh("ip", "-j", "address"))
    ]  # fmt: skip
    ipv6 = [line for line in place.sh("ip", "-6", "route").splitlines() if not line.startswith("fe80:")]
    return [reported, place.sh("ip", "route").splitlines(), ipv6]


def files_of(daemon: RunningDaemon, container: str) -> tuple[list[str], str]:
    """The lines of a sandbox's hosts file, and its resolv.conf."""
    reported = daemon.api.get(f"/sandboxes/{container}", verbose="true")
    return Path(reported["hosts_path"]).read_text().splitlines(), Path(reported["resolv_conf_path"]).read_text()
