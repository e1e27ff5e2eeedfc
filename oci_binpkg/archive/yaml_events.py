"""YAML of strangers, read event by event: what it becomes is counted while it is made.

A YAML document may say with a few bytes what takes gigabytes: aliases of aliases, merged mappings, a list of millions
of texts of one letter. So nodes are counted, those that an alias stands for each time; and what is nested is kept on a
stack of our own, not on the interpreter's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from oci_binpkg.model.documents import MOST_VALUES

_Loader: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MERGE: Final = "<<"
_SHOWN: Final = 60
_PLAIN_TAGS: Final = frozenset((None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))

Scalar = Callable[[Any], Any]
"""Makes a value of the event of a scalar. May raise `YamlError`."""


class YamlError(Exception):
    """A document that is not accepted: why, with no more of it than a key, and the line if it is known (from 1)."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


@dataclass(frozen=True, slots=True)
class YamlLimits:
    """How much a document may become: nodes, levels of nesting, nodes with an anchor.

    `tags` false refuses lists and mappings with a tag of another type.
    """

    nodes: int = MOST_VALUES
    depth: int = 20
    anchors: int = 1000
    tags: bool = True


def as_written(event: Any) -> str:
    """Return a scalar as text, whatever other readers take it for."""
    text: str = event.value
    return text


def read_yaml(data: bytes, *, scalar: Scalar = as_written, limits: YamlLimits = YamlLimits()) -> Any:
    """Return what one document holds, None for an empty one. Raises `YamlError`.

    `<<` merges mappings where `scalar` leaves it as it is and its value is a mapping or a list of those: keys that are
    there already win. No key may stand twice.
    """
    loader, reading = _Loader(data), _Reading(scalar, limits)
    try:
        while loader.check_event():
            reading.take(loader.get_event())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise YamlError(str(error.problem), mark.line + 1 if mark else 0) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(" ".join(str(error).split())[:200]) from None
    finally:
        loader.dispose()
    return reading.document


@dataclass(slots=True)
class _Open:
    """A list or mapping that is not complete; `before`: how many nodes there were when it began."""

    value: Any
    anchor: str | None
    before: int
    key: Any = None
    has_key: bool = False
    merged: list[Any] = field(default_factory=list)


class _Reading:
    """Takes the events of a document in order."""

    def __init__(self, scalar: Scalar, limits: YamlLimits) -> None:
        self.document: Any = None
        self._scalar = scalar
        self._limits = limits
        self._nodes = 0
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}

    def take(self, event: Any) -> None:
        """Take the next event. Raises `YamlError` for more than is allowed."""
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._count(1, event)
            value = self._scalar(event)
            if event.anchor is not None:
                self._name(event.anchor, value, 1, event)
            self._put(value, event)
        elif kind is yaml.SequenceStartEvent or kind is yaml.MappingStartEvent:
            self._begin([] if kind is yaml.SequenceStartEvent else {}, event)
        elif kind is yaml.SequenceEndEvent or kind is yaml.MappingEndEvent:
            self._end(event)
        elif kind is yaml.AliasEvent:
            value, nodes = self._anchors.get(event.anchor, (None, 0))
            if not nodes:
                raise YamlError("an alias of nothing that is complete before it", _line(event))
            self._count(nodes, event)
            self._put(value, event)
        elif kind is yaml.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                raise YamlError("more than one document", _line(event))

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > self._limits.nodes:
            raise YamlError(f"more than {self._limits.nodes} values", _line(event))

    def _name(self, anchor: str, value: Any, nodes: int, event: Any) -> None:
        self._anchors[anchor] = (value, nodes)
        if len(self._anchors) > self._limits.anchors:
            raise YamlError(f"more than {self._limits.anchors} anchors", _line(event))

    def _begin(self, value: Any, event: Any) -> None:
        self._count(1, event)
        if len(self._open) >= self._limits.depth:
            raise YamlError("nested too deeply", _line(event))
        if not self._limits.tags and event.tag not in _PLAIN_TAGS:
            raise YamlError("a value of a kind that is not known", _line(event))
        self._anchors.pop(event.anchor, None)
        self._open.append(_Open(value, event.anchor, self._nodes - 1))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        for mapping in done.merged:
            self._count(2 * len(mapping), event)
            done.value.update({key: value for key, value in mapping.items() if key not in done.value})
        if done.anchor is not None:
            self._name(done.anchor, done.value, self._nodes - done.before, event)
        self._put(done.value, event)

    def _put(self, value: Any, event: Any) -> None:
        if not self._open:
            self.document = value
            return
        within = self._open[-1]
        if isinstance(within.value, list):
            within.value.append(value)
        elif not within.has_key:
            if isinstance(value, list | dict):
                raise YamlError("a key comes twice or is no text", _line(event))
            within.key, within.has_key = value, True
        else:
            within.has_key = False
            if not self._merges(within, value):
                if within.key in within.value:
                    shown = repr(within.key)[:_SHOWN]
                    raise YamlError(f"line {_line(event)}: the key {shown} comes twice or is no text")
                within.value[within.key] = value

    @staticmethod
    def _merges(within: _Open, value: Any) -> bool:
        if within.key != _MERGE:
            return False
        mappings = value if isinstance(value, list) else [value]
        if not mappings or not all(isinstance(each, dict) for each in mappings):
            return False
        within.merged += mappings
        return True


def _line(event: Any) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0
