"""nftables through libnftables, inside our own process.

Running the ``nft`` program takes 2.4 ms, the library 0.5 to 0.9 ms after another transaction: it then reads tables,
chains and sets again. So the elements that each join needs are sent to the kernel without it, in 0.1 ms. The text given
is what ``nft -f`` reads (nft(8), libnftables(3)), and one run is one transaction of the kernel: all of it happens or
nothing.

One library context serves all threads, behind a lock. A context for each thread was measured at 11,000 elements a
second against 7,500 with the lock (four threads, two cores). But the library promises no thread safety between
contexts, each would keep its own copy of the tables, and an attach needs only three elements.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.base import RULES_MISSING
from sandnet.kernel.low_descriptors import LowDescriptors
from sandnet.kernel.netlink.socket import Message, map_errors
from sandnet.kernel.nft_types import declared_sets, spelled_elements
from sandnet.kernel.nftables.element_messages import addition, removal
from sandnet.kernel.nftables.nfnetlink import Nfnetlink, TableDeclaration
from sandnet.kernel.nftables.script_compiler import compiled
from sandnet.kernel.types import NO_ELEMENTS, Elements, Listing, TableStructure, Value
from sandnet.prerequisites import NFTABLES_LIBRARY, install_command

_log = logging.getLogger(__name__)

_NUMERIC_STATELESS: Final = 0xF << 7 | 1 << 2
"""Output flags (libnftables(3)): numbers instead of names, and no counters, as we write it ourselves."""
_ABSENT_HINT: Final = "another program removed rules of sandnet's: they are restored within seconds"
_TRANSIENT: Final = (
    "Operation not permitted",
    "Operation not supported",
    "Protocol not supported",
    "Cannot allocate memory",
    "Too many open files",
    "Resource temporarily unavailable",
    "Interrupted system call",
    "No buffer space available",
    "cache initialization failed",
)
"""What the library reports when the kernel lacks a feature or a resource; other errors are our own script's."""
MANY: Final = 5000
"""Elements from which on a script is compiled: the library takes 0.1 s for them (``script_compiler``)."""
_MISSING: Final = "No such file or directory"
"""What it reports when a table, set or element that a script builds upon does not exist: another program removed it."""


_SEND_BUFFER: Final = 2 * 1024 * 1024
"""Bytes. A transaction is one message: both tables are 250 KiB, more than the usual 208. The library enlarges it only
with ``SO_SNDBUFFORCE``, which root of a user namespace may not use."""
descriptors: Final = LowDescriptors(socket.AF_NETLINK, 12, _SEND_BUFFER)
"""The library waits for its netlink socket (``NETLINK_NETFILTER``) with select(2)."""


@cache
def _library() -> ctypes.CDLL:
    """Return the loaded library.

    Raises:
        OSError: it is not installed.
    """
    library = ctypes.CDLL(NFTABLES_LIBRARY)
    library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = (ctypes.c_void_p,)
    library.nft_ctx_free.restype = None
    library.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
    library.nft_ctx_output_set_flags.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
        getattr(library, name).restype = ctypes.c_char_p
    return library


def require_library() -> None:
    """Return if the library can be loaded.

    Raises:
        Error: ``UNAVAILABLE``, code ``library_missing``; the hint is the command that installs it.
    """
    try:
        _library()
    except OSError as error:
        message = f"sandnet needs the library {NFTABLES_LIBRARY}, which is not installed here"
        raise Error(Kind.UNAVAILABLE, message, install_command("libnftables1"), "library_missing") from error


