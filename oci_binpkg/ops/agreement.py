"""A package's own spec document, `.spack/spec.json` in its layer, says what the document says that led to the layer.

Whoever reads the installed prefix later believes that file: Spack itself when it rebuilds its database. So a layer
whose file describes another package is damaged. Layers without the file are made by other tools, and are as good.
Source: the golden caches: Spack 0.22 and 1.2 write the very nodes that the cache's document has.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Final

import msgspec

from oci_binpkg.disk import FileTooLargeError, NotRegularError, read_regular
from oci_binpkg.errors import ContentError, LocalDiskError
from oci_binpkg.model.documents import check_values, parse_json
from oci_binpkg.model.spec import Spec
from oci_binpkg.model.spec_document import SpecDocument, parse_spec_document

SPEC_FILE: Final = ".spack/spec.json"
MAX_BYTES: Final = 16 * 1024 * 1024
_USUAL_NODE: Final = 8 * 1024


def check_spec_file(prefix: str, expected: SpecDocument) -> None:
    """Compare the file in a prefix that was just unpacked with the document of the package.

    Raises `ContentError` if it describes another package, or the same one differently.
    """
    spec = expected.root
    what = f"the layer of {spec.short}: {SPEC_FILE}"
    try:
        data = read_regular(os.path.join(prefix, SPEC_FILE), MAX_BYTES, follow=False)
    except FileNotFoundError:
        return
    except (NotRegularError, FileTooLargeError) as error:
        raise ContentError(f"{what} {error.strerror}") from None
    except OSError as error:
        raise LocalDiskError(f"{prefix}/{SPEC_FILE}: cannot be read: {error.strerror}") from error
    if _is_same(data, expected, what):
        return
    found = parse_spec_document(parse_json(data, what, fold_case=False), what)
    if spec.build_spec is not None and found.root.hash == spec.build_spec[1]:
        return  # the layer of a spliced package may be that of the package it was built as
    if found.root.hash != spec.hash:
        raise ContentError(f"{what} describes another package: {found.root.short} ({found.root.hash})")
    for package_hash, other in found.graph.items():
        known = expected.graph.get(package_hash)
        if known is not None and not _agree(other, known, same_form=found.version == expected.version):
            raise ContentError(f"{what} describes {known.short} differently than the package's own document")


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
