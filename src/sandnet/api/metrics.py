"""The daemon's figures for Prometheus, in its text format (prometheus.io, exposition formats).

The first request for them loads this module: the library takes longer than a start should wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sandnet.core.cluster.node_list import StoreFigures
from sandnet.core.controller import Controller, Health
from sandnet.errors import Error

_POOL_GAUGES: Final = {
    "ready": "Prepared sandboxes that wait to be handed out.",
    "target": "How many the pool is to hold at present; 0: it is off.",
    "limit": "How many the pool may hold at most.",
}
_POOL_COUNTERS: Final = {
    "handed_out": "Prepared sandboxes that joins took.",
    "misses": "Joins that found the pool empty or off.",
    "discarded": "Prepared sandboxes closed unused.",
    "failures": "Failed attempts to prepare a sandbox.",
    "restarts": "Restarts of the process that prepares sandboxes.",
}


def exposition(core: Controller, version: str) -> str:
    """Return all figures as text."""
    registry = CollectorRegistry()
    registry.register(_Figures(core, version))
    ProcessCollector(registry=registry)  # processor time, memory and descriptors of the daemon
    return generate_latest(registry).decode()


class _Figures(Collector):
    """The figures of one daemon. All are in memory; none takes more than counting its records."""

    def __init__(self, core: Controller, version: str) -> None:
        self._core = core
        self._version = version

    def describe(self) -> list[Metric]:
        """Return no descriptions, so that registration does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        health = self._core.health()
        yield _labelled("build", "Version of the program.", "version", {self._version: 1})
        yield _gauge("healthy", "1: ok, 0: degraded (GET /healthz lists the problems).", health.status == "ok")
        yield _gauge("problems", "Problems that GET /healthz lists.", len(health.problems))
        yield _gauge("operations", "Changes in progress.", health.operations)
        available = {each.name: each.available for each in health.drivers}
        yield _labelled("driver_available", "1: the driver works on this host.", "driver", available)
        counts = self._core.counts()
        yield _labelled("networks", "Networks by driver.", "driver", counts.networks)
        yield _gauge("endpoints", "Endpoints, services included.", counts.endpoints)
        yield _gauge("sandboxes", "Sandboxes.", counts.sandboxes)
        yield _gauge("attachments", "Attachments of sandboxes to endpoints.", counts.attachments)
        yield from _pool(health)
        with suppress(Error):  # it shares no store with other hosts
            yield from _shared_store(self._core.nodes.figures())


def _shared_store(figures: StoreFigures) -> Iterator[Metric]:
    yield _gauge("shared_store_silence_seconds", "Seconds since the shared store has answered last.", figures.silence)
    yield _gauge("lease_seconds", "Seconds that this host's lease lasts at least; 0: it has none.", figures.lease)
    hosts = {"alive": figures.alive, "away": figures.away}
    yield _labelled("hosts", "Hosts of the shared store by the state of their lease.", "state", hosts)


def _pool(health: Health) -> Iterator[Metric]:
    for name, text in _POOL_GAUGES.items():
        yield _gauge(f"prepared_sandboxes_{name}", text, getattr(health.pool, name))
    for name, text in _POOL_COUNTERS.items():
        yield CounterMetricFamily(f"sandnet_prepared_sandboxes_{name}", text, value=getattr(health.pool, name))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sandnet_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"sandnet_{name}", text, labels=[label])
    for each, value in sorted(values.items()):
        family.add_metric([each], value)
    return family
