"""Messages of Docker's Engine API about networks and about the daemon (docs.docker.com, Engine API 1.40 to 1.55).

Field names are Go's. Clients send ``null`` for what is absent, and newer ones send more fields: unknown ones are
ignored, and every field of a request has a default.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

_WORDS: Final = {"id": "ID", "ip": "IP", "ipam": "IPAM", "ipv4": "IPv4", "ipv6": "IPv6", "os": "OS", "ncpu": "NCPU"}


def go_name(name: str) -> str:
    """Return a field's name as Go's structures have it: ``EnableIPv6`` for ``enable_ipv6``."""
    return "".join(_WORDS.get(word, word.capitalize()) for word in name.split("_"))


class _Message(Struct, kw_only=True, rename=go_name):
    """Part of a message."""


# Requests.


class IpamPool(_Message, kw_only=True, omit_defaults=True):
    """A subnet of a network, in requests and answers."""

    subnet: str | None = None
    ip_range: str | None = field(name="IPRange", default=None)
    gateway: str | None = None
    auxiliary_addresses: dict[str, str] | None = None
    """Addresses that no container gets, by name."""


class IpamRequest(_Message, kw_only=True):
    """The address management of a network that is requested."""

    driver: str | None = None
    options: dict[str, str] | None = None
    config: list[IpamPool] | None = None


class ConfigReference(_Message, kw_only=True):
    """A network whose configuration another one has."""

    network: str | None = ""


class CreateRequest(_Message, kw_only=True):
    """Body of ``POST /networks/create``."""

    name: str | None = None
    driver: str | None = None
    scope: str | None = None
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    ipam: IpamRequest | None = None
    internal: bool | None = None
    attachable: bool | None = None
    ingress: bool | None = None
    config_only: bool | None = None
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class EndpointIpam(_Message, kw_only=True):
    """The addresses that a container requests."""

    ipv4_address: str | None = None
    ipv6_address: str | None = None
    link_local_ips: list[str] | None = field(name="LinkLocalIPs", default=None)


class EndpointSettings(_Message, kw_only=True):
    """How a container is connected."""

    ipam_config: EndpointIpam | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str | None = None
    driver_opts: dict[str, str] | None = None
    gw_priority: int | None = None


class ConnectRequest(_Message, kw_only=True):
    """Body of ``POST /networks/{id}/connect``."""

    container: str | None = None
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(_Message, kw_only=True):
    """Body of ``POST /networks/{id}/disconnect``."""

    container: str | None = None
    force: bool | None = None


# Answers.


class EngineFailure(Struct):
    """Body of every error answer."""

    message: str


class Created(_Message, kw_only=True):
    """A network was created."""

    id: str = field(name="Id")
    warning: str = ""


class NetworkIpam(_Message, kw_only=True):
    """The address management of a network."""

    driver: str
    options: dict[str, str]
    config: list[IpamPool]


class ConnectedContainer(_Message, kw_only=True):
    """A container on a network."""

    name: str
    endpoint_id: str
    mac_address: str
    ipv4_address: str
    ipv6_address: str


class SubnetStatus(_Message, kw_only=True):
    """The use of a subnet's addresses."""

    ips_in_use: int = field(name="IPsInUse")
    """Addresses that are allocated or reserved, at most 2^64 - 1."""
    dynamic_ips_available: int = field(name="DynamicIPsAvailable")
    """Addresses of the range that can be allocated, at most 2^64 - 1."""


class IpamStatus(_Message, kw_only=True):
    """The use of all subnets."""

    subnets: dict[str, SubnetStatus]


class NetworkStatus(_Message, kw_only=True):
    """The state of a network."""

    ipam: IpamStatus


class NetworkSummary(_Message, kw_only=True):
    """A network in a list."""

    name: str
    id: str = field(name="Id")
    created: str
    scope: str
    driver: str
    enable_ipv4: bool
    enable_ipv6: bool
    ipam: NetworkIpam
    internal: bool
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    config_only: bool = False
    containers: dict[str, ConnectedContainer] = {}
    """Empty in lists."""
    options: dict[str, str]
    labels: dict[str, str]


class NetworkDetails(NetworkSummary, kw_only=True):
    """A network with its containers."""

    status: NetworkStatus


class Pruned(_Message, kw_only=True):
    """The names of networks that were removed."""

    networks_deleted: list[str]


class Component(_Message, kw_only=True):
    """A part of the daemon, with its version."""

    name: str
    version: str
    details: dict[str, str]


class Platform(_Message, kw_only=True):
    """The name of the product."""

    name: str


class EngineVersion(_Message, kw_only=True):
    """Answer of ``GET /version``."""

    platform: Platform
    components: list[Component]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = field(name="Os")
    arch: str
    kernel_version: str
    build_time: str = ""


class Plugins(_Message, kw_only=True):
    """The drivers."""

    volume: list[str] = []
    network: list[str]
    authorization: list[str] = []
    log: list[str] = []


class Swarm(_Message, kw_only=True):
    """The cluster, of which there is none."""

    node_id: str = ""
    local_node_state: str = "inactive"


class EngineInfo(_Message, kw_only=True):
    """Answer of ``GET /info``: what a daemon without containers and images has."""

    id: str
    name: str
    server_version: str
    operating_system: str
    os_type: str = field(name="OSType", default="linux")
    architecture: str
    kernel_version: str
    ncpu: int
    mem_total: int
    containers: int
    containers_running: int
    containers_paused: int = 0
    containers_stopped: int = 0
    images: int = 0
    driver: str = "none"
    driver_status: list[list[str]] = []
    plugins: Plugins
    swarm: Swarm = field(default_factory=Swarm)
    security_options: list[str] = []
    labels: list[str] = []
    warnings: list[str]
    experimental_build: bool = False
    memory_limit: bool = True
    """This field and the next ones are about containers' resources; old clients warn of each that is false."""
    swap_limit: bool = True
    oom_kill_disable: bool = True
    cpu_cfs_quota: bool = True
    cpu_cfs_period: bool = True
    cpu_shares: bool = field(name="CPUShares", default=True)
    cpu_set: bool = field(name="CPUSet", default=True)
    ipv4_forwarding: bool = field(name="IPv4Forwarding", default=True)
    bridge_nf_iptables: bool = True
    bridge_nf_ip6tables: bool = True
    live_restore_enabled: bool = True
