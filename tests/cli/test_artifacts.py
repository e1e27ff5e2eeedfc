"""Files attached to packages and images: made, listed, fetched, and what strangers put in their place."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.model.content import OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST, Blob, Digest
from oci_binpkg.model.manifest import Manifest, parse_manifest
from oci_binpkg.store.images import blob_of
from oci_binpkg.store.referrers import attach, fallback_tag
from tests.support.command_line import binpkg
from tests.support.fake_registry import Answer
from tests.support.signed_caches import REGISTRIES, cache, home, package_at, ran, store_of, tree, trust

__all__ = ["cache", "home", "tree"]  # fixtures

SBOM = "application/spdx+json"
TITLE = "org.opencontainers.image.title"
STORES = ["layout", "registry", "registry without a list of referrers"]
stores = pytest.mark.parametrize("cache", STORES, indirect=True)
layout = pytest.mark.parametrize("cache", ["layout"], indirect=True)
registry = pytest.mark.parametrize("cache", ["registry"], indirect=True)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two files, whose names say what is in them."""
    (tmp_path / "app.spdx.json").write_text("{}")
    (tmp_path / "log").write_bytes(bytes(range(256)))
    return tmp_path / "app.spdx.json", tmp_path / "log"


@pytest.fixture
def pushed(cache: str, tree: Any) -> str:
    """A cache with two packages, and an image of both."""
    ran("push", cache, "--store", tree.root, "--update-index", "--tag", "both")
    return cache


def put(cache: str, subject: str, *more: object) -> Any:
    return binpkg("attach", cache, subject, *more)


def manifest(cache: str, digest: str) -> dict[str, Any]:
    with store_of(cache) as store:
        found: dict[str, Any] = json.loads(blob_of(store, store.resolve(digest)).read())
        return found


def strange_artifact(cache: str, subject: str, title: str) -> None:
    """Attach a file of any name, as another tool could."""
    with store_of(cache) as store:
        found = store.resolve(subject)
        content, config = Blob.from_bytes(b"theirs"), Blob.from_bytes(b"{}", OCI_EMPTY)
        layer = {**content.descriptor.to_json(), "annotations": {TITLE: title}}
        pointer = {"mediaType": found.media_type, "digest": str(found.digest), "size": found.size}
        document = {
            **json.loads(Manifest(OCI_MANIFEST, config.descriptor, ()).to_bytes()),
            "layers": [layer],
            "artifactType": SBOM,
            "subject": pointer,
        }
        for blob in (content, config):
            store.put(blob)
        made = Blob.from_bytes(json.dumps(document).encode(), OCI_MANIFEST)
        store.put(made)
        listed = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
        entry = {**made.descriptor.to_json(), "artifactType": SBOM}
        index = Blob.from_bytes(json.dumps({**listed, "manifests": [entry]}).encode(), listed["mediaType"])  # type: ignore[arg-type]
        store.tag(index, fallback_tag(found.digest))


@stores
@pytest.mark.parametrize("subject", ["app@2.0", "both"])
def test_files_come_back_as_they_were_attached(
    pushed: str, files: tuple[Path, Path], subject: str, tmp_path: Path
) -> None:
    done = put(pushed, subject, *files, "--type", SBOM, "--annotation", "job=42", "--json")
    assert done.code == 0, done.err
    assert done.json["type"] == SBOM
    assert done.json["files"] == {path.name: str(Digest.of(path.read_bytes())) for path in files}
    assert ran("artifacts", "list", pushed, subject, "--json").json == [done.json]
    fetched = ran("artifacts", "get", pushed, subject, tmp_path / "out", "--type", SBOM)
    assert fetched.lines == [str(tmp_path / "out" / path.name) for path in files]
    assert [(tmp_path / "out" / path.name).read_bytes() for path in files] == [path.read_bytes() for path in files]
    found = manifest(pushed, done.json["digest"])
    assert [layer["annotations"][TITLE] for layer in found["layers"]] == [path.name for path in files]
    assert found["artifactType"] == SBOM
    assert found["annotations"] == {"job": "42"}
    with store_of(pushed) as store:
        place = package_at(pushed, "app") if subject != "both" else "both"
        assert found["subject"]["digest"] == str(store.resolve(place).digest) == done.json["subject"]


