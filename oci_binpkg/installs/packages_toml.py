"""Prefixes that no Spack made: a folder with a `packages.toml` that says what is in which directory.

    [defaults]
    arch = {platform = "linux", os = "debian12", target = "x86_64"}

    [[package]]
    name = "zlib"
    version = "1.3.1"
    prefix = "zlib-1.3.1"                       # relative to the folder, or absolute
    variants = {shared = true, api = "v2"}      # optional
    depends = ["cmake", {name = "cfg@0.9", types = ["run"]}]

    [package.environment]                       # optional: what it adds to the environment of what uses it
    set = {ZLIB_HOME = "{prefix}", CFG_HOME = "{prefix:cfg}"}
    prepend_path = {PYTHONPATH = ["lib/python", "{prefix}/share/python"]}

`depends` names packages of the same file, by name, name@version, or with a hash prefix where that is not enough
(name/hash). The hash of a package is over all that its tables say, prefixes and environment aside, and over its
dependencies' hashes: a prefix that was rebuilt differently under the same description needs a variant that says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oci_binpkg.disk import read_regular
from oci_binpkg.errors import ContentError, InstallsError
from oci_binpkg.installs.environment_tables import read_environment, with_hashes
from oci_binpkg.installs.protocol import PACKAGES_FILE, InstallRecord
from oci_binpkg.model.run_environment import RunEnvironment
from oci_binpkg.model.spec import FLAGS, RUNTIME, Spec, SpecGraph
from oci_binpkg.model.spec_document import parse_node
from oci_binpkg.model.spec_hash import PACKAGES_NAMESPACE, packages_hash
from oci_binpkg.model.toml_documents import parse_toml

_MAX_BYTES: Final = 64 * 1024 * 1024
_TOP_KEYS: Final = ("defaults", "package")
_KEYS: Final = ("name", "version", "prefix", "depends", "variants", "arch", "explicit", "environment")
_ARCH_KEYS: Final = ("platform", "os", "target")
_EDGE_KEYS: Final = ("name", "types")
_TYPES: Final = ("build", "link", "run", "test")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_VERSION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_EDGE: Final = re.compile(r"(?P<name>[^@/]*)(?:@(?P<version>[^/]+))?(?:/(?P<hash>[a-z2-7]+))?", re.ASCII)
_RESERVED: Final = frozenset({"name", "version", "os", "target", "platform", "arch", "namespace"})


@dataclass(frozen=True, slots=True)
class _WrittenDependency:
    """A dependency as written, and the part of the file it stands in."""

    text: str
    types: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class _Table:
    """One `[[package]]` table."""

    where: str
    name: str
    version: str
    prefix: str
    explicit: bool
    arch: Mapping[str, str]
    variants: Mapping[str, Any]
    edges: tuple[_WrittenDependency, ...]
    environment: RunEnvironment


class PrefixInstalls:
    """The packages of a folder with a `packages.toml`, which is only read. Raises `InstallsError` for what is wrong."""

    def __init__(self, root: str, *, spack_prefix: str = "") -> None:
        self._root = os.path.abspath(root)
        self._spack_prefix = spack_prefix or self._root
        self._file = os.path.join(self._root, PACKAGES_FILE)
        records = _build(_tables(_parse(self._file), self._file, self._root))
        self._records = {record.spec.hash: record for record in records}
        self._graph = SpecGraph(record.spec for record in records)

    @property
    def root(self) -> str:
        """The absolute path of the folder."""
        return self._root

    @property
    def spack_prefix(self) -> str:
        """As given, else the root."""
        return self._spack_prefix

    @property
    def sbang_path(self) -> str:
        """`ROOT/bin/sbang`."""
        return os.path.join(self._root, "bin", "sbang")

    @property
    def graph(self) -> SpecGraph:
        """The specs of all packages."""
        return self._graph

    def records(self) -> tuple[InstallRecord, ...]:
        """Return all packages in the order of the file."""
        return tuple(self._records.values())

    def record(self, package_hash: str) -> InstallRecord | None:
        """Return the record of a hash."""
        return self._records.get(package_hash)

    def prefix_for(self, spec: Spec) -> str:
        """Return the prefix the file names for `spec`, or a folder by name and version for one it does not name."""
        known = self._records.get(spec.hash)
        return known.prefix if known else os.path.join(self._root, f"{spec.name}-{spec.version}-{spec.hash}")

    def check_prefix(self, record: InstallRecord) -> None:
        """Accept any prefix: the file names the places."""


def _parse(path: str) -> dict[str, Any]:
    try:
        return parse_toml(read_regular(path, _MAX_BYTES), path)
    except ContentError as error:
        raise InstallsError(error.message, **error.fields) from error
    except OSError as error:
        raise InstallsError(
            f"{path}: cannot be read: {error.strerror}", hint="put a file there that describes the packages"
        ) from error


def _tables(document: Mapping[str, Any], file: str, root: str) -> list[_Table]:
    _known_keys(document, _TOP_KEYS, file)
    defaults = _table(document.get("defaults", {}), f"{file}: [defaults]")
    _known_keys(defaults, ("arch",), f"{file}: [defaults]")
    packages = document.get("package")
    if not isinstance(packages, list) or not packages:
        raise InstallsError(f"{file}: no [[package]] table", hint="describe each prefix in a [[package]] table")
    return [
        _package(_table(package, where), where, root, defaults.get("arch"))
        for position, package in enumerate(packages, 1)
        for where in [f"{file}: [[package]] {position}"]
    ]


def _package(table: Mapping[str, Any], where: str, root: str, arch: object) -> _Table:
    where = f"{where} ({table['name']})" if isinstance(table.get("name"), str) else where
    _known_keys(table, _KEYS, where)
    prefix = os.path.normpath(os.path.join(root, _text(table, "prefix", where)))
    if not os.path.isdir(prefix):
        raise InstallsError(
            f"{where}: prefix: {prefix} is not a directory", hint=f"a relative prefix is relative to {root}"
        )
    depends = table.get("depends", [])
    if not isinstance(depends, list):
        raise InstallsError(f'{where}: depends: a list is expected, as in ["zlib", {{name = "cfg", types = ["run"]}}]')
    explicit = table.get("explicit", True)
    if not isinstance(explicit, bool):
        raise InstallsError(f"{where}: explicit: true or false is expected")
    return _Table(
        where=where,
        name=_text(table, "name", where, _NAME),
        version=_text(table, "version", where, _VERSION),
        prefix=prefix,
        explicit=explicit,
        arch=_arch(table.get("arch", arch), where),
        variants=_variants(_table(table.get("variants", {}), f"{where}: variants"), where),
        edges=tuple(_edge(edge, f"{where}: depends[{i}]") for i, edge in enumerate(depends)),
        environment=read_environment(_table(table.get("environment", {}), f"{where}: environment"), where),
    )


def _arch(arch: object, where: str) -> dict[str, str]:
    if arch is None:
        raise InstallsError(
            f"{where}: arch is missing, also in [defaults]",
            hint='write arch = {platform = "linux", os = "debian12", target = "x86_64"} under [defaults]',
        )
    table = _table(arch, f"{where}: arch")
    _known_keys(table, _ARCH_KEYS, f"{where}: arch")
    platform, system, target = (_text(table, key, f"{where}: arch", _WORD) for key in _ARCH_KEYS)
    return {"platform": platform, "platform_os": system, "target": target}


def _variants(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name, value in table.items():
        if not _WORD.fullmatch(name) or name in _RESERVED:
            raise InstallsError(f"{where}: variants: {name!r} cannot be the name of a variant")
        many = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if not many and (name in FLAGS or not isinstance(value, bool | str)):
            allowed = "a list of texts" if name in FLAGS else "true, false, a text or a list of texts"
            raise InstallsError(f"{where}: variants.{name}: {allowed} is expected")
    return dict(table)


def _edge(edge: object, where: str) -> _WrittenDependency:
    table = {"name": edge} if isinstance(edge, str) else _table(edge, where)
    _known_keys(table, _EDGE_KEYS, where)
    text = _text(table, "name", where)
    types = table.get("types", [*RUNTIME])
    if not isinstance(types, list) or not types or not all(each in _TYPES for each in types):
        raise InstallsError(f"{where}: types: a list of {', '.join(_TYPES)} is expected")
    match = _EDGE.fullmatch(text)
    if match is None or not (match["name"] or match["hash"]):
        raise InstallsError(f"{where}: {text!r} names no package", hint="write NAME, NAME@VERSION or NAME/HASH")
    return _WrittenDependency(text, tuple(each for each in _TYPES if each in types), where)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InstallsError(f"{where}: a table is expected")
    return value


def _known_keys(table: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise InstallsError(f"{where}: unknown key {key!r}", hint=f"allowed are {', '.join(allowed)}")


def _text(table: Mapping[str, Any], key: str, where: str, pattern: re.Pattern[str] | None = None) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        problem = "is missing" if value is None else "a text in quotes is expected"
        raise InstallsError(f"{where}: {key}: {problem}")
    if pattern is not None and not pattern.fullmatch(value):
        dot = {_NAME: "", _VERSION: " . + ~"}.get(pattern, " .")
        raise InstallsError(f"{where}: {key}: {value!r} is not allowed", hint=f"allowed are A-Z a-z 0-9 _ -{dot}")
    return value


def _build(tables: list[_Table]) -> list[InstallRecord]:
    """Turn tables into records: each package as soon as all it depends on has its hash."""
    _refuse_same_prefix(tables)
    built: dict[int, Spec] = {}
    while len(built) < len(tables):
        ready = [
            (i, targets)
            for i, table in enumerate(tables)
            if i not in built and (targets := _targets(table, tables, built)) is not None
        ]
        if not ready:
            _refuse_unresolved(tables, built)
        for i, targets in ready:
            built[i] = _spec(tables[i], targets)
    _refuse_same_hash(tables, built)
    for table in tables:
        for edge in table.edges:
            _only(_matching(edge, tables, built), edge, tables, built)
    return [
        InstallRecord(
            built[i],
            table.prefix,
            explicit=table.explicit,
            environment=with_hashes(
                table.environment, {built[j].name: built[j].hash for j in _needed(i, tables, built)}, table.where
            ),
        )
        for i, table in enumerate(tables)
    ]


def _needed(start: int, tables: list[_Table], built: Mapping[int, Spec]) -> list[int]:
    """Return the numbers of a table and of all that it depends on, what is nearest last."""
    found, pending = [start], [start]
    while pending:
        for edge in tables[pending.pop(0)].edges:
            target = _only(_matching(edge, tables, built), edge, tables, built)
            if target not in found:
                found.append(target)
                pending.append(target)
    return found[::-1]


def _matching(edge: _WrittenDependency, tables: list[_Table], built: Mapping[int, Spec]) -> list[int]:
    """Return the numbers of the tables that an edge can mean; those without a hash yet do not match a hash."""
    match = _EDGE.fullmatch(edge.text)
    assert match is not None
    return [
        i
        for i, table in enumerate(tables)
        if (not match["name"] or table.name == match["name"])
        and (not match["version"] or table.version == match["version"])
        and (not match["hash"] or (i in built and built[i].hash.startswith(match["hash"])))
    ]


def _only(found: list[int], edge: _WrittenDependency, tables: list[_Table], built: Mapping[int, Spec]) -> int:
    if len(found) == 1:
        return found[0]
    if not found:
        names = sorted({table.name for table in tables})
        raise InstallsError(f"{edge.where}: no package {edge.text!r} in this file", hint=f"it has {', '.join(names)}")
    known = ", ".join(built[i].short if i in built else f"{tables[i].name}@{tables[i].version}" for i in found)
    raise InstallsError(
        f"{edge.where}: {edge.text!r} can mean {known}", hint="write NAME@VERSION, or NAME/HASH with the first letters"
    )


def _targets(
    table: _Table, tables: list[_Table], built: Mapping[int, Spec]
) -> list[tuple[Spec, _WrittenDependency]] | None:
    """Return what a table's edges lead to, or None while any of it has no hash yet or is not clear."""
    targets = []
    for edge in table.edges:
        found = _matching(edge, tables, built)
        if len(found) != 1 or found[0] not in built:
            return None
        targets.append((built[found[0]], edge))
    return targets


