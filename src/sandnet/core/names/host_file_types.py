"""Records of the hosts and resolv.conf files of sandboxes."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from sandnet.model import Sandbox
from sandnet.model.resolv_conf import Lookup


class Text(NamedTuple):
    """What a hosts file is to hold, and its place among all texts and removals."""

    turn: int
    content: bytes


class Digests(NamedTuple):
    """Of the files that were written; empty: that one was left alone."""

    resolv_conf: str = ""
    hosts: str = ""
    """Only of a copy of the host's."""

    def on(self, sandbox: Sandbox) -> Sandbox:
        """The record that says so."""
        return replace(
            sandbox,
            resolv_conf_digest=self.resolv_conf or sandbox.resolv_conf_digest,
            hosts_digest=self.hosts or sandbox.hosts_digest,
        )


class Reach(NamedTuple):
    """What decides over a sandbox's resolv.conf beside the host's."""

    stub: bool
    """It asks the resolver."""
    ipv6: bool
    lookup: Lookup


class FileFault(NamedTuple):
    """A file that is not as it should be."""

    path: str
    problem: str
