"""The database document of a Spack tree, `.spack-db/index.json`: reading, changing, writing.

Versions 6, 7 and 8 (their nodes are of spec format 3, 4 and 5). Changes keep the document as it was read but for the
records they are about. Everything here is pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from oci_binpkg.errors import ContentError, InstallsError
from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.model.documents import object_of, parse_json
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import edges_of, parse_node
from oci_binpkg.model.spec_forms import has_edges_with, node_in

FORMATS: Final = {"6": 3, "7": 4, "8": 5}
NEWEST: Final = "8"
_LARGEST: Final = 2**53
MOST_VALUES: Final = 20_000_000
"""Values and keys of a database; one of 10,000 packages has about a million."""


@dataclass(frozen=True)
class Database:
    """A parsed database: version, the document as read, records by hash."""

    version: str
    document: Mapping[str, Any]
    records: Mapping[str, InstallRecord]

    @property
    def graph(self) -> SpecGraph:
        """The specs of all records."""
        return SpecGraph(record.spec for record in self.records.values())

    def entangled(self, record: InstallRecord) -> str:
        """Return the short name of another installed package whose prefix is, holds or lies in that of `record`."""
        own = record.spec.hash
        path = record.prefix
        for prefix in (path, *_around(path)):
            others = self._by_prefix.get(prefix, ())
            if found := next((each for each in others if each.spec.hash != own), None):
                return found.spec.short
        inside = self._inside.get(path)
        return inside.spec.short if inside is not None else ""

    @cached_property
    def _by_prefix(self) -> Mapping[str, list[InstallRecord]]:
        found: dict[str, list[InstallRecord]] = {}
        for record in self.records.values():
            if record.installed and not record.spec.is_external:
                found.setdefault(record.prefix, []).append(record)
        return found

    @cached_property
    def _inside(self) -> Mapping[str, InstallRecord]:
        """A package below each directory that holds any."""
        return {outer: records[0] for prefix, records in self._by_prefix.items() for outer in _around(prefix)}


def _around(path: str) -> Iterator[str]:
    """Yield the directories that hold a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def empty_document() -> dict[str, Any]:
    """Return the document of a tree without packages."""
    return {"database": {"version": NEWEST, "installs": {}}}


def parse_database(data: bytes, what: str) -> Database:
    """Parse a database document. Raises `InstallsError` naming the field, or the version if it is not understood."""
    try:
        document = parse_json(data, what, fold_case=False, most_values=MOST_VALUES)
        database = object_of(document, "database", what)
        version = _version(database, what)
        installs = object_of(database, "installs", f"{what}: database", optional=True)
        records = {key: _record(key, raw, FORMATS[version], f"{what}: {key}") for key, raw in installs.items()}
        graph = SpecGraph(record.spec for record in records.values())
        graph.closure(graph.values(), types=None)
    except ContentError as error:
        raise InstallsError(error.message, hint=error.hint or "`spack reindex` rebuilds a damaged database") from error
    return Database(version, document, records)


def encode_database(document: Mapping[str, Any]) -> bytes:
    """Encode a database as Spack does: compact, ASCII."""
    return json.dumps(document, separators=(",", ":")).encode()


def _version(database: Mapping[str, Any], what: str) -> str:
    version = database.get("version")
    text = str(version) if isinstance(version, str | int) else ""
    if text in FORMATS:
        return text
    # digits are compared as text: there may be thousands of them
    newer = text.isascii() and text.isdecimal() and (len(text.lstrip("0")), text) > (len(NEWEST), NEWEST)
    raise InstallsError(
        f"{what}: a database of version {str(version)[:20]!r}; versions 6 to {NEWEST} are understood",
        hint="a newer oci-binpkg may read it" if newer else "`spack reindex` with a current Spack brings it up to date",
    )


def _record(key: str, raw: object, form: int, what: str) -> InstallRecord:
    if not isinstance(raw, dict):
        raise ContentError(f"{what}: a record is an object")
    node = object_of(raw, "spec", what)
    spec = parse_node(node if "hash" in node else {**node, "hash": key}, form, what)
    if spec.hash != key:
        raise ContentError(f"{what}: the record holds the spec of {spec.hash}")
    path = raw.get("path")
    return InstallRecord(
        spec=spec,
        prefix=path if isinstance(path, str) and path != "None" else spec.external_path,
        installed=raw.get("installed") is True,
        explicit=raw.get("explicit") is True,
        installation_time=_number(raw.get("installation_time")),
        ref_count=int(_number(raw.get("ref_count"))),
        deprecated_for=deprecated if isinstance(deprecated := raw.get("deprecated_for"), str) else "",
    )


