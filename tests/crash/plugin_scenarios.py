"""Requests to a network plugin that are interrupted: what the plugin was asked for is asked back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from tests.crash.daemon_case import CrashDaemon
from tests.crash.scenarios import Setting, Stage
from tests.support.daemon import JSON
from tests.support.network_host import eventually

PLUGIN: Final = Path(__file__).parents[2] / "docs" / "examples" / "bridge_plugin.py"
OPTIONS: Final[dict[str, JSON]] = {"subnet": "10.9.1.0/24"}


def _plugin(daemon: CrashDaemon) -> None:
    """A plugin of another process, which lives as long as the scenario."""
    socket = Path(daemon.plugins, "demo.sock")
    process = daemon.host.run(daemon.host.start_here, "python3", str(PLUGIN), str(socket))

    def end() -> None:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)

    daemon.stack.callback(end)
    eventually(socket.is_socket)


def plugin_network(daemon: CrashDaemon) -> Stage:
    """Of another program, which makes a bridge."""
    _plugin(daemon)
    forth = partial(daemon.api.network, "foo", "demo", **OPTIONS)
    return Stage(forth, partial(daemon.api.delete, "/networks/foo"), twice=False)


def plugin_endpoint(daemon: CrashDaemon) -> Stage:
    """Nothing of it is in the kernel."""
    _plugin(daemon)
    daemon.api.network("foo", "demo", **OPTIONS)
    return Stage(partial(daemon.api.endpoint, "foo", "web"), partial(daemon.api.delete, "/networks/foo/endpoints/web"))


def plugin_join(daemon: CrashDaemon) -> Stage:
    """With a link that the other program made."""
    _plugin(daemon)
    daemon.api.network("foo", "demo", **OPTIONS)
    daemon.api.endpoint("foo", "web")
    forth = partial(daemon.api.join, "foo", "web", "c1")
    return Stage(forth, partial(daemon.api.leave, "foo", "web", "c1"), twice=False)


PLUGIN_SCENARIOS: Final[tuple[Setting, ...]] = (plugin_network, plugin_endpoint, plugin_join)
