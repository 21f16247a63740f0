"""Where programs in a sandbox find their name server."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

ADDRESS: Final = IPv4Address("127.0.0.11")
"""The resolver's address inside each sandbox, the same as Docker's."""
SECOND_ADDRESS: Final = IPv4Address("127.0.0.12")
"""Its address in a container of an engine that has a resolver of its own."""
PORT: Final = 53
"""UDP and TCP."""
