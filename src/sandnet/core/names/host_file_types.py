"""Types of the hosts and resolv.conf files of sandboxes."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from sandnet.model import Address, Sandbox
from sandnet.model.resolv_conf import Lookup


class Text(NamedTuple):
    """The content of a hosts file, and its number in the order of all contents and removals."""

    sequence: int
    content: bytes


class Digests(NamedTuple):
    """The digests of the files that were written; empty: that file was not changed."""

    resolv_conf: str = ""
    hosts: str = ""
    """Only of a copy of the host's file."""

    def on(self, sandbox: Sandbox) -> Sandbox:
        """Return the sandbox's record with these digests."""
        return replace(
            sandbox,
            resolv_conf_digest=self.resolv_conf or sandbox.resolv_conf_digest,
            hosts_digest=self.hosts or sandbox.hosts_digest,
        )


class ResolverConfig(NamedTuple):
    """The inputs for a sandbox's resolv.conf, beside the host's own."""

    stub: tuple[Address, ...]
    """Addresses at which it queries the daemon's resolver; empty: it does not."""
    ipv6: bool
    lookup: Lookup
