"""Routes about the daemon itself: health, version, explanation of DNS encoder, reconciliation. Not in the reference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from litestar import Response
from litestar.params import JSONBody

from sandnet.api.libnetwork import encode
from sandnet.api.libnetwork.parameters import Core, Question, Release, RequestedBy, Verbose
from sandnet.api.libnetwork.routing import create, read
from sandnet.api.middleware.normalization import (
    API_VERSION,
    ENGINE_API_VERSION,
    ENGINE_MIN_API_VERSION,
    MIN_API_VERSION,
)
from sandnet.core.controller import Controller
from sandnet.wire.daemon_version import Version
from sandnet.wire.explain import Explanation
from sandnet.wire.health import Health
from sandnet.wire.reconcile import Reconcile, Reconciliation

METRICS: Final = "text/plain; version=0.0.4"
"""Media type of the text format of Prometheus (prometheus.io, exposition formats)."""


@read("/healthz", summary="How the daemon is")
async def healthz(core: Core, verbose: Verbose = False) -> Health:
    """Return 200 whenever the daemon serves. ``degraded`` reports what a restart would not repair."""
    return encode.health(core.health(), verbose=verbose)


@read("/version", summary="The daemon's version")
async def version(release: Release) -> Version:
    """Return the program's version and the version prefixes that it serves."""
    return Version(
        version=release,
        api_version=API_VERSION,
        min_api_version=MIN_API_VERSION,
        engine_version=release,
        engine_api_version=ENGINE_API_VERSION,
        engine_min_api_version=ENGINE_MIN_API_VERSION,
    )


@read("/dns/explain", needed=("name", "from"), summary="What a container would be answered by the resolver")
async def explain(core: Core, name: Question, asked_by: RequestedBy) -> Explanation:
    """Return the record or the servers that would answer. No query is sent to these servers."""
    return encode.explanation(await core.explain(asked_by, name))


@read("/metrics", media_type=METRICS, summary="The daemon's figures for Prometheus")
async def metrics(core: Core, release: Release) -> Response[str]:
    """Return them in Prometheus' text format; they are read from memory."""
    exposition = await asyncio.to_thread(_exposition)
    return Response(exposition(core, release), media_type=METRICS)


def _exposition() -> Callable[[Controller, str], str]:
    from sandnet.api.metrics import exposition  # the library takes 0.1 s, which no start should wait for

    return exposition


@create("/reconcile", summary="Compare the records with what there is, and repair what differs")
async def reconcile(core: Core, data: JSONBody[Reconcile]) -> Reconciliation:
    """Return every difference, with why it matters and what was done. Objects of other programs are ignored."""
    return encode.reconciliation(await core.reconcile.run(fix=data.fix))


HANDLERS = [healthz, version, explain, metrics, reconcile]
