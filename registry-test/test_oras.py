"""oras-py, an independent client, pulls packages, images and artifacts from a real registry as files with names."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from oras.client import OrasClient

from oci_binpkg import Client
from tests.support.real.registry import RealRegistry
from tests.support.spack_trees import Sketch, spack_tree

pytestmark = pytest.mark.real

SBOM = "application/spdx+json"
TITLE = "org.opencontainers.image.title"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def cache(plain_registry: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository with two packages and an image of both; the tree is in the folder beside it."""
    folder = tmp_path_factory.mktemp("oras")
    sketches = [
        Sketch("zlib", "1.3", files={"lib/z": b"z" * 5000}),
        Sketch("app", "2.0", files={"bin/a": b"a"}, depends=["zlib"]),
    ]
    spack_tree(folder / "store", sketches)
    report = Client().push(f"oci://{plain_registry.host}/oras", folder / "store", update_index=True, tag="both")
    assert report.exit_code == 0
    return f"oci://{plain_registry.host}/oras"


def digest_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def get(url: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": INDEX})) as answer:
        return json.load(answer)


def client_of(cache: str) -> tuple[OrasClient, str]:
    target = cache.removeprefix("oci://")
    return OrasClient(hostname=target.partition("/")[0], insecure=True), target


def tag_of(cache: str, name: str) -> str:
    (package,) = Client().find(name, cache=cache)
    return f"{package.name}-{package.version}-{package.hash}.spack"


@pytest.mark.parametrize("what", ["app", "both"])
def test_layers_of_a_package_and_of_an_image_become_named_files(cache: str, what: str, tmp_path: Path) -> None:
    client, target = client_of(cache)
    tag = what if what == "both" else tag_of(cache, what)
    manifest = client.get_manifest(f"{target}:{tag}")
    for layer in manifest["layers"]:
        client.download_blob(f"{target}:{tag}", layer["digest"], str(tmp_path / layer["annotations"][TITLE]))
    names = {path.name: digest_of(path) for path in tmp_path.iterdir()}
    assert names == {layer["annotations"][TITLE]: layer["digest"] for layer in manifest["layers"]}
    assert sorted(name.rsplit("-", 1)[0] for name in names) == ["app-2.0", "zlib-1.3"]
    assert all(name.endswith(".tar.gz") for name in names)
    # what `download` writes is the same file under the same name
    (fetched,) = Client().download(cache, "app", tmp_path / "ours")
    assert names[Path(fetched.archive).name] == digest_of(Path(fetched.archive))


def test_its_pull_of_an_image_unpacks_every_package(cache: str, tmp_path: Path) -> None:
    """oras-py takes each layer of a container's media type for a folder, and unpacks it."""
    client, target = client_of(cache)
    pulled = client.pull(f"{target}:both", outdir=str(tmp_path))
    assert sorted(Path(path).name.rsplit("-", 1)[0] for path in pulled) == ["app-2.0", "zlib-1.3"]
    found = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name in "az"}
    assert found == {"a": b"a", "z": b"z" * 5000}


def test_an_artifact_becomes_named_files(cache: str, tmp_path: Path) -> None:
    (tmp_path / "app.spdx.json").write_text('{"spdxVersion": "SPDX-2.3"}')
    (tmp_path / "log.txt").write_bytes(b"line\n" * 1000)
    paths = [tmp_path / "app.spdx.json", tmp_path / "log.txt"]
    made = Client().attach(cache, "app", paths, artifact_type=SBOM)
    client, target = client_of(cache)
    pulled = client.pull(f"{target}@{made.digest}", outdir=str(tmp_path / "out"))
    assert [Path(path).name for path in pulled] == ["app.spdx.json", "log.txt"]
    assert {Path(path).name: digest_of(Path(path)) for path in pulled} == {
        name: str(digest) for name, digest in made.files.items()
    }


def test_what_oras_pushed_is_fetched(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.bin").write_bytes(b"theirs")
    client, target = client_of(cache)
    client.push(f"{target}:theirs", files=["theirs.bin"], disable_path_validation=True)
    Path("ours.txt").write_bytes(b"ours")
    made = Client().attach(cache, "theirs", "ours.txt", artifact_type="text/plain")
    assert Client().artifacts_get(cache, "theirs", tmp_path / "out", digest=str(made.digest)) == [
        str(tmp_path / "out" / "ours.txt")
    ]


def test_an_attached_file_is_listed_by_the_registry_or_under_the_tag(cache: str, tmp_path: Path) -> None:
    """Distribution 2.8 has no list of referrers, 3 does; both are looked at as a client of the specification does."""
    (tmp_path / "report.txt").write_text("fine")
    made = Client().attach(cache, "both", tmp_path / "report.txt", artifact_type="text/plain")
    host, name = cache.removeprefix("oci://").split("/")
    listed = None
    try:
        listed = get(f"http://{host}/v2/{name}/referrers/{made.subject}")
    except urllib.error.HTTPError as error:
        assert error.code == 404  # noqa: PT017 - the registry may have no such list
    if listed is None:
        listed = get(f"http://{host}/v2/{name}/manifests/{str(made.subject).replace(':', '-')}")
    assert listed["mediaType"] == INDEX
    (entry,) = [each for each in listed["manifests"] if each["digest"] == str(made.digest)]
    assert entry["artifactType"] == "text/plain"
    (ours,) = Client().artifacts_list(cache, "both", artifact_type="text/plain")
    assert ours == made
