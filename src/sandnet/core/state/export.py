"""Export and import the state as one JSON document: pure functions.

The document holds the records, the last address that each network allocated, and the host's parameters as they were
before the daemon set them. The claims follow from the records, so an import derives them again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from sandnet.core.state import schema
from sandnet.core.state.engine_records import ENGINE
from sandnet.core.state.index import R
from sandnet.core.state.schema import Record, claims_of, key_of
from sandnet.drivers.sysctls import PREFIX as SYSCTLS
from sandnet.errors import invalid
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.model.address import decode_hook, encode_hook
from sandnet.model.ids import CONTAINER_ID, ENDPOINT_NAME, NETWORK_NAME
from sandnet.model.link_names import LINK_NAME, PORT_NAME
from sandnet.stores.base import Entry, Put

_TEXTS: Final = (schema.CURSORS, SYSCTLS, ENGINE)
"""Prefixes of the keys whose values are text."""
_PARAMETER: Final = re.compile(SYSCTLS + r"net/ipv[46]/[A-Za-z0-9_./-]+")
"""The parameters that the daemon sets. As root it writes their values from the document back to them."""
_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAC: Final = re.compile(r"([0-9a-f]{2}(:[0-9a-f]{2}){5})?")
_HINT: Final = "import a document that `sandnet state export` wrote"


class Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="sandnet"
):
    """All that a store holds."""

    version: Literal[1]
    """The version of this format."""
    networks: tuple[Network, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    sandboxes: tuple[Sandbox, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    texts: dict[str, str] = {}
    """Values by store key: the last address that each network allocated, and each parameter of the host before the
    daemon set it.
    """

    @property
    def records(self) -> Sequence[Record]:
        """All records of all kinds."""
        return (*self.networks, *self.endpoints, *self.sandboxes, *self.attachments)


def dump(entries: Iterable[Entry]) -> bytes:
    """Return the content of a store as a document: indented JSON with a final line end."""
    stored = list(entries)
    document = Document(
        version=1,
        networks=_decoded(stored, schema.NETWORKS, Network),
        endpoints=_decoded(stored, schema.ENDPOINTS, Endpoint),
        sandboxes=_decoded(stored, schema.SANDBOXES, Sandbox),
        attachments=_decoded(stored, schema.ATTACHMENTS, Attachment),
        texts={entry.key: entry.value.decode() for entry in stored if entry.key.startswith(_TEXTS)},
    )
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=encode_hook), indent=2) + b"\n"


def _decoded(entries: Iterable[Entry], prefix: str, kind: type[R]) -> tuple[R, ...]:
    decoder = msgspec.json.Decoder(kind, dec_hook=decode_hook)
    found = (decoder.decode(entry.value) for entry in entries if entry.key.startswith(prefix))
    return tuple(sorted(found, key=lambda record: record.sequence))


def imported(text: bytes) -> list[Put]:
    """Return what to write to a store so that it holds the content of a document.

    Raises:
        Error: ``INVALID``: the text is not such a document, is of another version, or contradicts itself.
    """
    try:
        document = msgspec.json.decode(text, type=Document, dec_hook=decode_hook)
    except msgspec.DecodeError as failure:
        raise invalid(f"this is no exported state: {failure}", _HINT, "invalid_document") from failure
    _check_consistent(document)
    puts = [Put(key_of(record), msgspec.json.encode(record, enc_hook=encode_hook)) for record in document.records]
    claims = [Put(claim, key_of(record).encode()) for record in document.records for claim in claims_of(record)]
    return [*puts, *claims, *(Put(key, value.encode()) for key, value in document.texts.items())]


def _check_consistent(document: Document) -> None:
    """Refuse content that no store can hold: two records with one name or address, or a reference to no record."""
    keys = Counter(key for record in document.records for key in (key_of(record), *claims_of(record)))
    networks, endpoints = ({each.id for each in some} for some in (document.networks, document.endpoints))
    sandboxes = {sandbox.container_id for sandbox in document.sandboxes}
    wrong = [f"{key} is there twice" for key, count in keys.items() if count > 1]
    wrong += [f"endpoint {ep.name} is on no network" for ep in document.endpoints if ep.network_id not in networks]
    wrong += [
        f"attachment of {att.container_id} lacks its endpoint or its sandbox"
        for att in document.attachments
        if att.endpoint_id not in endpoints or att.container_id not in sandboxes
    ]
    wrong += [f"unknown key {key}" for key in document.texts if not key.startswith(_TEXTS)]
    wrong += [
        f"strange {what}: {text[:100]!r}" for what, text, rule in _checked_values(document) if not rule.fullmatch(text)
    ]
    if wrong:
        raise invalid(f"this state contradicts itself: {'; '.join(wrong[:10])}", _HINT, "invalid_document")


def _checked_values(document: Document) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Yield the values that become part of rules, paths or link names, each with the pattern that it must match.

    Paths need no check here: where they are used, they are kept below the allowed directories.
    """
    for record in document.records:
        match record:
            case Network():
                yield from (("id", record.id, _ID), ("name", record.name, NETWORK_NAME))
                yield from ((("link", record.link, LINK_NAME),) if record.link else ())
            case Endpoint():
                yield from (("id", record.id, _ID), ("name", record.name, ENDPOINT_NAME), ("MAC", record.mac, _MAC))
            case Sandbox():
                yield "container", record.container_id, CONTAINER_ID
            case Attachment():
                yield "MAC", record.mac, _MAC
                if record.host_link:
                    yield from (("link", record.host_link, PORT_NAME), ("link", record.interface, LINK_NAME))
    yield from (("parameter", key, _PARAMETER) for key in document.texts if key.startswith(SYSCTLS))
