"""One request after the other, over the in-memory kernel: each answer is exactly what the model reports."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from random import Random

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sandnet.api.app import create_app
from sandnet.config import Config
from tests.stress.history import History, Operation
from tests.stress.oracle import Judge
from tests.stress.runner import things_in
from tests.stress.workload import CONTAINERS, ENDPOINTS, NETWORKS, Workload, called, every_double
from tests.support.core_in_process import CoreInProcess

networks = st.sampled_from(["n0", "n1", "n3", "n4", "n5"])
endpoints = st.builds(called, networks, st.sampled_from(ENDPOINTS))
containers = st.sampled_from(CONTAINERS[:4])


class Sequence(RuleBasedStateMachine):
    """A daemon, and what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="sandnet-sequence-")
        self.runner = asyncio.Runner()
        self.core = CoreInProcess(Config(state_dir=self.folder, run_dir=self.folder))
        self.runner.run(self._start())
        self.universe = Workload({})
        self.there: set[str] = set()
        self.clock = 0.0

    async def _start(self) -> None:
        controller = await self.core.start()
        transport = httpx.ASGITransport(create_app(controller, version="1"))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def teardown(self) -> None:
        """Let go of everything."""
        self.runner.run(self._stop())
        self.runner.close()
        self.core.workers.close()
        shutil.rmtree(self.folder)

    async def _stop(self) -> None:
        await self.http.aclose()
        await self.core.controller.stop()

    # Requests.

    @rule(network=st.sampled_from([*NETWORKS]))
    def make_network(self, network: str) -> None:
        self._ask(self.universe.make_network(0, network))

    @rule(network=networks)
    def unmake_network(self, network: str) -> None:
        self._ask(self.universe.unmake(0, network))

    @rule(endpoint=endpoints)
    def make_endpoint(self, endpoint: str) -> None:
        self._ask(self.universe.make_endpoint(0, endpoint))

    @rule(endpoint=endpoints)
    def unmake_endpoint(self, endpoint: str) -> None:
        self._ask(self.universe.unmake(0, endpoint))

    @rule(endpoint=endpoints, container=containers)
    def join(self, endpoint: str, container: str) -> None:
        self._ask(self.universe.join(0, endpoint, container))

    @rule(endpoint=endpoints, container=containers)
    def leave(self, endpoint: str, container: str) -> None:
        self._ask(self.universe.unmake(0, f"{endpoint}/{container}"))

    @rule(endpoint=endpoints, container=containers, random=st.randoms(use_true_random=False))
    def change(self, endpoint: str, container: str, random: Random) -> None:
        self._ask(self.universe.change(0, f"{endpoint}/{container}", random))

    @rule(data=st.data())
    def use_what_is_there(self, data: st.DataObject) -> None:
        """So that rare things are done, too: something joins, leaves or goes that is there."""
        if self.there:
            thing = data.draw(st.sampled_from(sorted(self.there)))
            if thing.count("/") == 1 and data.draw(st.booleans()):
                self._ask(self.universe.join(0, thing, data.draw(containers)))
            else:
                self._ask(self.universe.unmake(0, thing))

    @rule()
    def restart(self) -> None:
        """Another daemon, over the same store and kernel."""
        self.runner.run(self._stop())
        self.runner.run(self._start())

    # What must be true.

    def _ask(self, operation: Operation) -> None:
        answer = self._send(operation.method, operation.path, operation.body)
        operation.began, operation.ended, self.clock = self.clock + 1, self.clock + 2, self.clock + 3
        operation.status = answer.status_code
        if answer.status_code != 200:
            operation.code, operation.message = answer.json()["code"], answer.json()["message"]
        history = History(there=set(self.there))
        history.add(operation)
        assert [*Judge(history).falsehoods()] == []
        if operation.is_done:
            self.there = (self.there | {operation.makes} - {""}) - {operation.unmakes}

    def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, json=body))

    @invariant()
    def lists_report_what_is_there(self) -> None:
        reported = self._send("GET", "/networks?verbose=true").json()
        assert things_in(reported) == self.there
        assert [*every_double(reported)] == []

    @invariant()
    def kernel_has_what_is_there(self) -> None:
        attached = [each for each in self.there if each.count("/") == 2]
        assert len(self.core.veths()) == len(attached)
        assert {sandbox.container_id for sandbox in self.core.controller.sandboxes.list()} == {
            each.rpartition("/")[2] for each in attached
        }


TestSequence = pytest.mark.timeout(400)(Sequence.TestCase)
TestSequence.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