def _spec(table: _Table, targets: Iterable[tuple[Spec, _WrittenDependency]]) -> Spec:
    flags = {name: table.variants.get(name, []) for name in FLAGS}
    node: dict[str, Any] = {
        "name": table.name,
        "version": table.version,
        "arch": dict(table.arch),
        "namespace": PACKAGES_NAMESPACE,
        "parameters": {**{key: table.variants[key] for key in sorted(table.variants) if key not in FLAGS}, **flags},
    }
    edges = sorted(targets, key=lambda target: (target[0].name, target[0].hash))
    if edges:
        node["dependencies"] = [
            {"name": spec.name, "hash": spec.hash, "parameters": {"deptypes": list(edge.types), "virtuals": []}}
            for spec, edge in edges
        ]
    node["annotations"] = {"original_specfile_version": 5}
    return parse_node({**node, "hash": packages_hash(node)}, 5, table.where)


def _refuse_same_prefix(tables: list[_Table]) -> None:
    seen: dict[str, str] = {}
    for table in tables:
        if first := seen.get(table.prefix):
            raise InstallsError(f"{table.where}: prefix: {table.prefix} is already that of {first}")
        seen[table.prefix] = table.where


def _refuse_same_hash(tables: list[_Table], built: Mapping[int, Spec]) -> None:
    seen: dict[str, str] = {}
    for i, spec in built.items():
        if first := seen.get(spec.hash):
            raise InstallsError(
                f"{tables[i].where}: describes the same package as {first}",
                hint='tell them apart by a variant, as in variants = {build = "2"}',
            )
        seen[spec.hash] = tables[i].where


def _refuse_unresolved(tables: list[_Table], built: Mapping[int, Spec]) -> None:
    """Raise for the packages that are left: an edge that leads nowhere or to several, else they form a circle."""
    walk = [next(i for i in range(len(tables)) if i not in built)]
    while len(set(walk)) == len(walk):
        edges = tables[walk[-1]].edges
        targets = [_only(_matching(edge, tables, built), edge, tables, built) for edge in edges]
        walk.append(next(target for target in targets if target not in built))
    names = " -> ".join(tables[i].name for i in walk[walk.index(walk[-1]) :])
    raise InstallsError(f"{tables[walk[-1]].where}: depends: packages depend on each other in a circle: {names}")
