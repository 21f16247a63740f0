"""YAML as plain values whose places are known, with bounds on size, depth and expansion.

PyYAML composes the nodes and constructs nothing. Scalars follow the core schema of YAML 1.2 for ``true``, ``false``,
``null`` and numbers: ``no`` is text, and so is ``22:22``, which YAML 1.1 takes for a number to the base of 60.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from sandnet.errors import Error, invalid

MAX_BYTES: Final = 512 << 10
"""Limit of a file's size."""
MAX_DEPTH: Final = 16
"""Limit of nested mappings and lists."""
MAX_VALUES: Final = 50_000
"""Limit of the values in a file, with those that aliases repeat."""

_PREFIX: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset({_PREFIX + "str", _PREFIX + "seq", _PREFIX + "map"})
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]{0,8})\.[0-9]{1,9}")


class YamlDocument:
    """A file's nodes.

    Attributes:
        name: the file's name, for messages.
        root: the outermost mapping.
    """

    def __init__(self, name: str, root: yaml.MappingNode) -> None:
        self.name = name
        self.root = root
        self._left = MAX_VALUES

    def error(self, node: yaml.Node, message: str, hint: str = "") -> Error:
        """Return an error that names the file and the line of a node."""
        return invalid(f"{self.name}:{node.start_mark.line + 1}: {message}", hint, "invalid_file")

    def entries(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the nodes of the keys and values of a mapping, by key; an empty value is an empty mapping.

        Raises:
            Error: ``INVALID``: it is no mapping, a key is no text, or a key is repeated.
        """
        if isinstance(node, yaml.ScalarNode) and self.value(node) is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what}: a mapping is expected")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TAGS:
                raise self.error(key, f"{what}: a key must be text")
            if key.value in found:
                first = found[key.value][0].start_mark.line + 1
                raise self.error(key, f"{what}: the key {key.value!r} is also in line {first}")
            found[key.value] = key, value
        return found

    def value(self, node: yaml.Node, depth: int = 0) -> object:
        """Return what a node stands for.

        Raises:
            Error: ``INVALID``: it has a tag, is nested too deeply, or the file has too many values.
        """
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            bound = f"more than {MAX_VALUES} values" if self._left < 0 else f"more than {MAX_DEPTH} levels"
            raise self.error(node, f"{bound}, counting what aliases repeat")
        if node.tag not in _TAGS:
            raise self.error(node, f"the tag {node.tag.replace(_PREFIX, '!!')[:40]} is not supported")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, depth + 1) for each in node.value]
        return {key: self.value(value, depth + 1) for key, (_, value) in self.entries(node, "a mapping").items()}


def parse(text: bytes, name: str) -> YamlDocument:
    """Parse a file.

    Raises:
        Error: ``INVALID``: it is too large, no YAML, nested too deeply, or no mapping.
    """
    if len(text) > MAX_BYTES:
        raise invalid(f"{name}: more than {MAX_BYTES >> 10} KiB", code="invalid_file")
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark or yaml.Mark(name, 0, 0, 0, None, 0)).line + 1
        raise invalid(f"{name}:{line}: {error.problem or error.context}", code="invalid_file") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no text
        raise invalid(f"{name}: {error}", code="invalid_file") from error
    except RecursionError:
        raise invalid(f"{name}: nested too deeply", code="invalid_file") from None
    if not isinstance(root, yaml.MappingNode):
        raise invalid(f"{name}:1: a mapping with name, networks and services is expected", code="invalid_file")
    return YamlDocument(name, root)


def at(node: yaml.Node, path: str) -> yaml.Node:
    """Return the node at a path of msgspec's (``.ports[2]``), or the last one on the way to it."""
    for key, index in re.findall(r"\.(\w+)|\[([0-9]+)\]", path):
        if isinstance(node, yaml.MappingNode):
            found = [value for name, value in node.value if name.value == key]
        elif isinstance(node, yaml.SequenceNode) and index:
            found = node.value[int(index) : int(index) + 1]
        else:
            found = []
        if not found:
            break
        node = found[0]
    return node


def _scalar(node: yaml.ScalarNode) -> object:
    text: str = node.value
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
