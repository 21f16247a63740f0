"""The version of the daemon, and of the interfaces that it serves."""

from __future__ import annotations

from msgspec import Struct, field


class Version(Struct, kw_only=True):
    """Answer of ``GET /version``.

    Clients of Docker's Engine API ask for it before they know a version prefix, and read the fields with Go's names.
    """

    version: str
    api_version: str
    """Highest version prefix that is served."""
    min_api_version: str
    engine_version: str = field(name="Version", default="")
    engine_api_version: str = field(name="ApiVersion", default="")
    """Highest version prefix of Docker's Engine API that is served."""
    engine_min_api_version: str = field(name="MinAPIVersion", default="")