@pytest.mark.parametrize("cache", STORES[1:], indirect=True)
def test_others_find_an_artifact_by_the_specifications_means(
    pushed: str, files: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    """By GET /referrers where the registry has it, else by the tag made of the subject's digest."""
    made = put(pushed, "both", files[0], "--type", SBOM, "--annotation", "job=42", "--json").json
    base = f"http://{pushed.removeprefix('oci://').replace('/', '/v2/')}"
    subject = made["subject"]
    path = f"manifests/{subject.replace(':', '-')}" if "without" in request.node.name else f"referrers/{subject}"
    with urllib.request.urlopen(f"{base}/{path}") as answer:
        (entry,) = json.load(answer)["manifests"]
    assert (entry["digest"], entry["annotations"]) == (made["digest"], {"job": "42"})
    assert entry.get("artifactType", SBOM) == SBOM  # some registries leave it out of their list


@layout
def test_the_same_files_attached_again_are_the_same_artifact(pushed: str, files: tuple[Path, Path]) -> None:
    first, second = (put(pushed, "app", *files, "--type", SBOM, "--json").json for _ in range(2))
    assert first == second
    assert len(ran("artifacts", "list", pushed, "app", "--json").json) == 1


@layout
def test_type_and_digest_choose_among_artifacts(pushed: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    made = [put(pushed, "app", path, "--type", SBOM, "--json").json for path in files]
    put(pushed, "app", files[1], "--type", "text/plain")
    assert len(ran("artifacts", "list", pushed, "app", "--type", SBOM, "--json").json) == 2
    several = binpkg("artifacts", "get", pushed, "app", tmp_path / "out", "--type", SBOM)
    assert several.code == 5
    assert all(each["digest"] in several.err for each in made)
    assert "--digest" in several.err
    assert not (tmp_path / "out").exists()
    assert ran("artifacts", "get", pushed, "app", tmp_path / "out", "--digest", made[1]["digest"]).lines == [
        str(tmp_path / "out" / "log")
    ]
    for lacking in (["--type", "text/html"], ["--digest", str(Digest.of(b"other"))]):
        assert binpkg("artifacts", "get", pushed, "app", tmp_path / "out", *lacking).code == 4
    assert binpkg("artifacts", "get", pushed, "app", tmp_path / "out", "--digest", "sha256:12").code == 2
    assert binpkg("artifacts", "list", pushed, "zlib", "--json").json == []
    assert "artifacts (1)" in ran("inspect", pushed).out


@layout
def test_a_subject_is_a_tag_a_digest_or_one_package(pushed: str, files: tuple[Path, Path]) -> None:
    made = put(pushed, "both", files[0], "--type", SBOM, "--json").json
    assert ran("artifacts", "list", pushed, made["subject"], "--json").json == [made]
    assert put(pushed, "nothing", files[0], "--type", SBOM).code == 4
    assert put(pushed, "sha256:12", files[0], "--type", SBOM).code == 2
    assert put(pushed, str(Digest.of(b"x")), files[0], "--type", SBOM).code == 6
    assert put(f"{pushed}:both", "both", files[0], "--type", SBOM).code == 2


@layout
def test_what_cannot_be_attached_is_refused_before_anything_is_written(
    pushed: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log").write_text("another of that name")
    os.mkfifo(tmp_path / "fifo")
    with store_of(pushed) as store:
        before = sorted(store.tags())
    refused = {
        (files[1], tmp_path / "other" / "log"): 2,
        (tmp_path / "other",): 11,
        (tmp_path / "fifo",): 11,
        (tmp_path / "none",): 11,
    }
    for paths, code in refused.items():
        ended = put(pushed, "app", *paths, "--type", SBOM)
        assert ended.code == code, ended.err
        assert paths[-1].name in ended.err
    for wrong in ("sbom", "a/b/c", "a /b", ""):
        assert put(pushed, "app", files[0], "--type", wrong).code == 2
    assert put(pushed, "app", files[0], "--type", SBOM, "--annotation", "job").code == 2
    with store_of(pushed) as store:
        assert sorted(store.tags()) == before


def test_a_mirror_keeps_none(tree: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    mirror = f"file://{tmp_path}/cache"
    ran("push", mirror, "--store", tree.root, "--unsigned", "--update-index")
    for command in (["attach", mirror, "app", files[0], "--type", SBOM], ["artifacts", "list", mirror, "app"]):
        ended = binpkg(*command)
        assert ended.code == 2
        assert "is a mirror" in ended.err


@layout
@pytest.mark.parametrize("title", ["../out", "/etc/passwd", "a/../../b", "", "a\nb", "x" * 300, "a//b", "."])
def test_a_strangers_title_leads_nowhere(pushed: str, title: str, tmp_path: Path) -> None:
    strange_artifact(pushed, "both", title)
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = binpkg("artifacts", "get", pushed, "both", tmp_path / "deep" / "out")
    if title:
        assert ended.code == 10
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    else:
        # without a title, a file is called by its digest
        assert [path.name for path in (tmp_path / "deep" / "out").iterdir()] == [f"sha256-{Digest.of(b'theirs').hex}"]


@layout
def test_folders_in_titles_are_made(pushed: str, tmp_path: Path) -> None:
    strange_artifact(pushed, "both", "reports/today/log")
    ran("artifacts", "get", pushed, "both", tmp_path / "out")
    assert (tmp_path / "out/reports/today/log").read_bytes() == b"theirs"


@pytest.mark.parametrize("cache", ["layout", "registry"], indirect=True)
def test_where_signatures_count_an_artifact_needs_one(
    home: Any, tree: Any, cache: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    key = home.make("alice")
    ran("push", cache, "--store", tree.root, "--key", key, "--update-index")
    trust(home, key, tmp_path)
    put(cache, "app", files[1], "--type", "text/plain")
    strict = ("--check-signature", "--type")
    unsigned = binpkg("artifacts", "list", cache, "app", "--check-signature", "--json")
    assert unsigned.json == []
    assert "not signed" in unsigned.err
    assert binpkg("artifacts", "get", cache, "app", tmp_path / "out", *strict, "text/plain").code == 4
    made = put(cache, "app", files[0], "--type", SBOM, "--key", key, "--json")
    assert made.code == 0, made.err
    assert [each["type"] for each in binpkg("artifacts", "list", cache, "app", *strict, SBOM, "--json").json] == [SBOM]
    ran("artifacts", "get", cache, "app", tmp_path / "out", *strict, SBOM)
    # signatures are attached in the same way, and are no artifacts that somebody looks for
    assert len(ran("artifacts", "list", cache, "app", "--no-check-signature", "--json").json) == 2
    assert ran("show", "app", "--from", cache, "--check-signature").code == 0


@registry
def test_a_registry_that_takes_images_only_gets_an_image(pushed: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    """GitLab refuses configs and artifacts of other types."""
    (server,) = REGISTRIES.values()

    server.fault("PUT", "/manifests/", answer=Answer.error(400, "MANIFEST_INVALID", "unknown media type"))
    made = put(pushed, "app", files[0], "--type", SBOM, "--json")
    assert made.code == 0, made.err
    assert made.json["type"] == SBOM
    found = manifest(pushed, made.json["digest"])
    assert found["config"]["mediaType"] == OCI_CONFIG
    assert "artifactType" not in found
    assert ran("artifacts", "list", pushed, "app", "--type", SBOM, "--json").json == [made.json]


@layout
def test_what_other_clients_made_by_hand_is_listed(pushed: str, tmp_path: Path) -> None:
    with store_of(pushed) as store:
        attach(
            store, store.resolve("both"), "application/vnd.example", Blob.from_bytes(b"x"), pause=lambda _round: None
        )
    (found,) = ran("artifacts", "list", pushed, "both", "--json").json
    assert found["type"] == "application/vnd.example"


@layout
def test_layers_of_packages_and_images_have_the_names_that_download_gives(pushed: str, tmp_path: Path) -> None:
    (archive,) = (path for path in ran("download", "app", tmp_path, "--from", pushed).lines if path.endswith(".gz"))
    for tag in (package_at(pushed, "app"), "both"):
        with store_of(pushed) as store:
            found = parse_manifest(blob_of(store, store.resolve(tag)).read(), tag)
        assert isinstance(found, Manifest)
        names = [layer.annotations[TITLE] for layer in found.layers]
        assert names[-1] == Path(archive).name
        assert names[0].startswith("zlib-1.3-")