class Nftables:
    """Runs scripts in the network namespace of the thread that made the first call."""

    def __init__(self) -> None:
        descriptors.reserve()
        self._lock = threading.Lock()
        self._context: int | None = None
        self._numbers = Nfnetlink()
        self._tables = Nfnetlink()
        """A second socket: a change need not wait while tables are read."""
        self._compiled: tuple[str, Sequence[Message]] = ("", ())
        """The last script with many elements, and its messages."""
        self._acknowledged = 0
        """The last generation of the ruleset whose transactions were all ours, or have been checked."""

    def run(self, script: str, elements: Elements = NO_ELEMENTS) -> None:
        """Run the script and add elements, as one transaction.

        Args:
            script: it declares the sets of the elements.
            elements: any number of them.

        Raises:
            Error: ``UNAVAILABLE`` when the library is missing, or the kernel lacks a feature, a privilege or memory, or
                (code ``rules_gone``) what the script builds upon does not exist; ``INTERNAL`` when the script itself is
                wrong. Nothing of it has happened then.
        """
        if "\0" in script:  # C would read up to there and apply half of the script
            raise Error(Kind.INTERNAL, "nftables: the script holds a NUL character")
        if sum(map(len, elements.values())) >= MANY and self._run_compiled(script, elements):
            return
        script = "\n".join((script, *spelled_elements(declared_sets(script), elements))) + "\n" if elements else script
        with self._lock:
            before = self._generation()
            try:
                self._execute(script)
            except Error:  # the tables may differ from what it was written for: they are to be checked
                self._acknowledged = 0
                raise
            after = self._generation()
            if before == self._acknowledged and after - before <= 1:
                self._acknowledged = after

    def _run_compiled(self, script: str, elements: Elements) -> bool:
        """Do the same without a script for elements, and return whether it was done; if not, nothing has happened.

        The library then does it by itself, and reports what is wrong.
        """
        with self._lock:
            if self._compiled[0] != script:
                self._compiled = script, _compiled(script)
            messages = self._compiled[1]
            before = self._generation()
            if not messages or not before:
                return False
            try:
                done = self._numbers.transact([*messages, *addition(elements)], before)
            except OSError as refused:
                _log.debug("the library writes the rules, as the kernel refuses the messages: %s", refused)
                return False
            if done and before == self._acknowledged:
                self._acknowledged = (before + 1) % (1 << 32) or 1
            return done

    def change(self, removed: Elements, added: Elements, *, absent: bool = False) -> None:
        """Remove elements and then add others, as one transaction, without the library.

        Args:
            removed: elements that exist.
            added: elements that may exist already, with the same value.
            absent: the elements to remove may also be absent. They are added first, with their values.

        Raises:
            Error: as :meth:`run`.
        """
        first = addition(removed) if absent else ()
        messages = [*first, *removal(removed), *addition(added)]
        if not messages:
            return
        try:
            with self._lock:
                known = self._acknowledged
                if known and self._numbers.transact(messages, known):
                    self._acknowledged = (known + 1) % (1 << 32) or 1
                else:
                    self._numbers.transact(messages, 0)
        except OSError as failure:
            self._acknowledged = 0
            raise _refusal(failure.strerror or str(failure)) from failure

    def listing(self, table: str) -> Listing | None:
        """Return a table as it is in the kernel, ``None`` where there is none.

        Raises:
            Error: as :meth:`run`.
        """
        found = self._declared(table)
        if found is None:
            return None
        elements = {name: self._elements(table, name) for name in found.listable}
        present = {name: each for name, each in elements.items() if each is not None}
        # a set that is missing was removed, probably with the table, while it was read
        return Listing(found.structure, present) if len(present) == len(elements) else None

    def structure(self, table: str) -> TableStructure | None:
        """Return a table's chains, rules and sets, without elements; ``None``: there is none.

        Raises:
            Error: as :meth:`run`.
        """
        found = self._declared(table)
        return found.structure if found else None

    def members(self, table: str, name: str) -> frozenset[bytes]:
        """Return the keys of one set; none where there is no such set.

        Raises:
            Error: as :meth:`run`, except for a missing set.
        """
        return frozenset(self._elements(table, name) or ())

    def foreign_generation(self) -> int:
        """Return 0 when all transactions since the last :meth:`acknowledge` were ours; else the present generation."""
        with self._lock:
            now = self._generation()
            return 0 if now == self._acknowledged else now

    def acknowledge(self, generation: int) -> None:
        """Record that the transactions of other programs up to this generation have been checked."""
        with self._lock:
            self._acknowledged = generation

    def _declared(self, table: str) -> TableDeclaration | None:
        with map_errors(f"read nftables table {table}"):
            return self._tables.declared(table)

    def _elements(self, table: str, name: str) -> Mapping[bytes, Value] | None:
        with map_errors(f"read the elements of {name} in nftables table {table}"):
            return self._tables.elements(table, name)

    def _execute(self, script: str) -> str:
        """Return the library's output for the script. The caller holds the lock."""
        context = self._context = self._context or _new_context()
        failed = _library().nft_run_cmd_from_buffer(context, script.encode())
        # Fetched after every run, as only that empties the buffers: there may be warnings in one.
        output = _library().nft_ctx_get_output_buffer(context) or b""
        errors = _library().nft_ctx_get_error_buffer(context) or b""
        if failed:
            raise _refusal(errors.decode(errors="replace"))
        return str(output.decode(errors="replace"))

    def _generation(self) -> int:
        """Return the generation; 0 where the kernel refuses. The library reports the reason at its next call."""
        try:
            return self._numbers.generation()
        except OSError:
            return 0

    def close(self) -> None:
        """Release the library's memory and the sockets; a later :meth:`run` takes new ones."""
        self._numbers.close()
        self._tables.close()
        with self._lock:
            context, self._context = self._context, None
            if context:
                _library().nft_ctx_free(context)
                descriptors.reserve()


def _compiled(script: str) -> Sequence[Message]:
    context = _new_context()
    try:
        return compiled(_library(), context, script)
    finally:
        _library().nft_ctx_free(context)
        descriptors.reserve()


def _new_context() -> int:
    require_library()
    library = _library()
    context: int | None = descriptors.open(lambda: library.nft_ctx_new(0), library.nft_ctx_free)
    if not context:
        raise Error(Kind.UNAVAILABLE, "nftables: the library cannot start; is the kernel's nf_tables there?")
    library.nft_ctx_output_set_flags(context, _NUMERIC_STATELESS)
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    return context


def _refusal(report: str) -> Error:
    """Return the error for a report of the library.

    The first line names the fault. The following lines show a line of the script, often the wrong one.
    """
    first = next((line.strip() for line in report.splitlines() if line.strip()), "no reason given")
    message = f"nftables: {first.removeprefix('Error: ')}"
    if _MISSING in first:
        return Error(Kind.UNAVAILABLE, message, _ABSENT_HINT, RULES_MISSING)
    return Error(Kind.UNAVAILABLE if any(words in first for words in _TRANSIENT) else Kind.INTERNAL, message)
