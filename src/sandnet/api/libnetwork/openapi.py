"""The OpenAPI 3.1 document, made from the handlers' types, and completed with what types do not say.

In the messages every field may be absent or null, since the dialect answers for a missing one by itself. Which fields
an object cannot do without, and which filters exclude each other, is said here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

from sandnet.wire import libnetwork as wire

REQUIRED: Final[Mapping[type, Sequence[str]]] = {
    wire.NetworkCreate: ("name",),
    wire.EndpointCreate: ("name",),
    wire.ServicePublish: ("name",),
    wire.Join: ("container_id",),
    wire.ExtraHost: ("name", "address"),
    wire.ParentUpdate: ("endpoint_id", "name", "address"),
    wire.ExposedPort: ("proto", "port"),
    wire.PortMapping: ("proto", "port"),
    wire.ErrorBody: ("message", "code", "hint"),
}
"""Fields that must be there and not null."""
EITHER: Final[Mapping[type, Sequence[str]]] = {wire.BackendChange: ("state", "weight")}
"""Fields of which one must be there."""
EXCLUSIVE: Final = "x-exclusive-parameters"
"""Extension of an operation: query parameters of which one may be given at a time."""


def document(handlers: Sequence[HTTPRouteHandler], dependencies: Mapping[str, Provide], version: str) -> bytes:
    """The document as JSON.

    A second application is made for it, because one that serves its own document also serves pages of HTML.
    """
    config = OpenAPIConfig(
        title="sandnet",
        version=version,
        description="Container networking without a container engine.",
        use_handler_docstrings=True,
    )
    app = Litestar(handlers, dependencies=dependencies, openapi_config=config, logging_config=None)
    schema: dict[str, Any] = app.openapi_schema.to_schema()
    for kind, fields in REQUIRED.items():
        _require(schema["components"]["schemas"][kind.__name__], fields)
    for kind, fields in EITHER.items():
        schema["components"]["schemas"][kind.__name__]["anyOf"] = [{"required": [field]} for field in fields]
    for handler in handlers:
        _describe_filters(schema["paths"], handler)
    return msgspec.json.encode(schema)


def _require(schema: dict[str, Any], fields: Sequence[str]) -> None:
    schema["required"] = list(fields)
    for field in fields:
        kinds = [kind for kind in schema["properties"][field].pop("oneOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            schema["properties"][field] |= kinds[0]
        elif kinds:
            schema["properties"][field]["oneOf"] = kinds


def _describe_filters(paths: Mapping[str, Any], handler: HTTPRouteHandler) -> None:
    """Say of each filter of a list which others it excludes, and whether it may be empty."""
    filters: Sequence[str] = handler.opt.get("filters", ())
    if not filters:
        return
    (path,) = handler.paths
    operation = paths[path.replace(":str}", "}")]["get"]
    operation["description"] += f" At most one of {', '.join(filters)} may be given."
    operation[EXCLUSIVE] = list(filters)
    for parameter in operation["parameters"]:
        if parameter["name"] in filters:
            others = " or ".join(name for name in filters if name != parameter["name"])
            parameter["description"] += f"; not together with {others}"
            empty = parameter["name"] == "name" and handler.opt.get("empty_name", False)
            parameter["allowEmptyValue"] = empty
            parameter["schema"] = {"type": "string"} if empty else {"type": "string", "minLength": 1}
