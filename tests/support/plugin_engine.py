"""A container engine that speaks the plugin protocol, as Docker 20.10 was seen to: for tests without an engine."""

from __future__ import annotations

import json
import secrets
from collections.abc import MutableMapping
from typing import Any

from sandnet.api.plugin.asgi import PluginApp
from sandnet.core.controller import Controller

GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
Message = MutableMapping[str, Any]


class Refused(AssertionError):  # noqa: N818 - the engine's word for it
    """The plugin answered with ``Err``."""


class PluginEngine:
    """Calls verbs on the application, without a socket."""

    def __init__(self, core: Controller) -> None:
        self._app = PluginApp(core)

    async def raw(self, path: str, body: bytes, method: str = "POST") -> tuple[int, dict[str, str], Any]:
        """Status, headers and decoded body of the answer to any request."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app({"type": "http", "method": method, "path": path}, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, json.loads(sent[1]["body"])

    async def __call__(self, verb: str, **fields: Any) -> Any:
        """The answer to a verb.

        Raises:
            Refused: it is an error.
        """
        status, _, answer = await self.raw(f"/{verb}", json.dumps(fields).encode())
        assert status == 200
        if answer.get("Err"):
            raise Refused(answer["Err"])
        return answer

    async def pool(self, pool: str = "", *, v6: bool = False, **options: str) -> str:
        """Claim a pool; its id."""
        answer = await self("IpamDriver.RequestPool", AddressSpace="sandnet", Pool=pool, Options=options or None, V6=v6)
        return str(answer["PoolID"])

    async def address(self, pool: str, address: str = "", **options: str) -> str:
        """Claim an address; with its prefix length."""
        answer = await self("IpamDriver.RequestAddress", PoolID=pool, Address=address, Options=options or None)
        return str(answer["Address"])

    async def network(
        self, pool: str = "", *, request: str = "", generic: Any = None, **options: Any
    ) -> tuple[str, str]:
        """Create a network as ``docker network create`` does; its id and its pool's."""
        pool = pool or await self.pool(request)
        gateway = await self.address(pool, **GATEWAY)
        network = secrets.token_hex(32)
        data = [{"AddressSpace": "sandnet", "Pool": pool.partition("#")[0], "Gateway": gateway}]
        more = {"com.docker.network.generic": generic or {}, **options}
        await self("NetworkDriver.CreateNetwork", NetworkID=network, Options=more, IPv4Data=data, IPv6Data=[])
        return network, pool

    async def endpoint(self, network: str, pool: str, address: str = "") -> tuple[str, str]:
        """Create an endpoint as ``docker run`` does; its id and its address."""
        claimed = await self.address(pool, address)
        endpoint = secrets.token_hex(32)
        interface = {"Address": claimed, "AddressIPv6": "", "MacAddress": ""}
        await self("NetworkDriver.CreateEndpoint", NetworkID=network, EndpointID=endpoint, Interface=interface)
        return endpoint, claimed

    async def join(self, network: str, endpoint: str, key: str = "") -> Any:
        """Join; the answer."""
        key = key or f"/var/run/docker/netns/{secrets.token_hex(6)}"
        return await self("NetworkDriver.Join", NetworkID=network, EndpointID=endpoint, SandboxKey=key)