def _number(value: object) -> float:
    """Return a time or a count; an impossible value counts as absent, so that calculations with it work."""
    return value if isinstance(value, int | float) and abs(value) <= _LARGEST else 0.0


def with_package(
    document: Mapping[str, Any],
    spec: Spec,
    graph: SpecGraph,
    *,
    prefix: str,
    explicit: bool,
    installation_time: float,
    prefix_for: Callable[[Spec], str],
    elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """Return the document with `spec` installed in `prefix`, and with records for the nodes below it that it lacks.

    A new record raises the count of what it depends on by one, as Spack counts. Dependencies that are not in the tree
    count as not installed and get the prefix they would have, externals none: that a package was built with something
    in `/usr` does not say that this machine has it. Those with a hash in `elsewhere` are in an upstream tree and get no
    record. What another package said of one that is not installed gives way to what `graph` says.
    """
    installs = _copied(document)
    form = FORMATS[str(document["database"]["version"])]
    built = graph.get(spec.build_spec[1]) if spec.build_spec else None  # a spliced package's record refers to it
    for node in graph.closure([*([built] if built else []), spec], types=None, externals=True):
        if node.hash in elsewhere and node != spec:
            continue
        known, written = installs.get(node.hash), _node_in(node, form)
        if known is not None:
            if known["spec"] == written or (known.get("installed") is True and node != spec):
                continue
            _count(installs, _needed(known), -1)
        installs[node.hash] = {
            "spec": written,
            "ref_count": known.get("ref_count", 0) if known else 0,
            "path": None if node.is_external else prefix_for(node),
            "installed": False,
            "explicit": False,
            "installation_time": installation_time,
            "deprecated_for": None,
            **({key: known[key] for key in ("explicit", "deprecated_for") if key in known} if known else {}),
        }
        _count(installs, _needed(installs[node.hash]), 1)
    known = installs[spec.hash]
    installs[spec.hash] = {
        **known,
        "path": prefix,
        "installed": True,
        "explicit": explicit or known.get("explicit") is True,
        "installation_time": installation_time,
    }
    return _document(document, installs)


def without_package(document: Mapping[str, Any], package_hash: str) -> dict[str, Any]:
    """Return the document without a package, and without what was only kept for it.

    A package that others depend on keeps its record, as not installed.
    """
    installs = _copied(document)
    if package_hash in installs:
        installs[package_hash] = {**installs[package_hash], "installed": False, "deprecated_for": None}
        _drop_unneeded(installs, [package_hash])
    return _document(document, installs)


def _drop_unneeded(installs: dict[str, Any], candidates: list[str]) -> None:
    while candidates:
        record = installs.get(candidates[-1])
        key = candidates.pop()
        if record is None or record.get("installed") or _number(record.get("ref_count")) > 0:
            continue
        del installs[key]
        needed = _needed(record)
        _count(installs, needed, -1)
        candidates += needed


def _needed(record: Mapping[str, Any]) -> list[str]:
    node = record["spec"]
    if has_edges_with(node, "hash"):
        return [edge["hash"] for edge in node.get("dependencies") or ()]
    return [edge.hash for edge in edges_of(node, "a record of the tree")]


def _count(installs: dict[str, Any], keys: Iterable[str], change: int) -> None:
    for key in keys:
        if key in installs:
            count = max(int(_number(installs[key].get("ref_count"))) + change, 0)
            installs[key] = {**installs[key], "ref_count": count}


def _copied(document: Mapping[str, Any]) -> dict[str, Any]:
    return dict(document["database"].get("installs") or {})


def _document(document: Mapping[str, Any], installs: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "database": {**document["database"], "installs": dict(installs)}}


def _node_in(spec: Spec, form: int) -> dict[str, Any]:
    """Return the node for a database of spec format `form`, converted as Spack does if it is of an older one.

    Raises `InstallsError` for a node of a newer format.
    """
    if spec.format_version > form:
        raise InstallsError(
            f"{spec.short} has a spec of format {spec.format_version}; this tree holds format {form}",
            hint="a tree of Spack before 1.0 cannot record it: install into a new tree",
        )
    return node_in(spec, form)
