"""Decoding of a project's file to its records; an error names the file, the line and the nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, TypeVar

import msgspec
import yaml

from sandnet.cli.project.entries import PROJECT_LABEL, NetworkEntry, Project, ServiceEntry, decode_hook
from sandnet.cli.project.yaml_nodes import YamlDocument, at, parse
from sandnet.wire.bandwidth import Bandwidth
from sandnet.wire.libnetwork import Probe

T = TypeVar("T", bound=msgspec.Struct)

_MESSAGE: Final = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def project(text: bytes, file: str) -> Project:
    """Decode a project's file.

    Args:
        text: the content.
        file: the file's name, for messages.

    Raises:
        Error: ``INVALID``, with file, line and reason.
    """
    document = parse(text, file)
    sections = document.entries(document.root, "the file")
    _known_keys(document, sections.values(), Project, "")
    networks, services = (_section(document, sections, name) for name in ("networks", "services"))
    if "name" not in sections:
        raise document.error(document.root, "name: the project's name is missing", "add a line such as: name: shop")
    name = sections["name"][1]
    head = _decoded(document, yaml.MappingNode(document.root.tag, [sections["name"]], name.start_mark), Project, "")
    decoded = msgspec.structs.replace(
        head,
        networks={key: _entry(document, node, NetworkEntry, f"networks.{key}") for key, node in networks.items()},
        services={key: _entry(document, node, ServiceEntry, f"services.{key}") for key, node in services.items()},
    )
    _refuse_twins(document, decoded, services)
    return decoded


def _section(
    document: YamlDocument, sections: dict[str, tuple[yaml.Node, yaml.Node]], name: str
) -> dict[str, yaml.Node]:
    """Return the entries of a section; each empty one as an empty mapping."""
    if name not in sections:
        return {}
    entries = document.entries(sections[name][1], name)
    return {key: node for key, (_, node) in entries.items()}


def _entry(document: YamlDocument, node: yaml.Node, kind: type[T], place: str) -> T:
    entries = document.entries(node, place)
    _known_keys(document, entries.values(), kind, place)
    if "probe" in entries:
        probe = document.entries(entries["probe"][1], f"{place}.probe")
        _known_keys(document, probe.values(), Probe, f"{place}.probe")
    if "bandwidth" in entries:
        limits = document.entries(entries["bandwidth"][1], f"{place}.bandwidth")
        _known_keys(document, limits.values(), Bandwidth, f"{place}.bandwidth")
    if "labels" in entries:
        _check_labels(document, entries["labels"][1], f"{place}.labels")
    return _decoded(document, node, kind, place)


def _check_labels(document: YamlDocument, node: yaml.Node, place: str) -> None:
    for key, (name, value) in document.entries(node, place).items():
        if key == PROJECT_LABEL:
            raise document.error(name, f"{place}: {PROJECT_LABEL} is set by sandnet apply")
        if not isinstance(document.value(value), str):
            raise document.error(value, f"{place}.{key[:64]}: expected text", "write it in quotes")


def _decoded(document: YamlDocument, node: yaml.Node, kind: type[T], place: str) -> T:
    try:
        return msgspec.convert(document.value(node) or {}, kind, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        match = _MESSAGE.fullmatch(str(error))
        path = (match and match["path"]) or ""
        reason = (match and match["reason"]) or str(error)
        raise document.error(at(node, path), f"{(place + path).lstrip('.')}: {_plain(reason)}") from error


def _plain(reason: str) -> str:
    """Return msgspec's reason in the words of YAML."""
    named = re.sub(r"`([a-z0-9 |]+)`", lambda found: _named(found[1]), reason)
    return named[0].lower() + named[1:]


def _named(types: str) -> str:
    return " or ".join(_TYPES.get(each, each) for each in types.split(" | "))


def _known_keys(
    document: YamlDocument, entries: Iterable[tuple[yaml.Node, yaml.Node]], kind: type[msgspec.Struct], place: str
) -> None:
    for key, _ in entries:
        if key.value not in kind.__struct_fields__:
            where = f"{place}: " if place else ""
            message = f"{where}unknown key {key.value[:64]!r}"
            raise document.error(key, message, _nearest(key.value[:64], kind.__struct_fields__))


def _nearest(key: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(key.lower().replace("-", "_"), known, 1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _refuse_twins(document: YamlDocument, decoded: Project, nodes: dict[str, yaml.Node]) -> None:
    """Refuse two entries that stand for the same service."""
    seen: dict[tuple[str, str], str] = {}
    for key, entry in decoded.services.items():
        identity = entry.network, entry.name or key
        if identity in seen:
            raise document.error(nodes[key], f"services.{key}: this is the service of services.{seen[identity]}")
        seen[identity] = key
