"""The library for Python programs, against a real daemon; the examples of docs/python.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.network_host import eventually

PAGE: Final = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SCRIPTS: Final = [example for example in EXAMPLES if "def test_" not in example]
TESTS: Final = [example for example in EXAMPLES if "def test_" in example]
TIME_LIMIT: Final = 90.0
CANCELLED: Final = """
import asyncio
import sandnet

async def stay(front, begun):
    async with front.sandbox("web"):
        begun.set()
        await asyncio.sleep(600)

async def main():
    async with sandnet.connect() as net, net.network("front") as front:
        for wait in (True, False):
            begun = asyncio.Event()
            task = asyncio.create_task(stay(front, begun))
            await (begun.wait() if wait else asyncio.sleep(0))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert net.blocking.client.services() == [], wait

asyncio.run(main())
"""
TWO_NETWORKS: Final = """
import sandnet

with sandnet.connect() as net, net.network("front") as front, net.network("back") as back:
    with front.sandbox("web") as web, back.sandbox("db") as db:
        with back.connect(web, aliases=["frontend"]):
            assert len(web.info().interfaces) == 2
            db.run(["ping", "-c1", "-W10", "frontend"])
        assert len(web.info().interfaces) == 1
    assert net.client.services() == []
"""
ERROR_IN_BLOCK: Final = """
import pickle
import sandnet
from sandnet.errors import InvalidRequestError, NotFoundError

with sandnet.connect() as net:
    try:
        with net.network("front") as front, front.sandbox("web") as web:
            web.run(["false"])
    except Exception as error:
        assert type(error).__name__ == "CalledProcessError"
    else:
        raise AssertionError("no error")
    assert net.client.services() == net.client.sandboxes() == []
    try:
        front.info()
    except NotFoundError as error:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is NotFoundError and again.code == error.code and str(again) == str(error)
    with net.network("front") as front:
        for wrong in ({"ports": ["80:99999"]}, {"ip": "nonsense"}, {"aliases": ["../x"]}):
            try:
                with front.sandbox("web", **wrong):
                    raise AssertionError(wrong)
            except InvalidRequestError:
                assert net.client.services() == []
"""
SEVERAL_ADDRESSES: Final = """
import asyncio
import sandnet

more = ["10.9.7.50", "10.9.7.51"]
with sandnet.connect() as net, net.network("front", subnet="10.9.7.0/24") as front:
    with front.sandbox("web", additional_addresses=more) as web, front.sandbox("client") as client:
        (interface,) = web.info().interfaces
        assert interface.additional_addresses == ["10.9.7.50/24", "10.9.7.51/24"]
        for address in more:
            client.run(["ping", "-c1", "-W2", address])


async def main():
    async with sandnet.connect() as net, net.network("front", subnet="10.9.7.0/24") as front:
        async with front.sandbox("web", additional_addresses=more) as web:
            assert len((await web.info()).interfaces[0].additional_addresses) == 2


asyncio.run(main())
"""
STAYS: Final = """
import sandnet, time
with sandnet.connect() as net:
    with net.existing_network("front").sandbox("web"):
        print("up", flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def running(directories: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon on a host on which names outside fail at once: no route leads to its name server."""
    made = RunningDaemon(directories.mktemp("w"))
    try:
        (made.folder / "host-resolv.conf").write_text("nameserver 192.0.2.53\n")
        made.start()
        yield made
    finally:
        made.close()


def environment(running: RunningDaemon) -> dict[str, str]:
    """Return an environment in which the default daemon is that of the test."""
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the other plugins take seconds
    return {**os.environ, **own, "SANDNET_HOST": f"unix://{running.run}/sandnet.sock"}


def run(running: RunningDaemon, *words: str) -> None:
    """Run Python on the daemon's host; it must succeed."""
    folder = running.folder / "directory"
    folder.mkdir(exist_ok=True)
    done = running.host.run(
        lambda: subprocess.run(
            [sys.executable, *words],
            env=environment(running),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    )
    assert done.returncode == 0, done.stdout + done.stderr


def remains(running: RunningDaemon) -> tuple[object, ...]:
    """Return what there is beside the predefined networks."""
    api = running.api
    return tuple(api.get("/sandboxes")), tuple(api.get("/services")), len(api.get("/networks"))


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS, CANCELLED, TWO_NETWORKS, ERROR_IN_BLOCK, SEVERAL_ADDRESSES],
    ids=["networks", "errors", "coroutines", "cancelled tasks", "two networks", "error in a block", "addresses"],
)
@pytest.mark.attaches("python")
def test_program_does_what_it_states_and_leaves_nothing(running: RunningDaemon, script: str) -> None:
    before = remains(running)
    run(running, "-c", script)
    assert remains(running) == before


@pytest.mark.attaches("pytest")
def test_fixtures_make_networks_for_the_tests_of_a_program(running: RunningDaemon) -> None:
    before = remains(running)
    folder = running.folder / "suite"
    folder.mkdir(exist_ok=True)
    (folder / "test_ping.py").write_text("\n".join(TESTS))
    (entry,) = entry_points(group="pytest11", name="sandnet")  # by which pytest finds it
    run(running, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", entry.value, str(folder))
    assert remains(running) == before


def test_daemon_removes_the_sandboxes_of_a_killed_program(running: RunningDaemon) -> None:
    running.api.network("front")
    command = [sys.executable, "-c", STAYS]
    program = running.host.run(
        lambda: subprocess.Popen(command, env=environment(running), stdout=subprocess.PIPE, text=True)
    )
    assert program.stdout
    assert program.stdout.readline() == "up\n"
    assert [service["name"] for service in running.api.get("/services")] == ["web"]
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=TIME_LIMIT)
    eventually(lambda: running.api.get("/services") == [] and running.api.get("/sandboxes") == [])
    running.api.delete("/networks/front")


def test_package_is_typed_and_loads_nothing_at_first() -> None:
    import sandnet

    assert (Path(sandnet.__file__).parent / "py.typed").exists()
    program = "import sys, sandnet; print([name for name in sys.modules if name.startswith('sandnet.')])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
