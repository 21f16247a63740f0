"""Requests to other programs during a deletion, which a forced one does not depend on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final

from sandnet.drivers.base import PLUGIN_AWAY, PLUGIN_REFUSED
from sandnet.errors import Error

_HINT: Final = "delete it with --force (?force=true), and the plugin is left with what it has of it"
_log = logging.getLogger(__name__)


async def asked(step: Awaitable[None], *, force: bool) -> None:
    """Wait for a driver to delete an object.

    Args:
        step: the deletion.
        force: continue although another program is away, or refuses.

    Raises:
        Error: the driver's.
    """
    try:
        await step
    except Error as failure:
        if failure.code not in (PLUGIN_AWAY, PLUGIN_REFUSED):
            raise
        if not force:
            raise Error(failure.kind, failure.message, _HINT, failure.code) from failure
        _log.warning("deleted nevertheless: %s", failure.message)
