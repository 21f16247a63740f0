"""What the daemon tells of itself. Not part of the reference."""

from __future__ import annotations

from litestar.params import JSONBody

from sandnet.api.libnetwork import encode
from sandnet.api.libnetwork.parameters import Core, Question, Release, RequestedBy, Verbose
from sandnet.api.libnetwork.routing import create, read
from sandnet.api.middleware.normalization import API_VERSION, MIN_API_VERSION
from sandnet.wire import libnetwork as wire
from sandnet.wire.explain import Explanation
from sandnet.wire.reconcile import Reconcile, Reconciliation


@read("/healthz", summary="How the daemon is")
async def healthz(core: Core, verbose: Verbose = False) -> wire.Health:
    """200 whenever the daemon serves: ``degraded`` tells of what a restart would not mend."""
    return encode.health(core.health(), verbose=verbose)


@read("/version", summary="The daemon's version")
async def version(release: Release) -> wire.Version:
    """The program's version and the version prefixes it serves."""
    return wire.Version(version=release, api_version=API_VERSION, min_api_version=MIN_API_VERSION)


@read("/dns/explain", needed=("name", "from"), summary="What a container would be answered by the resolver")
async def explain(core: Core, name: Question, asked_by: RequestedBy) -> Explanation:
    """From which record, or from which servers; nothing is asked of these."""
    return encode.explanation(await core.explain(asked_by, name))


@create("/reconcile", summary="Compare the records with what there is, and repair what differs")
async def reconcile(core: Core, data: JSONBody[Reconcile]) -> Reconciliation:
    """Every difference, with why it matters and what was done about it. What others own is neither told nor touched."""
    return encode.reconciliation(await core.reconcile.run(fix=data.fix))


HANDLERS = [healthz, version, explain, reconcile]
