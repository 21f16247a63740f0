"""The OpenAPI 3.1 document, made from the handlers' types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig


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
    return msgspec.json.encode(app.openapi_schema.to_schema())
