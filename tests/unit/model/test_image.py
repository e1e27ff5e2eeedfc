"""Composition: pure, so that every rule can be seen in the bytes."""

import json
from dataclasses import replace

import pytest

from oci_binpkg.errors import UsageError
from oci_binpkg.model.content import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Blob,
    Digest,
    Platform,
)
from oci_binpkg.model.image import (
    ENGINE_PATH,
    MISSING_KEY,
    BaseImage,
    Layer,
    PackageLayer,
    PackageSpec,
    Runtime,
    compose,
    environment_of,
)
from oci_binpkg.model.manifest import Manifest, parse_config, parse_manifest
from oci_binpkg.model.run_environment import EnvironmentChange

AMD64 = Platform("linux", "amd64")
DIGEST = Digest("sha256", "d" * 64)


def layer(text: str, media_type: str = OCI_LAYER_GZIP) -> Layer:
    return Layer(Blob.from_bytes(text.encode(), media_type), Digest.of(b"tar " + text.encode()))


def package(name: str, version: str = "1.0", media_type: str = OCI_LAYER_GZIP) -> PackageLayer:
    return PackageLayer(name, version, (name * 32)[:32], layer(name, media_type), "2026-01-02T03:04:05+00:00")


def base(*, docker: bool = False, history: list | None = None, layers=None, more=None, **config) -> BaseImage:
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    if layers is None:
        layers = (layer("base0", DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP),)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "author": "someone",
        "config": {"Env": ["LANG=C", "PATH=/usr/bin"], "Cmd": ["bash"], **config},
        "rootfs": {"type": "layers", "diff_ids": [str(each.diff_id) for each in layers]},
        **(more or {}),
    }
    if history is not None:
        document["history"] = history
    blob = Blob.from_bytes(json.dumps(document).encode(), DOCKER_CONFIG)
    manifest = Manifest(kind, blob.descriptor, tuple(each.blob.descriptor for each in layers))
    return BaseImage(manifest, parse_config(blob.read(), "base"), layers, "docker.io/library/debian:12", DIGEST)


def config_of(image) -> dict:
    return json.loads(image.config.read())


def test_the_packages_stand_in_order_with_one_history_entry_a_layer():
    image = compose([package("lib"), package("app", "2.0")], AMD64)
    manifest = parse_manifest(image.manifest.read(), "image")
    config = config_of(image)
    assert manifest.media_type == OCI_MANIFEST
    assert [item.digest for item in manifest.layers] == [Digest.of(b"lib"), Digest.of(b"app")]
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(b"tar lib")), str(Digest.of(b"tar app"))]
    assert [entry["created_by"] for entry in config["history"]] == ["oci-binpkg lib@1.0", "oci-binpkg app@2.0"]
    assert manifest.config == image.config.descriptor


def test_the_same_input_gives_the_same_bytes():
    first, second = (compose([package("lib")], AMD64, runtime=Runtime(env=(("A", "1"),))) for _ in range(2))
    assert first.manifest.descriptor == second.manifest.descriptor


def test_a_package_image_carries_its_spec_and_the_checksum_of_its_layer():
    subject = package("app")
    spec = PackageSpec({"_meta": {"version": 5}, "nodes": []}, "app@=1.0 platform=linux")
    image = compose([package("lib"), subject], AMD64, spec=spec)
    config = config_of(image)
    assert config["spec"] == spec.document
    assert config["buildcache_layout_version"] == 3
    assert config["binary_cache_checksum"] == {"hash_algorithm": "sha256", "hash": Digest.of(b"app").hex}
    assert (config["archive_size"], config["archive_compression"]) == (3, "gzip")
    assert config["archive_timestamp"] == "2026-01-02T03:04:05+00:00"
    annotations = json.loads(image.manifest.read())["annotations"]
    assert annotations["org.opencontainers.image.description"] == "app@=1.0 platform=linux"
    assert annotations["org.opencontainers.image.title"] == "app"


def test_what_is_missing_marks_the_image_for_registries_and_engines():
    image = compose([package("app")], AMD64, missing=["zlib@1.3/abcdefg", "ssl@3/hijklmn"])
    assert config_of(image)["config"]["Labels"][MISSING_KEY] == "zlib@1.3/abcdefg ssl@3/hijklmn"
    assert json.loads(image.manifest.read())["annotations"][MISSING_KEY] == "zlib@1.3/abcdefg ssl@3/hijklmn"


