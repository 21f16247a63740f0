"""Encoding of successful responses, and the ``Warning`` header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse

T = TypeVar("T")

_LISTED_KEYS: Final = 10
"""Limit of unknown keys that a warning names; a header must stay small."""


class JsonResponse(Response[T]):
    """A response of JSON encoded from structs. Without content it has no body and no Content-Type."""

    def render(self, content: Any, media_type: str, enc_hook: Any = None) -> bytes:
        """Return the body."""
        return b"" if content is None else msgspec.json.encode(content)

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIResponse:
        """Return the response in the form that the server sends."""
        response = super().to_asgi_response(*args, **options)
        if self.content is None:
            del response.headers["content-type"]
        return response


def warning(ignored: Sequence[str]) -> dict[str, str]:
    """Return the ``Warning`` header (RFC 9111, 5.5: code 299, miscellaneous) for ignored options, if there are any."""
    if not ignored:
        return {}
    keys = ", ".join(ignored[:_LISTED_KEYS]) + (", ..." if len(ignored) > _LISTED_KEYS else "")
    return {"Warning": f'299 sandnet "ignored unknown options: {_quotable(keys)}"'}


def _quotable(text: str) -> str:
    """Return printable ASCII for a quoted-string, without characters to escape (RFC 9110, 5.6.4), at most 500 bytes."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in text[:500])
