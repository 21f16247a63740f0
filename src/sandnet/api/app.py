"""The ASGI application that serves the dialects."""

from __future__ import annotations

from functools import cache

from litestar import Litestar, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from sandnet.api import errors
from sandnet.api.cni import commands as cni_commands
from sandnet.api.engine.engine_app import EngineApp
from sandnet.api.libnetwork import (
    openapi,
    routes_events,
    routes_networks,
    routes_nodes,
    routes_sandboxes,
    routes_services,
    routes_system,
)
from sandnet.api.libnetwork.event_stream import Streams
from sandnet.api.libnetwork.parameters import WireRequest, prepare
from sandnet.api.libnetwork.responses import JsonResponse
from sandnet.api.middleware.normalization import MAX_BODY, RequestNormalizer
from sandnet.core.controller import Controller
from sandnet.errors import Error

HANDLERS = [
    *routes_networks.HANDLERS,
    *routes_services.HANDLERS,
    *routes_sandboxes.HANDLERS,
    *routes_events.HANDLERS,
    *routes_nodes.HANDLERS,
    *routes_system.HANDLERS,
]


def create_app(controller: Controller, *, version: str, streams: Streams | None = None) -> RequestNormalizer:
    """Return the application that serves ``controller``.

    Args:
        controller: started and stopped by the caller.
        version: the program's version, contained in ``GET /version`` and in the OpenAPI document.
        streams: the limit of open event streams and their keep-alive interval; ``None``: the defaults.
    """

    async def core() -> Controller:
        return controller

    async def release() -> str:
        return version

    dependencies = {"core": Provide(core, use_cache=True), "release": Provide(release, use_cache=True)}

    @cache
    def document() -> bytes:
        return openapi.document(HANDLERS, dependencies, version)

    @get("/openapi.json", sync_to_thread=True)
    def openapi_json() -> Response[bytes]:
        return Response(document(), media_type="application/json")

    app = Litestar(
        route_handlers=[*HANDLERS, openapi_json, cni_commands.ROUTER],
        dependencies=dependencies,
        state=State({"streams": streams or Streams()}),
        before_request=prepare,
        request_class=WireRequest,
        response_class=JsonResponse,
        request_max_body_size=MAX_BODY,
        exception_handlers={
            Error: errors.on_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )
    return RequestNormalizer(app, engine=EngineApp(controller, version))
