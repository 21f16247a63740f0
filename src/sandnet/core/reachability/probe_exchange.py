"""The host's end of all probes: it answers those of other hosts, and gives answers to the checks that wait for them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final

from sandnet.core.cluster.shared_values import HostRecord
from sandnet.core.reachability.answer_limits import AnswerLimits
from sandnet.core.reachability.probe_frames import ANSWER, NONCE, QUESTION, Probe, decode, digest, encode, size_of
from sandnet.errors import Error
from sandnet.model import Address

_log = logging.getLogger(__name__)

OpenReceiver = Callable[[Address, int], Awaitable[socket.socket]]
"""Opens the socket by which frames of probes arrive, for a local address and a UDP port."""
_BATCH: Final = 64
"""Frames that are read before others have their turn."""
_REST: Final = 0.1
"""Seconds in which nothing is read after a full batch: a flood of probes costs little, the kernel drops the rest."""
_KNOWN: Final = 1.0
"""Seconds for which the hosts are not read again."""
_LARGEST_FRAME: Final = 1 << 16
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 10, 23, 62  # linux/in.h, linux/in6.h
_PMTUDISC_PROBE: Final = 3
"""Never fragment, whatever the kernel believes of the path."""


class ProbeExchange:
    """Sends and receives probes. It is closed before :meth:`ensure`.

    Args:
        name: this host's.
        hosts: returns all hosts: only they get answers, at the addresses that the store has.
        open_receiver: see :data:`OpenReceiver`.
        port: UDP port of VXLAN.
    """

    def __init__(
        self, name: str, hosts: Callable[[], Iterable[HostRecord]], open_receiver: OpenReceiver, port: int
    ) -> None:
        self.port = port
        self._sender, self._hosts, self._open_receiver = digest(name), hosts, open_receiver
        self._receiver: socket.socket | None = None
        self._answers: socket.socket | None = None
        self._local: Address | None = None
        self._limits = AnswerLimits()
        self._opening = asyncio.Lock()
        self._known: dict[bytes, HostRecord] = {}
        self._known_at = -_KNOWN
        self._waiting: dict[bytes, Callable[[Probe], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.problem = "probes have not begun"
        """Why no probe is possible; empty: they are."""

    async def ensure(self, local: Address | None) -> None:
        """Open the sockets, or open them again for another address of this host; never raises."""
        async with self._opening:
            await self._ensure(local)

    async def _ensure(self, local: Address | None) -> None:
        if self._receiver is not None and local == self._local:
            return
        self.close()
        if local is None:
            self.problem = "this host has no address for other hosts"
            return
        try:
            self._receiver = await self._open_receiver(local, self.port)
            self._answers = bound_socket(local)
        except (Error, OSError) as failure:
            self.close()
            if str(failure) != self.problem:
                _log.info("other hosts cannot be probed: %s", failure)
            self.problem = str(failure)
            return
        self._local, self.problem = local, ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._receiver, self._read)

    def close(self) -> None:
        """Close the sockets."""
        if self._receiver and self._loop:
            self._loop.remove_reader(self._receiver)
        for each in (self._receiver, self._answers):
            if each is not None:
                each.close()
        self._receiver = self._answers = self._local = None
        self.problem = "probes have ended"

    @property
    def local(self) -> Address | None:
        """This host's address for other hosts; ``None``: no probe is possible."""
        return self._local

    # Questions.

    def question(self, size: int, version: int, answered: Callable[[Probe], None]) -> tuple[bytes, bytes]:
        """Return the content of a question, and its nonce, for :meth:`forget`.

        Args:
            size: of the IP packet.
            version: of that packet's IP.
            answered: gets the answer, if one comes.
        """
        nonce = os.urandom(NONCE)
        self._waiting[nonce] = answered
        return encode(Probe(QUESTION, self._sender, nonce, time.time_ns()), size, version), nonce

    def forget(self, nonces: Iterable[bytes]) -> None:
        """Wait for these answers no more."""
        for nonce in nonces:
            self._waiting.pop(nonce, None)

    # What arrives.

    def _read(self) -> None:
        receiver = self._receiver
        for _ in range(_BATCH):
            if receiver is None:
                return
            try:
                frame = receiver.recv(_LARGEST_FRAME)
            except OSError:
                return
            self.received(frame)
        if receiver and self._loop:
            self._loop.remove_reader(receiver)
            self._loop.call_later(_REST, self._resume, receiver)

    def _resume(self, receiver: socket.socket) -> None:
        if receiver is self._receiver and self._loop:
            self._loop.add_reader(receiver, self._read)

    def received(self, frame: bytes) -> None:
        """Answer a question, or give an answer to whom waits for it; any host may have sent the frame."""
        probe = decode(frame)
        if probe is None:
            return
        if probe.kind == ANSWER and (answered := self._waiting.pop(probe.nonce, None)):
            answered(probe)
        elif probe.kind == QUESTION:
            self._answer(probe, frame)

    def _answer(self, question: Probe, frame: bytes) -> None:
        asker = self._member(question.sender)
        if asker is None or asker.underlay is None or self._local is None or self._answers is None:
            return
        version = self._local.version
        if asker.underlay.version != version or asker.underlay == self._local or not self._limits.allow(asker.name):
            return
        answer = Probe(ANSWER, self._sender, question.nonce, time.time_ns())
        with suppress(OSError):  # a question that is larger than what may leave here has no answer
            self._answers.sendto(encode(answer, size_of(frame, version), version), (str(asker.underlay), self.port))

    def _member(self, sender: bytes) -> HostRecord | None:
        now = time.monotonic()
        if now - self._known_at > _KNOWN:
            self._known, self._known_at = {digest(host.name): host for host in self._hosts()}, now
            self._limits.keep({host.name for host in self._known.values()})
        return self._known.get(sender)


def bound_socket(local: Address) -> socket.socket:
    """Return a UDP socket with a local address, whose packets are never fragmented.

    Raises:
        OSError: the address is not of this host.
    """
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if local.version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        made.bind((str(local), 0))
    except BaseException:
        made.close()
        raise
    return made
