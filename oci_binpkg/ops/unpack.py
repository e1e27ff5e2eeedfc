"""A package's layer becomes the tree it will be at its final prefix.

Its own spec document, `.spack/spec.json`, has to agree with the document that led to the layer. Whoever reads the
installed prefix later believes that file: Spack itself when it rebuilds its database. So a layer
whose file describes another package is damaged. Layers without the file are made by other tools, and are as good.
Source: the golden caches: Spack 0.22 and 1.2 write the very nodes that the cache's document has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import msgspec

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.extract import Extracted, extract_layer
from oci_binpkg.archive.received import Tee
from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.disk import FileTooLargeError, NotRegularError, disk_refusal, read_regular
from oci_binpkg.errors import ContentError, InstallsError
from oci_binpkg.installs.install_manifest import MANIFEST, early_hashes, manifest_of, read_manifest
from oci_binpkg.installs.permissions import Permissions
from oci_binpkg.installs.transaction import ChangeableTree, Place
from oci_binpkg.log import Log
from oci_binpkg.model.documents import check_values, parse_json
from oci_binpkg.model.image import known_diff_id
from oci_binpkg.model.spec import Arch, Spec, SpecGraph
from oci_binpkg.model.spec_document import SpecDocument, parse_spec_document
from oci_binpkg.ops.splices import analogs, spec_file_of
from oci_binpkg.relocate.budget import Budget
from oci_binpkg.relocate.compiled_files import settle_compiled
from oci_binpkg.relocate.compiled_python import is_cache
from oci_binpkg.relocate.edits import CountedRemark, RelocationReport, counted_remarks, remarks_of
from oci_binpkg.relocate.interpreter_lines import LAUNCHER
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.sbang import ensure_launcher, ensure_sbang
from oci_binpkg.relocate.tree import relocate_tree

_log: Final = Log("install")
SPEC_FILE: Final = ".spack/spec.json"
MAX_BYTES: Final = 16 * 1024 * 1024
_USUAL_NODE: Final = 8 * 1024


def check_spec_file(prefix: str, expected: SpecDocument) -> bool:
    """Compare the file in a prefix that was just unpacked with the document of the package.

    Return False if it is that of what a spliced package was built as, which is to be written anew. Raises
    `ContentError` if it describes another package, or the same one differently.
    """
    spec = expected.root
    what = f"the layer of {spec.short}: {SPEC_FILE}"
    try:
        data = read_regular(os.path.join(prefix, SPEC_FILE), MAX_BYTES, follow=False)
    except FileNotFoundError:
        return True
    except (NotRegularError, FileTooLargeError) as error:
        raise ContentError(f"{what} {error.strerror}") from None
    except OSError as error:
        raise disk_refusal(f"{prefix}/{SPEC_FILE}: cannot be read", error) from error
    if _is_same(data, expected, what):
        return True
    found = parse_spec_document(parse_json(data, what, fold_case=False), what)
    if spec.build_spec is not None and found.root.hash == spec.build_spec[1]:
        return False
    if found.root.hash != spec.hash:
        raise ContentError(f"{what} describes another package: {found.root.short} ({found.root.hash})")
    for package_hash, other in found.graph.items():
        known = expected.graph.get(package_hash)
        if known is not None and not _agree(other, known, same_form=found.version == expected.version):
            raise ContentError(f"{what} describes {known.short} differently than the package's own document")
    return True


class _Meta(msgspec.Struct):
    version: int


class _SpecBody(msgspec.Struct):
    meta: _Meta = msgspec.field(name="_meta")
    nodes: list[msgspec.Raw] = msgspec.field()


class _Document(msgspec.Struct):
    spec: _SpecBody


_DECODER: Final = msgspec.json.Decoder(_Document)


def _is_same(data: bytes, expected: SpecDocument, what: str) -> bool:
    """Return whether a file has the very nodes of the document: nearly all have, and nothing else is to be read then.

    Raises `ContentError` for one of too many values.
    """
    check_values(data, what)
    try:
        body = _DECODER.decode(data).spec
        nodes = [_node(bytes(raw)) if len(raw) <= _USUAL_NODE else msgspec.json.decode(raw) for raw in body.nodes]
        hashes = [node["hash"] for node in nodes]
        known = [expected.graph[each].node for each in hashes]
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, RecursionError):
        return False
    root = expected.root.hash
    return body.meta.version == expected.version and hashes[:1] == [root] and nodes == known


@lru_cache(512)
def _node(raw: bytes) -> dict[str, Any]:
    """Return a node. The same ones stand in the documents of all packages that need them: they are read once."""
    return msgspec.json.decode(raw, type=dict[str, Any])


def _agree(found: Spec, known: Spec, *, same_form: bool) -> bool:
    """Return whether two nodes of one hash say the same; documents of different formats write them differently."""
    if same_form:
        return dict(found.node) == dict(known.node)
    return (found.name, found.version, {each.hash for each in found.dependencies_of(("link", "run"))}) == (
        known.name,
        known.version,
        {each.hash for each in known.dependencies_of(("link", "run"))},
    )


_HEAD = 4096
_MOST_REMARKS = 100


@dataclass(frozen=True, slots=True)
class Unpacked:
    """How many files and links were changed, and what somebody should know about the others.

    `counted` has one value for each kind of remark. `layer` is the file that keeps the layer's bytes, "" if they were
    not wanted.
    """

    relocated: int
    remarks: tuple[str, ...]
    counted: tuple[CountedRemark, ...]
    extracted: Extracted
    layer: str


def unpack(
    entry: CacheEntry,
    place: Place,
    installs: ChangeableTree,
    *,
    allow_stale: bool | Sequence[str] = False,
    permissions: Permissions | None = None,
    keep_layer: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Unpacked:
    """Fetch and unpack a package into its place, verified to the last byte, and relocate it for the final prefix.

    Raises `ContentError` for a layer that is wrong, `TransferError` for one that does not come, `RelocationError` for
    a package that cannot be at that prefix, `LocalDiskError`.
    """
    layer = entry.layer
    kept = os.path.join(place.holder, "layer") if keep_layer else ""
    with ExitStack() as stack:
        stream = stack.enter_context(layer.blob.open())
        tee = stack.enter_context(closing(Tee(stream, kept))) if kept else None
        extracted = extract_layer(
            tee or stream,
            place.staged,
            f"the layer of {place.spec.short}",
            media_type=layer.blob.descriptor.media_type,
            diff_id=known_diff_id(layer),
            on_bytes=on_bytes,
        )
    kept, distribution = tee.kept if tee else "", extracted.distribution
    _check_hash(place.spec, extracted)
    is_own = check_spec_file(place.staged, entry.document)
    mapping = _mapping(place, distribution, installs, entry.document.graph)
    said = tuple(map(CountedRemark.of_package, distribution.remarks))
    if not mapping:
        _settle_in_place(place, extracted, permissions)
        _bring_sbang(place, extracted, installs)
        place.sync()
        return Unpacked(0, distribution.remarks, said, extracted, kept)
    report, record = _relocated(
        place,
        extracted,
        installs,
        mapping,
        spec_file=b"" if is_own else spec_file_of(entry.document),
        allow_stale=allow_stale,
        permissions=permissions,
        budget=Budget.for_layer(layer.blob.descriptor.size, place.spec.short),
    )
    _record(place, record, permissions)
    place.sync()
    _log_remarks(place.spec, report)
    remarks, counted = (*distribution.remarks, *_remarks(report)), (*said, *counted_remarks(report))
    return Unpacked(len(report.changed), remarks, counted, extracted, kept)


def _mapping(place: Place, distribution: Distribution, installs: ChangeableTree, graph: SpecGraph) -> PrefixMap:
    """Return which paths of a package become which ones in this tree; an empty one if it stays where it was."""
    return mapping_for(
        {key: fields[0] for key, fields in distribution.other_prefixes.items()} | dict(distribution.hash_to_prefix),
        new_prefixes(place.spec, distribution, installs, graph, place.final),
        root=(distribution.buildpath, installs.root),
        sbang=(distribution.sbang_install_path, installs.sbang_path),
        real=distribution.real_prefixes,
        real_root=distribution.real_root,
        other_roots=distribution.other_roots,
    )


def _log_remarks(spec: Spec, report: RelocationReport) -> None:
    for remark in remarks_of(report):
        _log.info("%s: %s: %s", spec.short, remark.path, remark.reason)


def _check_hash(spec: Spec, extracted: Extracted) -> None:
    """Raise `ContentError` for the layer of another package: a layer says whose it is, whatever led to it."""
    known = extracted.distribution.hash_to_prefix
    if not known:
        raise ContentError(
            f"the layer of {spec.short} does not record its prefixes (hash_to_prefix or prefix_to_hash), so its paths "
            "cannot be changed: push the package anew"
        )
    if spec.hash not in known and not spec.build_spec:
        raise ContentError(f"the layer of {spec.short} holds another package: {next(iter(known))[:32]}")
    said = known.get(spec.hash, extracted.prefix)
    shortened = extracted.prefix.count("/") == 1  # archives of layout 1 record the last component only
    if said != extracted.prefix and not (shortened and said.endswith(extracted.prefix)):
        raise ContentError(
            f"the layer of {spec.short} records the prefix {said!r}, its files are in {extracted.prefix!r}"
        )


def _relocated(
    place: Place,
    extracted: Extracted,
    installs: ChangeableTree,
    mapping: PrefixMap,
    *,
    spec_file: bytes,
    allow_stale: bool | Sequence[str],
    permissions: Permissions | None,
    budget: Budget,
) -> tuple[RelocationReport, bytes]:
    """Relocate what was unpacked; return what was done, and the record of the files as they are then.

    A `spec_file` that is not empty takes the place of the one in the layer.
    """
    distribution = extracted.distribution
    known = _known_files(place, extracted)
    with early_hashes(place.staged, extracted.files, known=known, known_prefix=extracted.prefix) as early:
        report = relocate_tree(
            place.staged,
            mapping,
            binaries=distribution.relocate_binaries,
            textfiles=distribution.relocate_textfiles,
            # what was looked for while the files went by is a guess: it counts if every old prefix holds it
            clean=extracted.clean if all(extracted.looked_for in prefix for prefix in mapping.old.shortest) else (),
            final_prefix=place.final,
            old_prefix=_old_place(place.spec, extracted),
            root=installs.root,
            sbang=installs.sbang_path,
            allow_stale=allow_stale,
            budget=budget,
        )
        _bring_sbang(place, extracted, installs)
        anew = [SPEC_FILE] if spec_file else []
        for name in anew:
            _write(place, name, spec_file)
        left = {remark.path for remark in report.reported}
        left.update(*(names for names in map(set, _inodes(extracted)) if names & left))
        settle_compiled(place.staged, _sizes(extracted), changed=frozenset(report.changed), left=left)
        if permissions is not None:
            permissions.apply(place.staged, extracted.closed)
        record = manifest_of(
            place.staged,
            place.final,
            known=known,
            known_prefix=extracted.prefix,
            # a record that came with the layer may be older than the headers of its compiled files
            changed=frozenset((*report.changed, *anew, *filter(is_cache, _sizes(extracted)))),
            early=early,
        )
    return report, record


def _settle_in_place(place: Place, extracted: Extracted, permissions: Permissions | None) -> None:
    """Let the compiled files of a package that stays at its prefix name their sources, and record what was changed."""
    sizes = _sizes(extracted)
    settled = settle_compiled(place.staged, sizes)
    if permissions is not None:
        permissions.apply(place.staged, extracted.closed)
    if settled or permissions is not None:
        caches = frozenset(filter(is_cache, sizes))
        known = _known_files(place, extracted)
        _record(
            place,
            manifest_of(place.staged, place.final, known=known, known_prefix=extracted.prefix, changed=caches),
            permissions,
        )


def _sizes(extracted: Extracted) -> dict[str, int]:
    """Return the sizes of all files as they came, under each of their names."""
    sizes = dict(extracted.files)
    sizes |= {name: sizes[names[0]] for names in _inodes(extracted) for name in names}
    return sizes


def _inodes(extracted: Extracted) -> Iterator[tuple[str, ...]]:
    """Yield the names of each file that has several, the first one first."""
    return ((first, *others) for first, others in extracted.hard_links.items())


def _old_place(spec: Spec, extracted: Extracted) -> str:
    """Return the directory that the files were in: relative paths in them start there, whatever links led to it."""
    distribution = extracted.distribution
    return distribution.real_prefixes.get(spec.hash) or distribution.prefix_of(spec.hash) or extracted.prefix


def new_prefixes(
    spec: Spec, distribution: Distribution, installs: ChangeableTree, graph: SpecGraph, final: str
) -> dict[str, str]:
    """Return the prefix in this tree for each hash that the package's files may mention; its own is `final`.

    A spliced package was built with other dependencies: for each of those, the one that took its place.
    """
    replaced = analogs(spec, graph)
    found = {
        key: installs.prefix_for(Spec(name, version, key, Arch(platform, system, target)))
        for key, (_, name, version, platform, system, target) in distribution.other_prefixes.items()
    }
    for package_hash in distribution.hash_to_prefix:
        known = replaced.get(package_hash) or graph.get(package_hash)
        if known is not None and not known.is_external:
            found[package_hash] = final if known == spec else installs.prefix_for(known)
    return found


def _bring_sbang(place: Place, extracted: Extracted, installs: ChangeableTree) -> None:
    """Write the scripts that long interpreter lines need, where a file of the package refers to them.

    The list of texts is the archive's word: only what came out of it as a file is read, never a link.
    """
    sbang = os.fsencode(installs.sbang_path)
    launcher = sbang + LAUNCHER
    for path in extracted.distribution.relocate_textfiles:
        if path in extracted.files:
            with open(os.path.join(place.staged, path), "rb") as file:
                head = file.read(_HEAD)
            if launcher in head:
                ensure_launcher(installs.sbang_path)
            if sbang in head.replace(launcher, b""):
                ensure_sbang(installs.sbang_path)


def _known_files(place: Place, extracted: Extracted) -> Mapping[str, Mapping[str, Any]]:
    """Return the record of files that came with the package, if there is a good one."""
    try:
        # a link under that name would lead out of the tree
        return read_manifest(place.staged, files=extracted.members) if MANIFEST in extracted.files else {}
    except InstallsError:
        return {}


def _record(place: Place, data: bytes, permissions: Permissions | None) -> None:
    """Write the record of files as it is true again: with their paths, and the hashes of those that were changed."""
    path = _write(place, MANIFEST, data)
    if permissions is None:
        return
    try:
        permissions.apply_to(path)
    except OSError as error:
        raise disk_refusal(
            f"{path}: cannot be written", error, hint="check the free space and the permissions there"
        ) from error


def _write(place: Place, name: str, data: bytes) -> str:
    """Put a document into the `.spack` of what was unpacked, and return its path."""
    path = os.path.join(place.staged, name)
    new = os.path.join(place.holder, "document")
    try:
        with open(new, "xb") as file:
            file.write(data)
        # its folder is a real one, because the archive's own document was unpacked into it; the tree is synced as one
        os.replace(new, path)
    except OSError as error:
        raise disk_refusal(
            f"{path}: cannot be written", error, hint="check the free space and the permissions there"
        ) from error
    return path


def _remarks(report: RelocationReport) -> Iterator[str]:
    """Yield what people may want to know of each file, at most a hundred remarks."""
    found = remarks_of(report)
    yield from (f"{remark.path}: {remark.reason}" for remark in islice(found, _MOST_REMARKS))
    if further := sum(1 for _ in found):
        yield f"and {further} more of the kind"
