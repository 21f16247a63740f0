"""Keep the hosts and resolv.conf files of sandboxes up to date.

A sandbox's own files are written before its join returns. When a network's endpoints change, the hosts files of all
sandboxes on it change too. That work is proportional to the number of sandboxes, so it is batched and done in the
background, with at most a fifth of one thread. Requests wait for it only while it is small.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from posixpath import dirname, normpath
from posixpath import join as join_path
from threading import Lock

from msgspec.structs import replace

from sandnet.core.names.host_file_types import Digests, ResolverConfig, Text
from sandnet.core.names.host_name_files import HostView
from sandnet.core.names.render import hosts, resolv_conf, service_lines, stub_resolv_conf, stub_servers
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.state.records import Records
from sandnet.errors import Error, invalid
from sandnet.firewall.base import Fault
from sandnet.kernel.safe_files import MAX_READ, Files
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.resolv_conf import Lookup, ResolvConf, merged

_log = logging.getLogger(__name__)

EAGER_LIMIT = 32
"""The largest number of sandboxes on a network for whose files a change waits (about 0.1 ms each)."""
DUTY_CYCLE = 4.0
"""Seconds of pause for each second of writing: a thousand sandboxes must not keep a processor busy."""


NO_NAMES = "programs of the container do not find the names it was given, or whom to ask"


class HostFiles:
    """Writes the files of sandboxes from the records."""

    def __init__(
        self, records: Records, files: Files, workers: Workers, naming: ResolverSync, own_dirs: Sequence[str]
    ) -> None:
        self._naming = naming
        self._own_dirs = own_dirs
        self._host = HostView()
        self._records = records
        self._files = files
        self._workers = workers
        self._services: dict[str, dict[str, str]] = {}
        self._dirty: dict[str, None] = {}
        self._writing: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._batch_done = asyncio.Event()
        self._sequence = 0
        self._known_fingerprints: dict[str, tuple[int, ...]] = {}
        """By container: fingerprints of its files at the time when they were correct."""
        self._lock = Lock()
        self._latest: dict[str, int] = {}
        """By container: the number of the latest write or removal. A content with a smaller number is outdated."""

    def check(self, sandbox: Sandbox) -> None:
        """Refuse paths outside the allowed directories, and paths of the daemon or of another sandbox.

        Raises:
            Error: kind ``INVALID``.
        """
        if normpath(sandbox.hosts_path) == normpath(sandbox.resolv_conf_path):
            raise invalid("hosts_path and resolv_conf_path are the same file", code="path_taken")
        for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
            self._files.check(path)
            self._refuse_taken(sandbox, normpath(path))

    async def with_existing_paths(self, sandbox: Sandbox) -> Sandbox:
        """Return the record of a new sandbox with what its paths need and contain.

        That is the directories to create for them, and the files of other programs that are there.
        """
        foreign = [p for p in (sandbox.hosts_path, sandbox.resolv_conf_path) if not self._is_own(p)]
        if not foreign:
            return sandbox
        missing = await self._workers.run(
            lambda: [path for file in foreign for path in self._files.missing_directories(file)]
        )
        kept = await self._workers.run(lambda: tuple(file for file in foreign if self._files.has_foreign_file(file)))
        return replace(sandbox, made_dirs=tuple(sorted(set(missing), key=len, reverse=True)), kept_files=kept)

    def _is_own(self, path: str) -> bool:
        return any(path.startswith(directory + "/") for directory in self._own_dirs)

    def _refuse_taken(self, sandbox: Sandbox, path: str) -> None:
        own = [join_path(directory, sandbox.container_id) for directory in self._own_dirs]
        is_own = any(path.startswith(directory + "/") for directory in own)
        if not is_own and (dirname(path) in map(dirname, self._own_dirs) or self._is_own(path)):
            hint = f"leave it out, or name one below {own[0]}"
            raise invalid(f"path is kept for the daemon or for another container: {path}", hint, "path_not_allowed")
        for other in () if is_own else self._records.sandboxes():
            if other.container_id != sandbox.container_id and path in (other.hosts_path, other.resolv_conf_path):
                raise invalid(f"{path} is a file of container {other.container_id}", "name another", "path_taken")

    def write_job(self, sandbox: Sandbox) -> Callable[[], Digests]:
        """Return a job for a worker thread: write both files from the records as they are now.

        Files that the user changed are left alone.
        """
        if not sandbox.has_files:
            return Digests
        text, config = self._hosts(sandbox), self._resolver_config(sandbox)
        return lambda: self._write(sandbox, text, config)

    def check_job(self, sandbox: Sandbox) -> Callable[[], list[Fault]]:
        """Return a job for a worker thread: find the faults of a sandbox's files.

        The daemon owns each byte of a hosts file. The user may change a resolv.conf, and a copy of the host's hosts
        file; as long as one is as the daemon wrote it, it follows the host's.
        """
        if not sandbox.has_files:
            return list
        pending = sandbox.container_id in self._dirty or sandbox.container_id in self._writing
        content = None if pending or sandbox.origin is Origin.HOST else self._hosts(sandbox).content
        config = self._resolver_config(sandbox)
        return lambda: self._faults(sandbox, content, config)

    async def find_changed(self, *, thorough: bool) -> set[str]:
        """Return the containers whose files seem wrong; unless ``thorough``, only files that changed are read."""
        sandboxes = {
            each.container_id: each
            for each in self._records.sandboxes()
            if each.phase is Phase.READY and each.has_files
        }
        fingerprints = await self._workers.run(self._fingerprints, list(sandboxes.values()))
        known = {} if thorough else self._known_fingerprints
        self._known_fingerprints = {cid: fingerprint for cid, fingerprint in known.items() if cid in sandboxes}
        found: set[str] = set()
        changed = [cid for cid, fingerprint in fingerprints.items() if known.get(cid) != fingerprint]
        for start in range(0, len(changed), EAGER_LIMIT):
            jobs = {cid: self.check_job(sandboxes[cid]) for cid in changed[start : start + EAGER_LIMIT]}
            faulty = await self._workers.run(lambda jobs: {cid for cid, job in jobs.items() if job()}, jobs)
            self._known_fingerprints.update((cid, fingerprints[cid]) for cid in jobs if cid not in faulty)
            found |= faulty
        return found

    def _fingerprints(self, sandboxes: Iterable[Sandbox]) -> dict[str, tuple[int, ...]]:
        fingerprint, host = self._files.fingerprint, self._host.fingerprint()
        return {
            sandbox.container_id: (*host, *fingerprint(sandbox.hosts_path), *fingerprint(sandbox.resolv_conf_path))
            for sandbox in sandboxes
        }

    def _faults(self, sandbox: Sandbox, content: bytes | None, config: ResolverConfig) -> list[Fault]:
        hosts_text = self._files.read(sandbox.hosts_path)
        faults = []
        if hosts_text is None:
            faults.append(Fault("file", sandbox.hosts_path, "the hosts file is gone", NO_NAMES))
        elif content is not None and hosts_text != content[:MAX_READ]:
            faults.append(Fault("file", sandbox.hosts_path, "the hosts file has been changed", NO_NAMES))
        elif sandbox.origin is Origin.HOST and self._is_stale_copy(sandbox, hosts_text):
            faults.append(Fault("file", sandbox.hosts_path, "the hosts file is behind the host's", NO_NAMES))
        found = self._files.read(sandbox.resolv_conf_path)
        if found is None:
            faults.append(Fault("file", sandbox.resolv_conf_path, "resolv.conf is gone", NO_NAMES))
        elif self._is_outdated(sandbox, found, config):
            faults.append(Fault("file", sandbox.resolv_conf_path, "resolv.conf is behind the host's", NO_NAMES))
        return faults

    def refresh_job(self, sandbox: Sandbox) -> Callable[[], Digests]:
        """Return a job as :meth:`write_job`, which writes only if a file is wrong."""
        if not sandbox.has_files:
            return Digests
        faulty, write, config = self.check_job(sandbox), self.write_job(sandbox), self._resolver_config(sandbox)

        def refresh() -> Digests:
            for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
                self._files.remove_leftovers(path)
            return write() if faulty() or self._is_unrecorded(sandbox, config) else Digests()

        return refresh

    def _resolver_config(self, sandbox: Sandbox) -> ResolverConfig:
        attached = self._records.attachments_of_container(sandbox.container_id)
        networks = [net for net in (self._records.network(a.network_id) for a in attached if _is_current(a)) if net]
        served = self._naming.serves and any(attachment.interface for attachment in attached)
        stub = stub_servers(networks) if served else ()
        search = tuple(dict.fromkeys(domain for net in networks for domain in net.options.dns_search))
        options = merged(*(net.options.dns_options for net in networks), sandbox.dns_options)
        ipv6 = any(attachment.address_ipv6 for attachment in attached)
        return ResolverConfig(stub, ipv6, Lookup(sandbox.dns_search or search, options))

    def _is_outdated(self, sandbox: Sandbox, found: bytes, config: ResolverConfig) -> bool:
        """Return whether the daemon wrote its resolv.conf, and would write another one now.

        It keeps its content while the host has no resolv.conf.
        """
        if not self._host.has_resolv_conf():
            return False
        desired = self._resolv_conf(sandbox, config)
        return found != desired[:MAX_READ] and self._is_ours(sandbox, found, config)

    def _is_stale_copy(self, sandbox: Sandbox, found: bytes) -> bool:
        """Return whether its hosts file is the daemon's copy of the host's, which has changed since."""
        changed = self._host.has_hosts() and found != self._host.hosts()[:MAX_READ]
        return changed and sandbox.hosts_digest == _digest(found)

    def _is_ours(self, sandbox: Sandbox, found: bytes, config: ResolverConfig) -> bool:
        """Return whether the daemon wrote this resolv.conf.

        It is the recorded one, or was written by a daemon that was killed before it recorded it.
        """
        known = _digest(found) == sandbox.resolv_conf_digest
        return known or any(found == self._resolv_conf(sandbox, config._replace(ipv6=ipv6)) for ipv6 in (False, True))

    def _resolv_conf(self, sandbox: Sandbox, config: ResolverConfig) -> bytes:
        if sandbox.origin is Origin.HOST:
            host, lookup = self._host.resolv_conf(), config.lookup
            if not (sandbox.dns or lookup.search or lookup.options):
                return self._host.resolv_conf_file()
            options = merged(host.options, lookup.options)
            return ResolvConf(sandbox.dns or host.servers, lookup.search or host.search, options).text()
        if config.stub:
            return stub_resolv_conf(self._host.resolv_conf(), config.stub, config.lookup)
        return resolv_conf(self._host.reachable(), sandbox.dns, config.lookup, ipv6=config.ipv6)

    def remove_job(self, sandbox: Sandbox) -> Callable[[], None]:
        """Return a job for a worker thread: remove both files, and their directory if the daemon made it."""
        if not sandbox.has_files:
            return lambda: None
        sequence, config = self._next_sequence(), self._resolver_config(sandbox)
        return lambda: self._remove(sandbox, sequence, config)

    def changed(self, endpoint: Endpoint, network: Network, *, deleted: bool = False) -> None:
        """Note that the name of ``endpoint`` was added or deleted, and rewrite the files of its peers soon.

        Where a resolver serves names, files do not contain them, and there is nothing to do.
        """
        if self._naming.serves:
            return
        lines = self._name_lines(network)
        if deleted:
            lines.pop(endpoint.id, None)
        else:
            lines[endpoint.id] = service_lines(endpoint, network.name)
        self.mark_dirty(a.container_id for a in self._records.attachments_of_network(network.id))

    def forget(self, network: Network) -> None:
        """Drop the names of a deleted network."""
        self._services.pop(network.id, None)

    def mark_dirty(self, container_ids: Iterable[str]) -> None:
        """Rewrite the hosts files of these containers soon."""
        self._dirty.update(dict.fromkeys(container_ids))
        if self._dirty and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self) -> None:
        """Wait for the outdated files, unless they are many."""
        while (self._dirty or self._writing) and len(self._dirty) + len(self._writing) <= EAGER_LIMIT:
            await self._batch_done.wait()

    async def close(self) -> None:
        """Write the outdated files and stop."""
        while self._dirty and self._task and not self._task.done():
            await self._batch_done.wait()
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
                if sandbox and sandbox.origin is not Origin.HOST and sandbox.has_files
            ]
            jobs = [(sandbox, self._hosts(sandbox)) for sandbox in sandboxes if sandbox.phase is Phase.READY]
            try:
                await self._workers.run(self._write_hosts, jobs)
            except Error as failure:
                _log.warning("hosts files of %s are stale: %s", ", ".join(batch), failure)
            self._writing = {}
            self._batch_done.set()
            self._batch_done = asyncio.Event()
            if len(batch) > EAGER_LIMIT:  # the cost of a few does not matter, and a request waits for them
                await asyncio.sleep((time.monotonic() - started) * DUTY_CYCLE)

    def _write_hosts(self, jobs: Iterable[tuple[Sandbox, Text]]) -> None:
        for sandbox, text in jobs:
            try:
                with self._lock:
                    self._write_hosts_file(sandbox, text)
            except Error as failure:
                _log.warning("hosts file of %s is stale: %s", sandbox.container_id, failure)
        self._forget_removed()

    def _write(self, sandbox: Sandbox, hosts_text: Text, config: ResolverConfig) -> Digests:
        text = self._resolv_conf(sandbox, config)
        with self._lock:  # attachments of one container restore at once; a removal is before or after both
            for path in sandbox.kept_files if sandbox.phase is Phase.CREATING else ():
                self._files.set_aside(path)
            if sandbox.origin is Origin.HOST:
                copied = self._copy_hosts(sandbox)
            else:
                self._write_hosts_file(sandbox, hosts_text)
                copied = ""
            if self._is_edited(sandbox, config):
                return Digests(hosts=copied)  # the user changed it since, so it is the user's now
            self._files.write(sandbox.resolv_conf_path, text)
        return Digests(_digest(text), copied)

    def _copy_hosts(self, sandbox: Sandbox) -> str:
        """Copy the host's file, with the lock held; return the digest of what was written."""
        found = self._files.read(sandbox.hosts_path) if sandbox.hosts_digest else None
        content = self._host.hosts()
        if found is not None and found != content[:MAX_READ] and _digest(found) != sandbox.hosts_digest:
            return ""  # the user changed it
        self._files.write(sandbox.hosts_path, content)
        return _digest(content)

    def _write_hosts_file(self, sandbox: Sandbox, text: Text) -> None:
        """Write a content unless it is outdated; the lock is held."""
        if text.sequence > self._latest.get(sandbox.container_id, 0):
            self._files.write(sandbox.hosts_path, text.content)
            self._latest[sandbox.container_id] = text.sequence

    def _remove(self, sandbox: Sandbox, sequence: int, config: ResolverConfig) -> None:
        with self._lock:
            self._latest[sandbox.container_id] = sequence
            edited = self._is_edited(sandbox, config)
            for path in (sandbox.hosts_path, sandbox.resolv_conf_path):
                self._remove_file(sandbox, path, edited=edited and path == sandbox.resolv_conf_path)
            for directory in sandbox.made_dirs:
                self._files.remove_directory(directory)
            if not self._writing:
                self._latest.pop(sandbox.container_id, None)

    def _remove_file(self, sandbox: Sandbox, path: str, *, edited: bool) -> None:
        """Remove what the daemon wrote, and restore the file that was there before.

        A file that the user changed is left alone.
        """
        if self._is_own(path):
            self._files.remove(path, prune=True)
        elif edited:
            self._files.discard_original(path)
        elif path in sandbox.kept_files:
            self._files.restore_original(path)
        else:
            self._files.remove(path)

    def _is_edited(self, sandbox: Sandbox, config: ResolverConfig) -> bool:
        """Return whether the user changed resolv.conf after a join had written it; without a digest no join has."""
        found = self._files.read(sandbox.resolv_conf_path) if sandbox.resolv_conf_digest else None
        return found is not None and not self._is_ours(sandbox, found, config)

    def _is_unrecorded(self, sandbox: Sandbox, config: ResolverConfig) -> bool:
        """Return whether a daemon that was killed wrote the resolv.conf, and did not record its digest."""
        found = self._files.read(sandbox.resolv_conf_path) if sandbox.resolv_conf_digest else b""
        unknown = found and _digest(found) != sandbox.resolv_conf_digest
        return bool(unknown and self._is_ours(sandbox, found or b"", config))

    def _forget_removed(self) -> None:
        """Forget the numbers of removed containers: all contents of this batch are written, so none can be outdated.

        On a worker thread: another one may hold the lock while a file system hangs.
        """
        with self._lock:
            self._latest = {cid: sequence for cid, sequence in self._latest.items() if self._records.sandbox(cid)}

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _hosts(self, sandbox: Sandbox) -> Text:
        attachments = [a for a in self._records.attachments_of_container(sandbox.container_id) if _is_current(a)]
        networks = () if self._naming.serves else dict.fromkeys(a.network_id for a in attachments)
        lines_by_network = [self._name_lines(net) for net in map(self._records.network, networks) if net]
        content = hosts(sandbox, attachments, (line for lines in lines_by_network for line in lines.values()))
        return Text(self._next_sequence(), content)

    def _name_lines(self, network: Network) -> dict[str, str]:
        if network.id not in self._services:
            ready = (ep for ep in self._records.endpoints_of(network.id) if ep.phase is Phase.READY)
            self._services[network.id] = {ep.id: service_lines(ep, network.name) for ep in ready}
        return self._services[network.id]


def _is_current(attachment: Attachment) -> bool:
    return attachment.phase is not Phase.REMOVING


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()
