"""Conversion of events into the dialect's messages."""

from __future__ import annotations

import msgspec

from sandnet.api.libnetwork.encode import Encoder, moment
from sandnet.core.controller import Controller
from sandnet.core.state.events import Event, Subject
from sandnet.errors import Error
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.wire import libnetwork as wire

_ENDINGS = ("removed", "detached")


class EventEncoder:
    """Encoder of the events of one stream.

    An event contains the record and the names around it as they were when it happened. Other objects around it are read
    when it is encoded.
    """

    def __init__(self, core: Controller) -> None:
        self._core = core

    def encoded(self, event: Event) -> wire.Event:
        """Return an event as a line of the stream."""
        subject = event.subject
        line = wire.Event(sequence=event.sequence, time=moment(event.time), action=event.action)
        if event.repair:
            line.problem = event.repair.problem
        if event.warning:
            line.problem = event.warning
        if event.repair and subject is None:
            line.type, line.name = event.repair.kind, event.repair.object
        if subject is not None:
            _name(line, event, subject)
            if event.action not in _ENDINGS:
                self._show(line, subject)
        return line

    def _show(self, line: wire.Event, subject: Subject) -> None:
        try:
            line.object = msgspec.to_builtins(self._object(subject))
        except Error:  # its parent was removed in the meantime, and so was it: the event of its own removal follows
            return

    def _object(self, subject: Subject) -> wire.Network | wire.Endpoint | wire.Sandbox | wire.Backend:
        encoder = Encoder(self._core, verbose=True)
        match subject:
            case Network():
                return encoder.network(subject)
            case Endpoint():
                return encoder.endpoint(subject, self._core.networks.get(subject.network_id))
            case Sandbox():
                return encoder.sandbox(subject)
            case Attachment():
                return encoder.backend(subject)


def _name(line: wire.Event, event: Event, subject: Subject) -> None:
    match subject:
        case Network():
            line.type, line.id, line.name = "network", subject.id, subject.name
        case Endpoint():
            line.type, line.id, line.name = "endpoint", subject.id, subject.name
            line.network = event.network
        case Sandbox():
            line.type, line.id, line.name = "sandbox", subject.container_id, subject.host_name
        case Attachment():
            line.type, line.id, line.name = "backend", subject.container_id, event.service
            line.network = event.network
            line.service, line.container = subject.endpoint_id, subject.container_id
