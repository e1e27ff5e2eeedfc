"""Manifests come out as they went in; anything else is refused with our own error and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Digest, Platform
from oci_binpkg.model.documents import canonical_json, parse_json
from oci_binpkg.model.manifest import Index, Manifest, parse_config, parse_manifest

digests = st.binary(max_size=3).map(Digest.of)
texts = st.text(max_size=8)
free_texts = st.dictionaries(texts, texts, max_size=3)
platforms = st.none() | st.builds(Platform, texts, texts, texts)
descriptors = st.builds(
    Descriptor,
    st.sampled_from([OCI_CONFIG, OCI_LAYER_GZIP, "x/y"]),
    digests,
    st.integers(0, 2**53),
    platforms,
    free_texts,
)
manifests = st.builds(
    Manifest, st.just(OCI_MANIFEST), descriptors, st.lists(descriptors, max_size=4).map(tuple), free_texts
)
indexes = st.builds(Index, st.just(OCI_INDEX), st.lists(descriptors, max_size=4).map(tuple), free_texts)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=8
)
NAMES = (
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "annotations",
    "Layers",
    "subject",
    "rootfs",
    "os",
)


@given(manifests | indexes)
def test_manifests_are_read_as_they_are_written(manifest: Manifest | Index) -> None:
    data = manifest.to_bytes()
    again = parse_manifest(data, "x", media_type=manifest.media_type)
    assert again == manifest
    assert again.to_bytes() == data


def outcome(parse: Callable[[bytes, str], object], data: bytes) -> object:
    try:
        return parse(data, "x")
    except ContentError as error:
        return error.message


@given(manifests, st.sampled_from(NAMES), json_values)
def test_a_changed_member_is_read_or_refused(manifest: Manifest, name: str, value: Any) -> None:
    document = json.loads(manifest.to_bytes()) | {name: value}
    found = outcome(parse_manifest, json.dumps(document).encode())
    assert isinstance(found, Manifest) or str(found).startswith("x")


@given(
    st.binary(max_size=60) | st.dictionaries(st.sampled_from(NAMES), json_values).map(lambda d: json.dumps(d).encode())
)
def test_anything_is_read_or_refused(data: bytes) -> None:
    for parse in (parse_manifest, parse_config):
        found = outcome(parse, data)
        assert not isinstance(found, str) or found.startswith("x")


@given(st.dictionaries(texts, json_values, max_size=4))
def test_json_is_read_as_it_is_written(document: dict[str, Any]) -> None:
    assert parse_json(canonical_json(document), "x", fold_case=False) == document
