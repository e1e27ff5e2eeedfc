"""The records of an index: those of packages at hand, and those of an index that stays where it was read to.

An index may have hundreds of thousands of records, so what is kept of a stored one is where each begins. A record is
read when somebody asks for it.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from oci_binpkg.errors import ContentError, Hint, Step
from oci_binpkg.index.scanner import scan_index
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.documents import canonical_json, parse_json
from oci_binpkg.model.spec import NEWEST_FORMAT, Spec
from oci_binpkg.model.spec_document import LAST_WITH_ALIASES, parse_node
from oci_binpkg.model.spec_forms import node_in


class _DependencyHash(msgspec.Struct, gc=False):
    hash: str


class _Needs(msgspec.Struct, gc=False):
    dependencies: tuple[_DependencyHash, ...] | None = None


class _RecordNeeds(msgspec.Struct, gc=False):
    spec: _Needs


class _Named(msgspec.Struct, gc=False):
    name: str
    hash: str


class _Outline(msgspec.Struct, gc=False):
    spec: _Named
    in_buildcache: Any = None
    deprecated_for: Any = None


class _Mark(msgspec.Struct, gc=False):
    in_buildcache: Any = None
    deprecated_for: Any = None


class _RecordSpec(msgspec.Struct, gc=False):
    spec: msgspec.Raw = msgspec.Raw(b"null")


TEXT: Final = msgspec.json.Decoder(str)
NEEDS: Final = msgspec.json.Decoder(_Needs)
RECORD_NEEDS: Final = msgspec.json.Decoder(_RecordNeeds)
OUTLINE: Final = msgspec.json.Decoder(_Outline)
MARK: Final = msgspec.json.Decoder(_Mark)
RECORD: Final = msgspec.json.Decoder(_RecordSpec)
PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_OF_OLD_NODES: Final = re.compile(rb'"compiler"\s*:\s*\{|"type"\s*:\s*\[')
"""What a node of a format before 5 has. One of format 5 may have it elsewhere, and is then looked at in full."""
NOTHING: Final = msgspec.Raw(b"null")
FORMAT_OF_VERSION: Final = {"8": 5, "7": 4, "6": 3}
_Value = TypeVar("_Value")
Notice = Callable[[str, ContentError], None]
"""Is given the hash of a record that cannot be read, and why; it may raise the error."""


def refuse(package_hash: str, error: ContentError) -> None:
    """Raise the error: no listener reports the record and goes on without it."""
    del package_hash
    raise error.again() from error


class IndexRecord(Protocol):
    """A package in an index. Written again, what was read of it stands there as it was, unknown members included."""

    @property
    def spec(self) -> Spec:
        """Its spec. Raises `ContentError` if it was not read before and cannot be."""
        ...

    @property
    def in_cache(self) -> bool:
        """Whether its layer is in the cache, or it is only needed by one that is."""
        ...

    @property
    def raw(self) -> Mapping[str, Any]:
        """Members that are not known here."""
        ...

    @property
    def needs(self) -> Iterable[str]:
        """The hashes of its dependencies."""
        ...

    def node_bytes(self, form: int) -> bytes:
        """Return its node as it is written into an index of spec format `form`."""
        ...

    def marked(self, *, in_cache: bool) -> IndexRecord:
        """Return the record with another mark."""
        ...


MOST_DAMAGED: Final = 1000
"""Damaged records that an index may have; each of them is reported."""


@dataclass(frozen=True, slots=True)
class ParsedRecord:
    """A record with its spec: that of a package of the oldest formats, whose edges its document alone explains."""

    spec: Spec
    in_cache: bool
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> Iterable[str]:
        """The hashes of its dependencies."""
        return [edge.hash for edge in self.spec.dependencies]

    def node_bytes(self, form: int) -> bytes:
        """Return its node as it is written."""
        return canonical_json(node_in(self.spec, form))

    def marked(self, *, in_cache: bool) -> ParsedRecord:
        """Return the record with another mark."""
        return replace(self, in_cache=in_cache)


class NodeText(NamedTuple):
    """The text of a node, its spec format, and how errors call the record that it is in."""

    text: bytes | msgspec.Raw
    form: int
    record: str


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record whose node is not parsed: it is written again as it stands."""

    node: NodeText
    in_cache: bool
    raw: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """The spec, parsed now. Raises `ContentError`."""
        text, form, record = self.node
        return parse_node(parse_json(bytes(text), f"{record}.spec", fold_case=False), form, f"{record}.spec")

    @property
    def needs(self) -> Iterable[str]:
        """The hashes of its dependencies. Raises `ContentError`."""
        try:
            return [edge.hash for edge in NEEDS.decode(self.node.text).dependencies or ()]
        except NOT_JSON:
            # of an old or unusual shape
            return [edge.hash for edge in self.spec.dependencies]

    def node_bytes(self, form: int) -> bytes:
        """Return its node as it is written: as it stands, unless readers of that format would refuse it."""
        text = bytes(self.node.text)
        if self.node.form == form and not (form >= NEWEST_FORMAT and _OF_OLD_NODES.search(text)):
            return text
        try:
            return canonical_json(node_in(self.spec, form))
        except ContentError:
            return text  # it is damaged, and every reader says so of this package alone

    def marked(self, *, in_cache: bool) -> OpenedRecord:
        """Return the record with another mark."""
        return replace(self, in_cache=in_cache)


