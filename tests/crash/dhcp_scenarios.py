"""Joins that wait for an address of a DHCP server, interrupted: no client is left, and no address is held."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.crash.daemon_case import CrashDaemon
from tests.crash.scenarios import Setting, Stage
from tests.support.dhcp_server import DhcpServer


def leased_join(daemon: CrashDaemon) -> Stage:
    """With an address that the server of the uplink's segment gives."""
    server = DhcpServer(daemon, daemon.folder)
    server.start()
    daemon.stack.callback(server.stop)
    daemon.api.network("foo", "macvlan", parent="uplink", ipam_driver="dhcp")
    daemon.api.endpoint("foo", "web")
    forth = partial(daemon.api.join, "foo", "web", "c1")
    return Stage(forth, partial(daemon.api.leave, "foo", "web", "c1"), twice=False)


DHCP_SCENARIOS: Final[tuple[Setting, ...]] = (leased_join,)
