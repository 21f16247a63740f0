"""How answers are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse

T = TypeVar("T")

_LISTED_KEYS: Final = 10
"""Unknown keys that a warning names; a header must stay small."""


class JsonResponse(Response[T]):
    """JSON from the structs as they are; nothing at all, not even a Content-Type, where there is nothing to say."""

    def render(self, content: Any, media_type: str, enc_hook: Any = None) -> bytes:
        """The body."""
        return b"" if content is None else msgspec.json.encode(content)

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIResponse:
        """The response as the server sends it."""
        response = super().to_asgi_response(*args, **options)
        if self.content is None:
            del response.headers["content-type"]
        return response


def warning(ignored: Sequence[str]) -> dict[str, str]:
    """The ``Warning`` header (RFC 9111, 5.5: code 299, miscellaneous) for options that were ignored, if any."""
    if not ignored:
        return {}
    keys = ", ".join(ignored[:_LISTED_KEYS]) + (", ..." if len(ignored) > _LISTED_KEYS else "")
    return {"Warning": f'299 sandnet "ignored unknown options: {_quotable(keys)}"'}


def _quotable(text: str) -> str:
    """Printable ASCII for a quoted-string, without what would need escaping (RFC 9110, 5.6.4), at most 500 bytes."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in text[:500])