class Records(Mapping[str, IndexRecord]):
    """Records by hash, in their order; they are read only where that is necessary."""

    @abstractmethod
    def in_cache(self, package_hash: str) -> bool:
        """Return whether the layer of a package is in the cache. Raises `KeyError`."""

    @abstractmethod
    def name(self, package_hash: str) -> str:
        """Return the name of a package. Raises `KeyError`."""

    @abstractmethod
    def node(self, package_hash: str) -> NodeText:
        """Return the node of a package as it stands. Raises `KeyError`."""

    @property
    def deprecated(self) -> AbstractSet[str]:
        """The hashes of the packages that another one shall take the place of."""
        return frozenset()

    def needs(self) -> Iterator[str]:
        """Iterate over the hashes that records name as dependencies, as often as they do."""
        return (needed for record in self.values() for needed in _needs_or_none(record))

    def present(self) -> Iterator[str]:
        """Iterate over the hashes of the packages whose layers are in the cache."""
        return (package_hash for package_hash in self if self.in_cache(package_hash))


class _NumberedRecords(Records):
    """Records in a text: the place, mark and name of each are kept."""

    def __init__(self, text: Spool) -> None:
        self._text = text
        self._numbers: dict[str, int] = {}
        self._starts = array("Q")
        self._sizes = array("I")
        self._marks = bytearray()
        self._names: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, package_hash: object) -> bool:
        return package_hash in self._numbers

    def in_cache(self, package_hash: str) -> bool:
        """Return whether the layer of a package is in the cache."""
        return bool(self._marks[self._numbers[package_hash]])

    def name(self, package_hash: str) -> str:
        """Return the name of a package."""
        return self._names[self._numbers[package_hash]]


class GatheredRecords(_NumberedRecords):
    """Records of packages that were met one by one: what an index is made of, or gets added."""

    def __init__(self) -> None:
        super().__init__(Spool())
        self._forms = array("B")
        self._aliased: dict[str, Spec] = {}

    def add(self, spec: Spec, *, in_cache: bool) -> None:
        """Add a package. What stood there as a dependency of another gives way to the package itself."""
        number = self._numbers.setdefault(spec.hash, len(self._starts))
        if number == len(self._starts):
            self._starts.append(0)
            self._sizes.append(0)
            self._forms.append(0)
            self._marks.append(0)
            self._names.append("")
        elif not in_cache:
            return
        node = canonical_json(spec.node)
        self._starts[number], self._sizes[number] = self._text.size, len(node)
        self._forms[number], self._marks[number] = spec.format_version, in_cache
        self._names[number] = spec.name
        self._text.write(node)
        if spec.format_version <= LAST_WITH_ALIASES:
            self._aliased[spec.hash] = spec  # its edges are not what its node says

    def __getitem__(self, package_hash: str) -> IndexRecord:
        mark = self.in_cache(package_hash)
        if package_hash in self._aliased:
            return ParsedRecord(self._aliased[package_hash], mark)
        return OpenedRecord(self.node(package_hash), mark, {})

    def node(self, package_hash: str) -> NodeText:
        """Return the node of a package."""
        number = self._numbers[package_hash]
        text = self._text.read(self._starts[number], self._sizes[number])
        return NodeText(text, self._forms[number], f"the package {package_hash}")


