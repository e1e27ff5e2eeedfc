"""Manifests, indexes and configurations: what is understood, what is refused, what comes out again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import ContentError, PlatformError
from oci_binpkg.model import manifest as manifest_module
from oci_binpkg.model.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Platform,
)
from oci_binpkg.model.manifest import (
    MAX_MANIFEST_BYTES,
    Index,
    Manifest,
    manifest_type_of,
    parse_config,
    parse_descriptor,
    parse_manifest,
)

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden" / "oci-layout"
D1, D2, D3 = (str(Digest.of(bytes([n]))) for n in range(3))
CONFIG: dict[str, Any] = {"mediaType": OCI_CONFIG, "digest": D1, "size": 10}
LAYER: dict[str, Any] = {"mediaType": OCI_LAYER_GZIP, "digest": D2, "size": 20}
ENTRY: dict[str, Any] = {
    "mediaType": OCI_MANIFEST,
    "digest": D3,
    "size": 30,
    "platform": {"os": "linux", "architecture": "amd64"},
}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY]}
IMAGE: dict[str, Any] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [D1, D2]}}
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


def parse(document: Any, media_type: str = "") -> Manifest | Index:
    return parse_manifest(encode(document), "reg.example/apps:1.0", media_type=media_type)


def golden(digest: str) -> bytes:
    return (GOLDEN / "blobs" / digest.replace(":", "/")).read_bytes()


def golden_entries() -> list[Any]:
    return [
        pytest.param(e, id=e["annotations"]["org.opencontainers.image.ref.name"][:14])
        for e in json.loads((GOLDEN / "index.json").read_bytes())["manifests"]
    ]


# what is understood


@pytest.mark.parametrize("entry", golden_entries())
def test_spacks_manifests_come_out_byte_for_byte(entry: dict[str, Any]) -> None:
    descriptor = parse_descriptor(entry, "entry")
    data = golden(entry["digest"])
    manifest = parse_manifest(data, "golden", media_type=descriptor.media_type)
    assert isinstance(manifest, Manifest)
    assert manifest.to_bytes() == data
    config = golden(str(manifest.config.digest))
    if config == b"{}":
        with pytest.raises(ContentError, match="rootfs"):
            parse_config(config, "golden")
        return
    parsed = parse_config(config, "golden")
    assert parsed.platform == AMD64
    assert len(parsed.diff_ids) == len(manifest.layers)
    assert parsed.document == json.loads(config)
    assert any(entry.startswith("PATH=") for entry in parsed.env)


def test_reads_a_manifest() -> None:
    manifest = parse({**MANIFEST, "annotations": {"a": "b", "A": "c"}, "subject": ENTRY, "x": [1]})
    assert isinstance(manifest, Manifest)
    assert manifest.config == Descriptor(OCI_CONFIG, Digest.parse(D1), 10)
    assert manifest.layers == (Descriptor(OCI_LAYER_GZIP, Digest.parse(D2), 20),)
    assert manifest.annotations == {"a": "b", "A": "c"}
    assert manifest.extra == {"subject": ENTRY, "x": [1]}
    assert manifest.references == (*manifest.layers, manifest.config)
    assert json.loads(manifest.to_bytes()) == {
        **MANIFEST,
        "annotations": {"a": "b", "A": "c"},
        "subject": ENTRY,
        "x": [1],
    }


def test_reads_an_index() -> None:
    index = parse({**INDEX, "annotations": {"a": "b"}, "x": 1})
    assert isinstance(index, Index)
    assert index.manifests == (Descriptor(OCI_MANIFEST, Digest.parse(D3), 30, AMD64),)
    assert index.references == index.manifests
    assert json.loads(index.to_bytes()) == {**INDEX, "annotations": {"a": "b"}, "x": 1}


def test_what_a_descriptor_does_not_understand_survives() -> None:
    windows = {
        **ENTRY,
        "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.1"},
        "urls": ["u"],
        "data": "e30=",
    }
    parsed = parse_descriptor(windows, "entry")
    assert parsed.platform == Platform("windows", "amd64")
    assert parsed.to_json() == windows
    null = {**ENTRY, "platform": None}
    assert parse_descriptor(null, "entry").platform is None
    assert parse_descriptor(null, "entry").to_json() == null
    empty: dict[str, Any] = {**ENTRY, "platform": {}}
    assert parse_descriptor(empty, "entry").to_json() == empty


@pytest.mark.parametrize(
    ("document", "promised", "expected"),
    [
        (MANIFEST, "", OCI_MANIFEST),
        (MANIFEST, OCI_MANIFEST, OCI_MANIFEST),
        (MANIFEST, "application/octet-stream", OCI_MANIFEST),
        ({**MANIFEST, "mediaType": DOCKER_MANIFEST}, DOCKER_MANIFEST, DOCKER_MANIFEST),
        ({k: v for k, v in MANIFEST.items() if k != "mediaType"}, "", OCI_MANIFEST),
        ({k: v for k, v in MANIFEST.items() if k != "mediaType"}, "text/plain", OCI_MANIFEST),
        ({k: v for k, v in MANIFEST.items() if k != "mediaType"}, DOCKER_MANIFEST, DOCKER_MANIFEST),
        ({k: v for k, v in INDEX.items() if k != "mediaType"}, "", OCI_INDEX),
        ({**INDEX, "mediaType": DOCKER_LIST}, "", DOCKER_LIST),
    ],
)
@pytest.mark.covers("F27")
def test_the_type_is_the_documents_or_the_promised_one(document: Any, promised: str, expected: str) -> None:
    assert parse(document, promised).media_type == expected


def test_families_of_media_types_are_not_mixed() -> None:
    assert manifest_type_of(DOCKER_LIST) == manifest_type_of(DOCKER_MANIFEST) == DOCKER_MANIFEST
    assert manifest_type_of(OCI_INDEX) == manifest_type_of("") == OCI_MANIFEST


def test_reads_a_configuration() -> None:
    config = parse_config(
        encode(
            {
                **IMAGE,
                "variant": "v2",
                "history": [{"created_by": "x"}, {"empty_layer": True}],
                "config": {"Env": ["PATH=/bin"], "Labels": {"a": "b", "A": "c"}, "Cmd": None},
                "spec": {"nodes": []},
            }
        ),
        "config",
    )
    assert config.platform == Platform("linux", "amd64", "v2")
    assert [str(digest) for digest in config.diff_ids] == [D1, D2]
    assert config.history == ({"created_by": "x"}, {"empty_layer": True})
    assert (config.env, config.labels) == (("PATH=/bin",), {"a": "b", "A": "c"})
    assert config.document["spec"] == {"nodes": []}
    bare = parse_config(encode({**IMAGE, "config": None, "history": None}), "config")
    assert (bare.env, bare.labels, bare.history) == ((), {}, ())


# what is refused


def refused(document: Any, match: str, media_type: str = "") -> None:
    with pytest.raises(ContentError, match=match) as caught:
        parse(document, media_type)
    assert caught.value.message.startswith("reg.example/apps:1.0")
    assert len(caught.value.message) < 400
    assert caught.value.exit_code == 10


@pytest.mark.covers("B01")
@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({**MANIFEST, "Layers": []}, "'Layers' differs"),
        ({**MANIFEST, "MEDIATYPE": OCI_INDEX}, "'MEDIATYPE' differs"),
        ({**MANIFEST, "Manifests": []}, "'Manifests' differs"),
        ({**MANIFEST, "Subject": {}}, "'Subject' differs"),
        ({**MANIFEST, "layers": [{**LAYER, "Digest": D3}]}, r"layers\[0\]: the key 'Digest' differs"),
        ({**MANIFEST, "config": {**CONFIG, "Size": 1}}, "config: the key 'Size' differs"),
        (
            {**INDEX, "manifests": [{**ENTRY, "platform": {"os": "linux", "Architecture": "x"}}]},
            "platform: the key 'Arch",
        ),
    ],
)
def test_keys_that_an_engine_would_take_for_others(document: Any, where: str) -> None:
    refused(document, where)


@pytest.mark.covers("B01")
def test_repeated_keys() -> None:
    with pytest.raises(ContentError, match="twice"):
        parse_manifest(encode(MANIFEST)[:-1] + b', "layers": []}', "x")
    with pytest.raises(ContentError, match="twice"):
        parse_config(encode(IMAGE)[:-1] + b', "rootfs": {}}', "x")


@pytest.mark.covers("B02", "B08")
@pytest.mark.parametrize("size", [-1, 2**53 + 1, 2**63, 12.0, True, "12", None, [12]])
def test_sizes(size: Any) -> None:
    refused({**MANIFEST, "layers": [{**LAYER, "size": size}]}, r"layers\[0\]\.size: an integer from 0 to")


@pytest.mark.covers("B05")
@pytest.mark.parametrize(
    "document",
    [{**MANIFEST, "manifests": []}, {**INDEX, "layers": []}, {**INDEX, "config": CONFIG}, {**INDEX, "config": None}],
)
def test_both_an_index_and_a_manifest(document: Any) -> None:
    refused(document, "both an index and an image manifest")


@pytest.mark.covers("B05")
@pytest.mark.parametrize(
    ("document", "promised"),
    [
        (MANIFEST, OCI_INDEX),
        (MANIFEST, DOCKER_MANIFEST),
        (INDEX, OCI_MANIFEST),
        (INDEX, DOCKER_LIST),
        ({**MANIFEST, "mediaType": OCI_INDEX}, ""),
        ({**INDEX, "mediaType": OCI_MANIFEST}, ""),
        ({k: v for k, v in MANIFEST.items() if k != "mediaType"}, OCI_INDEX),
    ],
)
def test_a_type_that_contradicts(document: Any, promised: str) -> None:
    refused(document, "was promised|does not fit", promised)


@pytest.mark.covers("B06")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schemaVersion": 1}, "schemaVersion '1'; only 2"),
        ({"schemaVersion": 2.0}, "schemaVersion"),
        ({"schemaVersion": True}, "schemaVersion"),
        ({"schemaVersion": "2"}, "schemaVersion"),
        ({"schemaVersion": None}, "schemaVersion"),
        ({"schemaVersion": "x" * 10_000}, "schemaVersion"),
        ({"config": None}, "config: a descriptor is expected"),
        ({"config": []}, "config: a descriptor is expected"),
        ({"layers": {}}, "layers: a list is expected"),
        ({"layers": [None]}, r"layers\[0\]: a descriptor is expected"),
        ({"mediaType": "application/vnd.example.thing" + "x" * 10_000}, "does not fit the document"),
        ({"mediaType": None}, "mediaType: text is expected"),
        ({"mediaType": 7}, "mediaType: text is expected"),
        ({"annotations": []}, "annotations: an object is expected"),
        ({"annotations": {"a": 1}}, "annotations"),
    ],
)
def test_members_of_the_wrong_kind(change: dict[str, Any], match: str) -> None:
    refused({**MANIFEST, **change}, match)


@pytest.mark.covers("B06")
def test_missing_members() -> None:
    for key in ("schemaVersion", "config", "layers"):
        refused({k: v for k, v in MANIFEST.items() if k != key}, key)
    refused({"schemaVersion": 2, "fsLayers": []}, "layers")
    refused({**INDEX, "manifests": None}, "manifests: a list")


@pytest.mark.covers("B07")
@pytest.mark.parametrize(
    "digest", ["", None, 5, "sha256:../../x", D1.upper(), "md5:" + "0" * 32, D1 + "0", "x" * 2**20]
)
def test_digests(digest: Any) -> None:
    refused({**MANIFEST, "layers": [LAYER, {**LAYER, "digest": digest}]}, r"layers\[1\]\.digest: not a digest")


@pytest.mark.covers("B09")
def test_documents_and_lists_are_bounded() -> None:
    with pytest.raises(ContentError, match="at most 16777216 are accepted"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1), "x")
    refused({**MANIFEST, "layers": [{}] * 100_000}, "100000 entries")
    refused({**INDEX, "manifests": [{}] * 100_000}, "100000 entries")
    with pytest.raises(ContentError, match="100000 entries"):
        parse_config(encode({**IMAGE, "rootfs": {"type": "layers", "diff_ids": [""] * 100_000}}), "x")


@pytest.mark.covers("B12")
def test_what_others_write_into_annotations_is_data() -> None:
    wild = {"org.opencontainers.image.title": "../../etc/x", "e": "\x1b[31m\r\n", "long": "x" * 2**20}
    manifest = parse({**MANIFEST, "annotations": wild})
    assert manifest.annotations == wild
    refused({**MANIFEST, "config": {**CONFIG, "Digest\x1b[31m": 1, "DIGEST": ""}}, "'DIGEST' differs")


@pytest.mark.covers("B06", "B13")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rootfs": None}, r"x\.rootfs: an object"),
        ({"rootfs": {"diff_ids": []}}, r"x\.rootfs\.type"),
        ({"rootfs": {"type": "other", "diff_ids": []}}, r"x\.rootfs\.type"),
        ({"rootfs": {"type": "layers"}}, r"x\.rootfs\.diff_ids: a list"),
        ({"rootfs": {"type": "layers", "diff_ids": [D1, "sha256:x"]}}, r"x\.rootfs\.diff_ids\[1\]: not a digest"),
        ({"rootfs": {"type": "layers", "diff_ids": [], "Diff_IDs": [D1]}}, "only in case"),
        ({"Rootfs": {}}, "only in case"),
        ({"OS": "plan9"}, "only in case"),
        ({"architecture": None}, r"x\.architecture: text"),
        ({"os": 5}, r"x\.os: text"),
        ({"variant": None}, r"x\.variant: text"),
        ({"history": {}}, r"x\.history: a list"),
        ({"history": [1]}, r"x\.history: objects"),
        ({"config": []}, r"x\.config: an object"),
        ({"config": {"env": ["A=b"]}}, "only in case"),
        ({"config": {"Env": "A=b"}}, r"x\.config\.Env: a list"),
        ({"config": {"Env": [1]}}, r"x\.config\.Env\[0\]: text"),
        ({"config": {"Labels": {"a": None}}}, r"x\.config\.Labels"),
    ],
)
def test_configurations_of_the_wrong_shape(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ContentError, match=match):
        parse_config(encode({**IMAGE, **change}), "x")


def test_a_configuration_of_another_tool() -> None:
    for data in (b"{}", b"", b"[]", b"\x7fELF"):
        with pytest.raises(ContentError, match=r"^x[.:]"):
            parse_config(data, "x")


# choosing a platform


def entry(number: int, platform: Platform | None) -> Descriptor:
    return Descriptor(OCI_MANIFEST, Digest.of(bytes([number])), 1, platform)


def index(*entries: Descriptor) -> Index:
    return Index(OCI_INDEX, entries)


def test_selects_the_platform_and_passes_over_attestations() -> None:
    entries = [
        entry(0, None),
        entry(1, Platform("unknown", "unknown")),
        entry(2, AMD64),
        entry(3, ARM64),
        entry(4, Platform("", "")),
    ]
    assert index(*entries).select(ARM64) == entries[3]


def test_an_exact_variant_wins_and_an_unset_one_fits() -> None:
    v7, v8 = entry(1, Platform("linux", "arm", "v7")), entry(2, Platform("linux", "arm", "v8"))
    plain = entry(3, Platform("linux", "arm"))
    assert index(v7, v8).select(Platform("linux", "arm", "v8")) == v8
    assert index(v7, v8, plain).select(Platform("linux", "arm")) == plain
    assert index(plain).select(Platform("linux", "arm", "v7")) == plain
    assert index(entry(1, Platform("linux", "arm64", "v8"))).select(ARM64).digest == entry(1, None).digest


@pytest.mark.covers("B10")
def test_no_or_two_manifests_for_a_platform() -> None:
    with pytest.raises(PlatformError, match=r"no manifest for linux/arm64; offered: linux/amd64\n"):
        index(entry(1, AMD64), entry(2, Platform("unknown", "unknown"))).select(ARM64)
    with pytest.raises(PlatformError, match="offered: none"):
        index().select(ARM64)
    assert index(entry(1, AMD64), entry(2, AMD64)).select(AMD64) == entry(1, AMD64)
    v8, v7 = entry(2, Platform("linux", "arm", "v8")), entry(1, Platform("linux", "arm", "v7"))
    assert index(v8, v7).select(Platform("linux", "arm")) == v7


def test_what_tells_of_images_is_no_image_and_a_plain_one_is_preferred() -> None:
    plain = entry(9, AMD64)
    for extra in (
        {"platform": {"os": "linux", "architecture": "amd64", "os.features": ["nydus.remoteimage.v1"]}},
        {"artifactType": "application/vnd.amazon.soci.index.v2+json"},
    ):
        assert index(replace(entry(1, AMD64), extra=extra), plain).select(AMD64) == plain
    attested = replace(entry(1, AMD64), annotations={"vnd.docker.reference.type": "attestation-manifest"})
    other = replace(entry(1, AMD64), media_type="application/vnd.example+json")
    for only in (attested, other):
        assert index(only, plain).select(AMD64) == plain
        with pytest.raises(PlatformError):
            index(only).select(AMD64)


@pytest.mark.covers("B12")
def test_platforms_of_others_are_printed_safely() -> None:
    many = [entry(n % 256, Platform("linux", f"\x1b[31m{n}" + "x" * 1000)) for n in range(200)]
    with pytest.raises(PlatformError) as caught:
        index(*many).select(ARM64)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 2000


def test_limits_are_documented() -> None:
    assert manifest_module.MAX_DESCRIPTORS == 10_000
