"""The state as one JSON document, to be kept or carried elsewhere: pure functions.

It holds records, how far each network has given out addresses, and the host's parameters as they were. What follows
from these (claims) is made anew when it is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from sandnet.core.state.index import R, Record, claims_of, key_of
from sandnet.errors import invalid
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.model.address import decode_hook, encode_hook
from sandnet.model.ids import CONTAINER_ID, ENDPOINT_NAME, NETWORK_NAME
from sandnet.model.link_names import LINK_NAME, OUR_LINKS
from sandnet.stores.base import Entry, Put

_TEXTS: Final = ("cursor/", "sysctl/")
"""Keys whose values are text."""
_PARAMETER: Final = re.compile(r"sysctl/net/ipv[46]/[A-Za-z0-9_./-]+")
"""Those that we set. What stands in a document is written to them, by root."""
_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAC: Final = re.compile(r"([0-9a-f]{2}(:[0-9a-f]{2}){5})?")
_HINT: Final = "import a document that `sandnet state export` wrote"


class Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="sandnet"
):
    """All that a store holds."""

    version: Literal[1]
    """Of this format."""
    networks: tuple[Network, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    sandboxes: tuple[Sandbox, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    texts: dict[str, str] = {}
    """By store key: the last address that each network gave out, and each parameter of the host before we set it."""

    @property
    def records(self) -> Sequence[Record]:
        """All of them."""
        return (*self.networks, *self.endpoints, *self.sandboxes, *self.attachments)


def dump(entries: Iterable[Entry]) -> bytes:
    """The document of what a store holds, as indented JSON with a last line end."""
    held = list(entries)
    document = Document(
        version=1,
        networks=_decoded(held, "network/", Network),
        endpoints=_decoded(held, "endpoint/", Endpoint),
        sandboxes=_decoded(held, "sandbox/", Sandbox),
        attachments=_decoded(held, "attachment/", Attachment),
        texts={entry.key: entry.value.decode() for entry in held if entry.key.startswith(_TEXTS)},
    )
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=encode_hook), indent=2) + b"\n"


def _decoded(entries: Iterable[Entry], prefix: str, kind: type[R]) -> tuple[R, ...]:
    decoder = msgspec.json.Decoder(kind, dec_hook=decode_hook)
    found = (decoder.decode(entry.value) for entry in entries if entry.key.startswith(prefix))
    return tuple(sorted(found, key=lambda record: record.sequence))


def imported(text: bytes) -> list[Put]:
    """What a store is to hold by a document.

    Raises:
        Error: ``INVALID``: it is none, of another version, or contradicts itself.
    """
    try:
        document = msgspec.json.decode(text, type=Document, dec_hook=decode_hook)
    except msgspec.DecodeError as failure:
        raise invalid(f"this is no exported state: {failure}", _HINT, "invalid_document") from failure
    _check_whole(document)
    puts = [Put(key_of(record), msgspec.json.encode(record, enc_hook=encode_hook)) for record in document.records]
    claims = [Put(claim, key_of(record).encode()) for record in document.records for claim in claims_of(record)]
    return [*puts, *claims, *(Put(key, value.encode()) for key, value in document.texts.items())]


def _check_whole(document: Document) -> None:
    """Refuse what no store can hold: two of one name or address, or something on nothing."""
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
    wrong += [f"strange {what}: {text[:100]!r}" for what, text, rule in _words(document) if not rule.fullmatch(text)]
    if wrong:
        raise invalid(f"this state contradicts itself: {'; '.join(wrong[:10])}", _HINT, "invalid_document")


def _words(document: Document) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """What becomes part of rules and of paths, or names links: each with what it may look like.

    Paths need no look here: where they are used, they are kept below the directories that are allowed.
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
                    yield from (("link", record.host_link, OUR_LINKS["veth"]), ("link", record.interface, LINK_NAME))
    yield from (("parameter", key, _PARAMETER) for key in document.texts if key.startswith("sysctl/"))
