"""Keeps the hosts and resolv.conf files of sandboxes true.

A sandbox's own files are written before its join returns. When a network's endpoints change, the hosts
files of everybody on it change too: that work is proportional to the number of sandboxes, so it is
gathered and done in the background, at most a fifth of one thread, and only waited for while it is small.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from ipaddress import IPv4Address
from posixpath import dirname, normpath
from posixpath import join as join_path
from threading import Lock

from msgspec.structs import replace

from sandnet.core.names.host_file_types import Digests, FileFault, Reach, Text
from sandnet.core.names.host_name_files import HostView
from sandnet.core.names.render import hosts, resolv_conf, service_lines, stub_resolv_conf
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.state.records import Records
from sandnet.dns.base import SERVER_ADDRESS
from sandnet.errors import Error, invalid
from sandnet.kernel.safe_files import MAX_READ, Files
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.resolv_conf import Lookup, ResolvConf, merged

_log = logging.getLogger(__name__)

EAGER_LIMIT = 32
"""A change waits for the files of a network with at most so many sandboxes (about 0.1 ms each)."""
DUTY_CYCLE = 4.0
"""Seconds of rest a second of writing: a thousand sandboxes must not keep a processor busy."""
STUB = IPv4Address(SERVER_ADDRESS)
"""The resolver, as a sandbox sees it."""


class HostFiles:
    """Writes the files of sandboxes from records."""

    def __init__(self, records: Records, files: Files, workers: Workers, naming: ResolverSync, own_dir: str) -> None:
        self._naming = naming
        self._own_dir = own_dir
        self._host = HostView()
        self._records = records
        self._files = files
        self._workers = workers
        self._services: dict[str, dict[str, str]] = {}
        self._dirty: dict[str, None] = {}
        self._writing: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._pass = asyncio.Event()
        self._slot = 0
        self._known: dict[str, tuple[int, ...]] = {}
        """By container: marks of its files as they were when they were right."""
        self._lock = Lock()
        self._latest: dict[str, int] = {}
        """By container: turn of what was last written or removed. A text of an earlier turn comes too late."""

    def check(self, sandbox: Sandbox) -> None:
        """Refuse paths outside the allowed directories, and such as are ours or another sandbox's.

        Raises:
            Error: kind ``INVALID``.
        """
        if normpath(sandbox.hosts_path) == normpath(sandbox.resolv_conf_path):
            raise invalid("hosts_path and resolv_conf_path are the same file", code="path_taken")
        for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
            self._files.check(path)
            self._refuse_taken(sandbox, normpath(path))

    async def with_places(self, sandbox: Sandbox) -> Sandbox:
        """The record of a new sandbox with what its files will find: directories to be made, files of others."""
        foreign = [p for p in (sandbox.hosts_path, sandbox.resolv_conf_path) if not self._is_own(p)]
        if not foreign:
            return sandbox
        missing = await self._workers.run(lambda: [path for file in foreign for path in self._files.missing(file)])
        kept = await self._workers.run(lambda: tuple(file for file in foreign if self._files.holds(file)))
        return replace(sandbox, made_dirs=tuple(sorted(set(missing), key=len, reverse=True)), kept_files=kept)

    def _is_own(self, path: str) -> bool:
        return path.startswith(self._own_dir + "/")

    def _refuse_taken(self, sandbox: Sandbox, path: str) -> None:
        state_dir = dirname(self._own_dir)
        own = path.startswith(join_path(self._own_dir, sandbox.container_id) + "/")
        if not own and (dirname(path) == state_dir or path.startswith(self._own_dir + "/")):
            hint = f"leave it out, or name one below {join_path(self._own_dir, sandbox.container_id)}"
            raise invalid(f"path is kept for the daemon or for another container: {path}", hint, "path_not_allowed")
        for other in () if own else self._records.sandboxes():
            if other.container_id != sandbox.container_id and path in (other.hosts_path, other.resolv_conf_path):
                raise invalid(f"{path} is a file of container {other.container_id}", "name another", "path_taken")

    def write_job(self, sandbox: Sandbox) -> Callable[[], Digests]:
        """A job for a worker thread: write both files as the records are now; its user's are left alone."""
        text, reach = self._hosts(sandbox), self._reach(sandbox)
        return lambda: self._write(sandbox, text, reach)

    def check_job(self, sandbox: Sandbox) -> Callable[[], list[FileFault]]:
        """A job for a worker thread: what is wrong with a sandbox's files.

        A hosts file is ours to the last byte. A resolv.conf, and a copy of the host's hosts file, its user may change;
        one that is as we wrote it follows the host's.
        """
        late = sandbox.container_id in self._dirty or sandbox.container_id in self._writing
        content = None if late or sandbox.origin is Origin.HOST else self._hosts(sandbox).content
        reach = self._reach(sandbox)
        return lambda: self._faults(sandbox, content, reach)

    async def find_changed(self, *, thorough: bool) -> set[str]:
        """Containers whose files seem wrong; unless ``thorough``, only those whose files changed are read."""
        sandboxes = {
            sandbox.container_id: sandbox for sandbox in self._records.sandboxes() if sandbox.phase is Phase.READY
        }
        marks = await self._workers.run(self._fingerprints, list(sandboxes.values()))
        known = {} if thorough else self._known
        self._known = {cid: mark for cid, mark in known.items() if cid in sandboxes}
        found: set[str] = set()
        changed = [cid for cid, mark in marks.items() if known.get(cid) != mark]
        for start in range(0, len(changed), EAGER_LIMIT):
            jobs = {cid: self.check_job(sandboxes[cid]) for cid in changed[start : start + EAGER_LIMIT]}
            wrong = await self._workers.run(lambda jobs: {cid for cid, job in jobs.items() if job()}, jobs)
            self._known.update((cid, marks[cid]) for cid in jobs if cid not in wrong)
            found |= wrong
        return found

    def _fingerprints(self, sandboxes: Iterable[Sandbox]) -> dict[str, tuple[int, ...]]:
        mark, host = self._files.fingerprint, self._host.fingerprint()
        return {
            sandbox.container_id: (*host, *mark(sandbox.hosts_path), *mark(sandbox.resolv_conf_path))
            for sandbox in sandboxes
        }

    def _faults(self, sandbox: Sandbox, content: bytes | None, reach: Reach) -> list[FileFault]:
        hosts_text = self._files.read(sandbox.hosts_path)
        told = []
        if hosts_text is None:
            told.append(FileFault(sandbox.hosts_path, "the hosts file is gone"))
        elif content is not None and hosts_text != content[:MAX_READ]:
            told.append(FileFault(sandbox.hosts_path, "the hosts file has been changed"))
        elif sandbox.origin is Origin.HOST and self._is_stale_copy(sandbox, hosts_text):
            told.append(FileFault(sandbox.hosts_path, "the hosts file is behind the host's"))
        found = self._files.read(sandbox.resolv_conf_path)
        if found is None:
            told.append(FileFault(sandbox.resolv_conf_path, "resolv.conf is gone"))
        elif self._is_outdated(sandbox, found, reach):
            told.append(FileFault(sandbox.resolv_conf_path, "resolv.conf is behind the host's"))
        return told

    def refresh_job(self, sandbox: Sandbox) -> Callable[[], Digests]:
        """As :meth:`writing`, but what is right already is left alone."""
        wrong, write = self.check_job(sandbox), self.write_job(sandbox)

        def refresh() -> Digests:
            for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
                self._files.remove_leftovers(path)
            return write() if wrong() else Digests()

        return refresh

    def _reach(self, sandbox: Sandbox) -> Reach:
        attached = self._records.attachments_of_container(sandbox.container_id)
        stub = self._naming.serves and any(attachment.interface for attachment in attached)
        networks = [net for net in (self._records.network(a.network_id) for a in attached if _counts(a)) if net]
        search = tuple(dict.fromkeys(domain for net in networks for domain in net.options.dns_search))
        options = merged(*(net.options.dns_options for net in networks), sandbox.dns_options)
        ipv6 = any(attachment.address_ipv6 for attachment in attached)
        return Reach(stub, ipv6, Lookup(sandbox.dns_search or search, options))

    def _is_outdated(self, sandbox: Sandbox, found: bytes, reach: Reach) -> bool:
        """Whether its resolv.conf is the one we wrote, and we would write another one now. It keeps what it has while
        the host has none."""
        if not self._host.has_resolv_conf():
            return False
        wanted = self._resolv_conf(sandbox, reach)
        return found != wanted[:MAX_READ] and self._is_ours(sandbox, found, reach)

    def _is_stale_copy(self, sandbox: Sandbox, found: bytes) -> bool:
        """Whether its hosts file is the copy that we made of the host's, which is another one now."""
        changed = self._host.has_hosts() and found != self._host.hosts()[:MAX_READ]
        return changed and sandbox.hosts_digest == _digest(found)

    def _is_ours(self, sandbox: Sandbox, found: bytes, reach: Reach) -> bool:
        """Whether we wrote it: it is the one that is recorded, or that of a writer who was killed before he recorded
        it."""
        known = _digest(found) == sandbox.resolv_conf_digest
        return known or any(found == self._resolv_conf(sandbox, reach._replace(ipv6=ipv6)) for ipv6 in (False, True))

    def _resolv_conf(self, sandbox: Sandbox, reach: Reach) -> bytes:
        if sandbox.origin is Origin.HOST:
            host, lookup = self._host.resolv_conf(), reach.lookup
            if not (sandbox.dns or lookup.search or lookup.options):
                return self._host.resolv_conf_file()
            options = merged(host.options, lookup.options)
            return ResolvConf(sandbox.dns or host.servers, lookup.search or host.search, options).text()
        if reach.stub:
            return stub_resolv_conf(self._host.resolv_conf(), STUB, reach.lookup)
        return resolv_conf(self._host.reachable(), sandbox.dns, reach.lookup, ipv6=reach.ipv6)

    def remove_job(self, sandbox: Sandbox) -> Callable[[], None]:
        """A job for a worker thread: remove both files, and their directory where it is ours."""
        turn, reach = self._next_slot(), self._reach(sandbox)
        return lambda: self._remove(sandbox, turn, reach)

    def changed(self, endpoint: Endpoint, network: Network, *, gone: bool = False) -> None:
        """The name of ``endpoint`` came, or is gone: remember it and rewrite its peers' files soon.

        Where a resolver serves names they do not stand in files, and there is nothing to do.
        """
        if self._naming.serves:
            return
        block = self._block(network)
        if gone:
            block.pop(endpoint.id, None)
        else:
            block[endpoint.id] = service_lines(endpoint, network.name)
        self.mark_dirty(a.container_id for a in self._records.attachments_of_network(network.id))

    def forget(self, network: Network) -> None:
        """The network is gone."""
        self._services.pop(network.id, None)

    def mark_dirty(self, container_ids: Iterable[str]) -> None:
        """Rewrite the hosts files of these containers soon."""
        self._dirty.update(dict.fromkeys(container_ids))
        if self._dirty and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self) -> None:
        """Wait for the files that are behind, unless they are many."""
        while (self._dirty or self._writing) and len(self._dirty) + len(self._writing) <= EAGER_LIMIT:
            await self._pass.wait()

    async def close(self) -> None:
        """Write what is behind and stop."""
        while self._dirty and self._task and not self._task.done():
            await self._pass.wait()
        if self._task:
            self._task.cancel()

    async def _run(self) -> None:
        while self._dirty:
            started = time.monotonic()
            batch, self._dirty = self._dirty, {}
            self._writing = batch
            sandboxes = [
                sandbox
                for sandbox in map(self._records.sandbox, batch)
                if sandbox and sandbox.origin is not Origin.HOST
            ]
            jobs = [(sandbox, self._hosts(sandbox)) for sandbox in sandboxes if sandbox.phase is Phase.READY]
            try:
                await self._workers.run(self._write_hosts, jobs)
            except Error as failure:
                _log.warning("hosts files of %s are stale: %s", ", ".join(batch), failure)
            self._writing = {}
            self._pass.set()
            self._pass = asyncio.Event()
            if len(batch) > EAGER_LIMIT:  # of few nobody notices the cost, and a request waits for them
                await asyncio.sleep((time.monotonic() - started) * DUTY_CYCLE)

    def _write_hosts(self, jobs: Iterable[tuple[Sandbox, Text]]) -> None:
        for sandbox, text in jobs:
            try:
                with self._lock:
                    self._write_hosts_file(sandbox, text)
            except Error as failure:
                _log.warning("hosts file of %s is stale: %s", sandbox.container_id, failure)
        self._forget_removed()

    def _write(self, sandbox: Sandbox, hosts_text: Text, reach: Reach) -> Digests:
        text = self._resolv_conf(sandbox, reach)
        with self._lock:  # attachments of one container are restored at once; a removal comes before both or after both
            for path in sandbox.kept_files if sandbox.phase is Phase.CREATING else ():
                self._files.set_aside(path)
            if sandbox.origin is Origin.HOST:
                copied = self._copy_hosts(sandbox)
            else:
                self._write_hosts_file(sandbox, hosts_text)
                copied = ""
            found = self._files.read(sandbox.resolv_conf_path) if sandbox.resolv_conf_digest else None
            if found is not None and not self._is_ours(sandbox, found, reach):
                return Digests(hosts=copied)  # its user changed it since: it is the user's now
            self._files.write(sandbox.resolv_conf_path, text)
        return Digests(_digest(text), copied)

    def _copy_hosts(self, sandbox: Sandbox) -> str:
        """Under the lock; the digest of what was written."""
        found = self._files.read(sandbox.hosts_path) if sandbox.hosts_digest else None
        content = self._host.hosts()
        if found is not None and found != content[:MAX_READ] and _digest(found) != sandbox.hosts_digest:
            return ""  # its user's
        self._files.write(sandbox.hosts_path, content)
        return _digest(content)

    def _write_hosts_file(self, sandbox: Sandbox, text: Text) -> None:
        """Under the lock."""
        if text.turn > self._latest.get(sandbox.container_id, 0):
            self._files.write(sandbox.hosts_path, text.content)
            self._latest[sandbox.container_id] = text.turn

    def _remove(self, sandbox: Sandbox, turn: int, reach: Reach) -> None:
        with self._lock:
            self._latest[sandbox.container_id] = turn
            edited = self._is_edited(sandbox, reach)
            for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
                self._remove_file(sandbox, path, edited=edited and path == sandbox.resolv_conf_path)
            for directory in sandbox.made_dirs:
                self._files.remove_directory(directory)
            if not self._writing:
                self._latest.pop(sandbox.container_id, None)

    def _remove_file(self, sandbox: Sandbox, path: str, *, edited: bool) -> None:
        """Remove what we wrote, and give back what was there before. A file of its user's is left alone."""
        if self._is_own(path):
            self._files.remove(path, prune=True)
        elif edited:
            self._files.forget_original(path)
        elif path in sandbox.kept_files:
            self._files.give_back(path)
        else:
            self._files.remove(path)

    def _is_edited(self, sandbox: Sandbox, reach: Reach) -> bool:
        """Whether its user changed resolv.conf after a join had written it; without a digest no join ever did."""
        found = self._files.read(sandbox.resolv_conf_path) if sandbox.resolv_conf_digest else None
        return found is not None and not self._is_ours(sandbox, found, reach)

    def _forget_removed(self) -> None:
        """The texts of this pass are written, so the turns of removed containers have done their service.

        On a worker thread: another one may hold the lock while a file system hangs.
        """
        with self._lock:
            self._latest = {cid: turn for cid, turn in self._latest.items() if self._records.sandbox(cid)}

    def _next_slot(self) -> int:
        self._slot += 1
        return self._slot

    def _hosts(self, sandbox: Sandbox) -> Text:
        attachments = [a for a in self._records.attachments_of_container(sandbox.container_id) if _counts(a)]
        networks = () if self._naming.serves else dict.fromkeys(a.network_id for a in attachments)
        blocks = [self._block(net) for net in map(self._records.network, networks) if net]
        content = hosts(sandbox, attachments, (line for block in blocks for line in block.values()))
        return Text(self._next_slot(), content)

    def _block(self, network: Network) -> dict[str, str]:
        if network.id not in self._services:
            ready = (ep for ep in self._records.endpoints_of(network.id) if ep.phase is Phase.READY)
            self._services[network.id] = {ep.id: service_lines(ep, network.name) for ep in ready}
        return self._services[network.id]


def _counts(attachment: Attachment) -> bool:
    return attachment.phase is not Phase.REMOVING


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()