def test_a_base_keeps_what_it_says_and_its_layers_come_first():
    image = compose([package("app")], AMD64, base=base(), environment=[EnvironmentChange("PATH", "/opt/app/bin")])
    config = config_of(image)
    assert config["author"] == "someone"
    assert config["config"]["Cmd"] == ["bash"]
    assert config["config"]["Env"] == ["LANG=C", "PATH=/opt/app/bin:/usr/bin"]
    assert [item.blob.descriptor.digest for item in image.layers] == [Digest.of(b"base0"), Digest.of(b"app")]
    assert len(config["history"]) == 2


def test_the_base_history_is_kept_when_it_matches_its_layers():
    history = [{"created_by": "FROM scratch"}, {"created_by": "ENV A=1", "empty_layer": True}]
    kept = config_of(compose([package("app")], AMD64, base=base(history=history)))["history"]
    assert kept[:2] == history
    wrong = config_of(compose([package("app")], AMD64, base=base(history=history[:1] * 3)))["history"]
    assert wrong[0] == {"created_by": "base image"}
    assert len(wrong) == 2


def test_docker_media_types_are_never_mixed_with_oci():
    image = compose([package("app")], AMD64, base=base(docker=True), spec=PackageSpec({}, "app"))
    manifest = parse_manifest(image.manifest.read(), "image")
    assert manifest.media_type == DOCKER_MANIFEST
    assert manifest.config.media_type == DOCKER_CONFIG
    assert {item.media_type for item in manifest.layers} == {DOCKER_LAYER_GZIP}
    assert not manifest.annotations
    oci = compose([replace(package("app"), layer=layer("app", DOCKER_LAYER_GZIP))], AMD64)
    assert {item.blob.descriptor.media_type for item in oci.layers} == {OCI_LAYER_GZIP}


def types_of(image) -> tuple:
    manifest = parse_manifest(image.manifest.read(), "image")
    return manifest.media_type, manifest.config.media_type, [each.media_type for each in manifest.layers]


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        (DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", OCI_LAYER_ZSTD),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ),
    ],
)
def test_a_docker_base_becomes_an_oci_image_of_the_same_bytes(docker, oci):
    below = (layer("base0", docker),)
    image = compose([package("app")], AMD64, base=base(docker=True, layers=below), oci=True)
    assert types_of(image) == (OCI_MANIFEST, OCI_CONFIG, [oci, OCI_LAYER_GZIP])
    assert image.layers[0].blob.read() == b"base0"


