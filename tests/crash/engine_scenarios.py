"""Verbs of the plugin protocol that are interrupted: a container engine repeats them."""

from __future__ import annotations

from functools import partial
from socket import SOCK_STREAM
from typing import Final

from sandnet.api.plugin.handlers import VERBS
from tests.crash.coverage import interrupts
from tests.crash.daemon_case import CrashDaemon
from tests.crash.scenarios import Setting, Stage

NETWORK, ENDPOINT = "a1" * 32, "b2" * 32
POOL, ADDRESS = "10.9.1.0/24", "10.9.1.7"
IDS: Final = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
GATEWAY: Final = {"RequestAddressType": "com.docker.network.gateway"}
PORTS: Final = [{"Proto": 6, "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}]
_READS: Final = ("Activate", "Capabilities", "AddressSpaces", "OperInfo", "Discover")
VERBS_THAT_CHANGE: Final = {path[1:] for path in VERBS if not any(word in path for word in (*_READS, ".Leave"))}
"""Leave changes nothing: the engine still takes the link out of the container then."""


def _network(daemon: CrashDaemon) -> None:
    daemon.plugin.call("IpamDriver.RequestPool", Pool=POOL)
    data = [{"Pool": POOL, "Gateway": "10.9.1.1/24"}]
    daemon.plugin.call("NetworkDriver.CreateNetwork", NetworkID=NETWORK, IPv4Data=data)


def _endpoint(daemon: CrashDaemon) -> None:
    _network(daemon)
    daemon.plugin.call("IpamDriver.RequestAddress", PoolID=POOL, Address=ADDRESS)
    daemon.plugin.call("NetworkDriver.CreateEndpoint", **IDS, Interface={"Address": f"{ADDRESS}/24"})


@interrupts("IpamDriver.RequestPool", "IpamDriver.ReleasePool")
def engine_pool(daemon: CrashDaemon) -> Stage:
    """A pool that no network has yet."""
    forth = partial(daemon.plugin.call, "IpamDriver.RequestPool", Pool=POOL)
    return Stage(forth, partial(daemon.plugin.call, "IpamDriver.ReleasePool", PoolID=POOL))


@interrupts("NetworkDriver.CreateNetwork", "NetworkDriver.DeleteNetwork")
def engine_network_shared(daemon: CrashDaemon) -> Stage:
    """One that others use, too; to make one is the core's own verb, which ``network`` interrupts."""
    daemon.api.network("foo", subnet=POOL)
    options = {"com.docker.network.generic": {"network": "foo"}}
    fields = {"NetworkID": NETWORK, "Options": options, "IPv4Data": [{"Pool": POOL}]}
    forth = partial(daemon.plugin.call, "NetworkDriver.CreateNetwork", **fields)
    return Stage(forth, partial(daemon.plugin.call, "NetworkDriver.DeleteNetwork", NetworkID=NETWORK))


@interrupts("IpamDriver.RequestAddress", "IpamDriver.ReleaseAddress")
def engine_address(daemon: CrashDaemon) -> Stage:
    """An address without an endpoint."""
    _network(daemon)
    forth = partial(daemon.plugin.call, "IpamDriver.RequestAddress", PoolID=POOL, Address=ADDRESS)
    return Stage(forth, partial(daemon.plugin.call, "IpamDriver.ReleaseAddress", PoolID=POOL, Address=ADDRESS))


@interrupts("NetworkDriver.CreateEndpoint", "NetworkDriver.DeleteEndpoint")
def engine_endpoint(daemon: CrashDaemon) -> Stage:
    """On a claimed address."""
    _network(daemon)
    daemon.plugin.call("IpamDriver.RequestAddress", PoolID=POOL, Address=ADDRESS)
    fields = {**IDS, "Interface": {"Address": f"{ADDRESS}/24"}}
    forth = partial(daemon.plugin.call, "NetworkDriver.CreateEndpoint", **fields)
    return Stage(forth, partial(daemon.plugin.call, "NetworkDriver.DeleteEndpoint", **IDS))


@interrupts("NetworkDriver.Join")
def engine_join(daemon: CrashDaemon) -> Stage:
    """Its link ends on the host: no engine takes it."""
    _endpoint(daemon)

    def back() -> None:
        daemon.plugin.call("NetworkDriver.DeleteEndpoint", **IDS)
        daemon.plugin.call("NetworkDriver.CreateEndpoint", **IDS, Interface={"Address": f"{ADDRESS}/24"})

    forth = partial(daemon.plugin.call, "NetworkDriver.Join", **IDS, SandboxKey="/run/docker/netns/c1")
    return Stage(forth, back, back_is_one=False)


@interrupts("NetworkDriver.ProgramExternalConnectivity", "NetworkDriver.RevokeExternalConnectivity")
def engine_ports(daemon: CrashDaemon) -> Stage:
    """Ports of a container that is attached."""
    _endpoint(daemon)
    daemon.plugin.call("NetworkDriver.Join", **IDS, SandboxKey="/run/docker/netns/c1")
    options = {"com.docker.network.portmap": PORTS}
    forth = partial(daemon.plugin.call, "NetworkDriver.ProgramExternalConnectivity", **IDS, Options=options)
    back = partial(daemon.plugin.call, "NetworkDriver.RevokeExternalConnectivity", **IDS)
    return Stage(forth, back, ports=((SOCK_STREAM, 8080),))


ENGINE_SCENARIOS: Final[tuple[Setting, ...]] = (
    engine_pool, engine_network_shared, engine_address, engine_endpoint, engine_join, engine_ports,
)  # fmt: skip