class StoredRecords(_NumberedRecords):
    """Records in the text of an index. One that is not a record of its hash goes to `notice` and is left out.

    Raises `ContentError` for a text that is not an index.
    """

    def __init__(self, text: Spool, what: str, notice: Notice = refuse) -> None:
        self.version = ""
        self._notice = notice
        self.extra: dict[str, Any] = {}
        super().__init__(text)
        self._form = 0
        self._what = what
        self._known_names: dict[str, str] = {}
        self._unusual: list[str] = []
        self._deprecated: set[str] = set()
        self._damaged = 0
        self._members: dict[str, bytes] = {}
        scan_index(text, what, self._add, self._member)
        if not self._form:
            self._member("version", b"null")
        if self._members.pop("installs", b"") != b"{}":
            raise ContentError(f"{what}.database.installs: an object is expected")
        self.extra = _values(self._members, what)
        # of which more can be said when the version is known
        for package_hash in self._unusual:
            try:
                spec = self[package_hash].spec
                _require(package_hash, spec.hash, self._where(package_hash))
            except ContentError as error:
                self._note_damage(package_hash, error)
                del self._numbers[package_hash]
            else:
                self._names[self._numbers[package_hash]] = spec.name

    @property
    def deprecated(self) -> AbstractSet[str]:
        """The hashes of the packages that another one shall take the place of."""
        return self._deprecated

    def __getitem__(self, package_hash: str) -> OpenedRecord:
        where = self._where(package_hash)
        parts = _decoded(PARTS, self._record(self._numbers[package_hash]), where)
        node = NodeText(parts.pop("spec", NOTHING), self._form, where)
        in_cache = bytes(parts.pop("in_buildcache", NOTHING)) == b"true"
        parts.pop("ref_count", None)
        return OpenedRecord(node, in_cache, _values(parts, where) if parts else {})

    def node(self, package_hash: str) -> NodeText:
        """Return the node of a package as it stands."""
        record = RECORD.decode(self._record(self._numbers[package_hash]))
        return NodeText(record.spec, self._form, self._where(package_hash))

    def needs(self) -> Iterator[str]:
        """Iterate over the hashes that records name as dependencies."""
        for package_hash, number in self._numbers.items():
            try:
                edges = RECORD_NEEDS.decode(self._record(number)).spec.dependencies or ()
            except NOT_JSON:
                yield from _needs_or_none(self[package_hash])
            else:
                yield from [edge.hash for edge in edges]

    def _record(self, number: int) -> bytes:
        return self._text.read(self._starts[number], self._sizes[number])

    def _where(self, package_hash: str) -> str:
        return f"{self._what}.installs.{package_hash[:64]}"

    def _member(self, name: str, value: bytes) -> None:
        if name != "version":
            self._members[name] = value
            return
        self.version = _decoded(TEXT, value, f"{self._what}.database.version")
        self._form = _format(self.version, self._what)

    def _add(self, package_hash: str, start: int, text: msgspec.Raw) -> None:
        if package_hash in self._numbers:
            raise ContentError(f"{self._what}.database.installs: a key stands twice in one object")
        try:
            mark, name = self._outline(package_hash, text)
        except ContentError as error:
            self._note_damage(package_hash, error)
            return
        self._numbers[package_hash] = len(self._starts)
        self._starts.append(start)
        self._sizes.append(len(text))
        self._marks.append(mark is True)
        self._names.append(self._known_names.setdefault(name, name))

    def _note_damage(self, package_hash: str, error: ContentError) -> None:
        """Report a record that is left out. Raises `ContentError` for too many of them: then this is not an index."""
        self._damaged += 1
        if self._damaged > MOST_DAMAGED:
            raise ContentError(
                f"{self._what}: more than {MOST_DAMAGED} of its records are damaged",
                hint=Hint(Step.REBUILD_INDEX),
            )
        self._notice(package_hash, error.with_traceback(None))

    def _outline(self, package_hash: str, text: msgspec.Raw) -> tuple[object, str]:
        """Return the mark and the name of a record. Raises `ContentError`."""
        try:
            record = OUTLINE.decode(text)
        except NOT_JSON:
            marks = _decoded(MARK, text, self._where(package_hash))
            self._unusual.append(package_hash)
            self._note_deprecated(package_hash, marks.deprecated_for)
            return marks.in_buildcache, ""
        if record.spec.hash != package_hash:
            _require(package_hash, record.spec.hash, self._where(package_hash))
        self._note_deprecated(package_hash, record.deprecated_for)
        return record.in_buildcache, record.spec.name

    def _note_deprecated(self, package_hash: str, mark: object) -> None:
        if isinstance(mark, str) and mark:
            self._deprecated.add(package_hash)