def test_what_dockers_types_cannot_say_makes_an_oci_image():
    zstd = compose([package("app", media_type=OCI_LAYER_ZSTD)], AMD64, base=base(docker=True))
    assert types_of(zstd) == (OCI_MANIFEST, OCI_CONFIG, [OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
    below = (layer("base0", "application/vnd.docker.image.rootfs.diff.tar.zstd"),)
    assert types_of(compose([package("app")], AMD64, base=base(docker=True, layers=below)))[0] == OCI_MANIFEST
    runtime = Runtime(annotations={"org.opencontainers.image.licenses": "MIT"})
    annotated = compose([package("app")], AMD64, base=base(docker=True), runtime=runtime)
    assert types_of(annotated)[0] == OCI_MANIFEST
    assert json.loads(annotated.manifest.read())["annotations"]["org.opencontainers.image.licenses"] == "MIT"


@pytest.mark.parametrize("docker", [True, False])
def test_an_image_names_its_base(docker):
    image = compose([package("app")], AMD64, base=base(docker=docker))
    said = config_of(image)["config"]["Labels"] if docker else json.loads(image.manifest.read())["annotations"]
    assert said["org.opencontainers.image.base.name"] == "docker.io/library/debian:12"
    assert said["org.opencontainers.image.base.digest"] == str(DIGEST)


def test_what_tells_of_the_build_of_the_base_is_not_inherited():
    leftovers = {"container": "c0ffee", "container_config": {"Cmd": ["#(nop)"]}, "docker_version": "20.10"}
    more: dict = leftovers | {"moby.buildkit.cache.v0": "e30="}
    made = base(more=more, OnBuild=["RUN touch /x"], onbuild=[], Image="sha256:0", Hostname="c0ffee", StopSignal="HUP")
    config = config_of(compose([package("app")], AMD64, base=made))
    assert not set(more) & set(config)
    assert set(config["config"]) == {"Env", "Cmd", "StopSignal"}


def test_an_image_is_as_old_as_the_newest_of_base_and_packages():
    def made(when, **options):
        return config_of(compose([package("app")], AMD64, base=base(more={"created": when}), **options)).get("created")

    assert made("2026-01-02T03:04:04.999999999Z") == "2026-01-02T03:04:05+00:00"
    assert made("2026-01-02T04:04:06+00:00") == "2026-01-02T04:04:06+00:00"
    assert made("2026-01-02T03:04:06+05:00") == "2026-01-02T03:04:05+00:00"
    for odd in ("yesterday", None, 5, "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"):
        assert made(odd) == "2026-01-02T03:04:05+00:00"
    assert made("2030-01-02T03:04:04Z", created="2025-06-15T00:00:00+00:00") == "2025-06-15T00:00:00+00:00"


def test_what_the_base_has_is_not_stacked_again():
    below = (layer("base0"), layer("lib"))
    image = compose([package("lib"), package("app")], AMD64, base=base(layers=below))
    assert [each.blob.read() for each in image.layers] == [b"base0", b"lib", b"app"]
    assert len(config_of(image)["history"]) == 3
    subject = compose([package("lib")], AMD64, base=base(layers=below), spec=PackageSpec({}, "lib"))
    assert [each.blob.read() for each in subject.layers] == [b"base0", b"lib", b"lib"]


@pytest.mark.parametrize("env", [None, []])
def test_a_base_may_have_no_layers_no_environment_and_no_lists(env):
    image = compose([package("app")], AMD64, base=base(layers=(), Env=env))
    assert [each.blob.read() for each in image.layers] == [b"app"]
    assert config_of(image)["config"]["Env"] == ["PATH=" + ENGINE_PATH]
    nulls = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": None}, "config": None}
    assert parse_config(json.dumps(nulls).encode(), "base").diff_ids == ()


def test_zstd_layers_have_their_name_in_the_configuration():
    spec = PackageSpec({}, "app")
    assert (
        config_of(compose([package("app", media_type=OCI_LAYER_ZSTD)], AMD64, spec=spec))["archive_compression"]
        == "zstd"
    )


def test_an_image_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one layer"):
        compose([], AMD64)


def test_the_runtime_is_set_as_in_dockerfiles():
    runtime = Runtime(("app",), None, (("A", "1"),), {"k": "v"}, "1000:1000", "/data")
    started = config_of(compose([package("app")], AMD64, base=base(Labels={"old": "1"}), runtime=runtime))["config"]
    assert started["Entrypoint"] == ["app"]
    assert "Cmd" not in started
    assert started["Labels"] == {"old": "1", "k": "v"}
    assert (started["User"], started["WorkingDir"]) == ("1000:1000", "/data")
    assert "A=1" in started["Env"]
    both = config_of(compose([package("app")], AMD64, runtime=Runtime(("app",), ("x",))))["config"]
    assert (both["Entrypoint"], both["Cmd"]) == (["app"], ["x"])


def test_the_environment_holds_each_path_once_and_the_last_one_first():
    changes = [
        EnvironmentChange("PATH", "/a/bin"),
        EnvironmentChange("MANPATH", "/a/man"),
        EnvironmentChange("PATH", "/b/bin"),
        EnvironmentChange("PATH", "/a/bin"),
    ]
    assert environment_of(None, changes, []) == ["PATH=/a/bin:/b/bin:/bin:/usr/bin", "MANPATH=/a/man"]
    assert environment_of(["X=1"], [], [("PATH", "/only")]) == ["X=1", "PATH=/only"]


@pytest.mark.parametrize(
    ("of_base", "expected"),
    [
        ([], f"/a:{ENGINE_PATH}|/m:|/p"),
        (["PATH="], f"/a:{ENGINE_PATH}|/m:|/p"),
        (["PATH=/usr/bin", "MANPATH=/usr/man", "PKG_CONFIG_PATH=/q"], "/a:/usr/bin|/m:/usr/man|/p:/q"),
        (["PATH=/usr/bin:", "MANPATH=:/usr/man", "PKG_CONFIG_PATH="], "/a:/usr/bin:|/m::/usr/man|/p"),
        (["PATH=/b:/a", "MANPATH=/x::/m"], "/a:/b|/m:/x:|/p"),
    ],
)
def test_what_the_base_leaves_to_the_system_stays_with_the_system(of_base, expected):
    changes = [
        EnvironmentChange("PATH", "/a"),
        EnvironmentChange("MANPATH", "/m"),
        EnvironmentChange("PKG_CONFIG_PATH", "/p"),
    ]
    made = dict(item.split("=") for item in environment_of(of_base, changes, []))
    assert "|".join(made[name] for name in ("PATH", "MANPATH", "PKG_CONFIG_PATH")) == expected