class LayeredRecords(Records):
    """Records that were added to others: nothing is dropped, a package once in the cache stays there."""

    def __init__(self, base: Records, added: Records, *, marks: Mapping[str, bool] | None = None) -> None:
        self._base = base
        self._added = added
        self._marks = {each: True for each in added.present() if each in base and not base.in_cache(each)}
        self._marks |= marks or {}
        self._new = sum(each not in base for each in added)

    def __getitem__(self, package_hash: str) -> IndexRecord:
        if package_hash not in self._base:
            return self._added[package_hash]
        record, mark = self._base[package_hash], self._marks.get(package_hash)
        return record if mark is None else record.marked(in_cache=mark)

    def __iter__(self) -> Iterator[str]:
        yield from self._base
        yield from (each for each in self._added if each not in self._base)

    def __len__(self) -> int:
        return len(self._base) + self._new

    def __contains__(self, package_hash: object) -> bool:
        return package_hash in self._base or package_hash in self._added

    @property
    def deprecated(self) -> AbstractSet[str]:
        """The hashes of the packages that another one shall take the place of."""
        return self._base.deprecated | self._added.deprecated

    def in_cache(self, package_hash: str) -> bool:
        """Return whether the layer of a package is in the cache."""
        mark = self._marks.get(package_hash)
        return self._layer(package_hash).in_cache(package_hash) if mark is None else mark

    def needs(self) -> Iterator[str]:
        """Iterate over the hashes that records name as dependencies."""
        yield from self._base.needs()
        for package_hash in self._added:
            if package_hash not in self._base:
                yield from _needs_or_none(self._added[package_hash])

    def name(self, package_hash: str) -> str:
        """Return the name of a package."""
        return self._layer(package_hash).name(package_hash)

    def node(self, package_hash: str) -> NodeText:
        """Return the node of a package as it stands."""
        return self._layer(package_hash).node(package_hash)

    def _layer(self, package_hash: str) -> Records:
        return self._base if package_hash in self._base else self._added


def _decoded(decoder: msgspec.json.Decoder[_Value], data: bytes | msgspec.Raw, where: str) -> _Value:
    """Decode a part of an index. Raises `ContentError`."""
    try:
        return decoder.decode(data)
    except NOT_JSON as error:
        raise ContentError(f"{where}: {str(error)[:200]}") from None


def _values(members: Mapping[str, bytes | msgspec.Raw], where: str) -> dict[str, Any]:
    """Parse members that are not known here. Raises `ContentError`."""
    text = b",".join(b"%b:%b" % (json.dumps(key).encode(), bytes(value)) for key, value in members.items())
    return parse_json(b"{%b}" % text, where, fold_case=False) if text else {}


def _needs_or_none(record: IndexRecord) -> Iterable[str]:
    """Return what a record needs; one that cannot be read says nothing, and is written again as it stands."""
    try:
        return record.needs
    except ContentError:
        return ()


def _require(package_hash: str, found: str, where: str) -> None:
    if found != package_hash:
        raise ContentError(f"{where}: holds the spec of {found[:64]}")


def _format(version: str, what: str) -> int:
    form = FORMAT_OF_VERSION.get(version)
    if form is None:
        raise ContentError(
            f"{what}: an index of version {version[:20]!r}; versions 6 to 8 are understood",
            hint="a newer oci-binpkg may read it",
        )
    return form
