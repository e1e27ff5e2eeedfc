"""Packages made by Spack, from a layout and from a real registry, installed elsewhere; and installs that are killed."""

from __future__ import annotations

import gzip
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cache.protocol import CacheEntry
from oci_binpkg.index.document import index_of
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.model.content import OCI_LAYER_GZIP, Descriptor, Digest, Platform
from oci_binpkg.model.image import Layer, PackageLayer, PackageSpec, compose
from oci_binpkg.model.reference import PackageKey, Repository
from oci_binpkg.model.spec_document import parse_spec_document
from oci_binpkg.ops.upkeep import verify_store
from oci_binpkg.store.copy import copy
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.registry.repository import RegistryStore
from oci_binpkg.transport.registry_client import RegistryHttpClient
from tests.support.blobs import file_blob
from tests.support.command_line import Ended, binpkg, unmeasured_environment
from tests.support.examples import nightly
from tests.support.real.debian_packages import Corpus
from tests.support.real.registry import RealRegistry

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
OLD_ROOT = "/opt/golden/store"
GREETINGS = {"2.0": "hello, world (lib 1.2.0)", "2.1": "HELLO, world (lib 1.3.0)"}
KILLS = 50 if nightly() else 20
INTERRUPTS = 10
PACKAGES = 20


@pytest.fixture(scope="module")
def golden_repository(plain_registry: RealRegistry) -> str:
    """The golden layout in a real registry, every tag copied byte for byte."""
    source = LayoutStore(str(GOLDEN / "oci-layout"))
    with RegistryHttpClient(plain_registry.url) as client:
        target = RegistryStore(client, Repository("http", plain_registry.host, "golden-copy"))
        for tag in source.tags():
            copy(source, target, tag)
            assert target.resolve(tag).digest == source.resolve(tag).digest
    return f"oci://{plain_registry.host}/golden-copy"


@pytest.fixture(params=["layout", "registry"])
def cache(request: pytest.FixtureRequest) -> str:
    if request.param == "layout":
        return f"oci-layout:{GOLDEN / 'oci-layout'}"
    return str(request.getfixturevalue("golden_repository"))


@pytest.fixture
def root_of_length() -> Iterator[Callable[[int], Path]]:
    """A function that gives the path of a root of exactly so many characters; nothing is there yet."""
    folder = f"/tmp/{secrets.token_hex(2)}"
    os.mkdir(folder)
    yield lambda length: Path(folder, "x" * (length - len(folder) - 1))
    shutil.rmtree(folder)


def run(path: Path) -> str:
    return subprocess.run([path], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}).stdout


def one(root: Path, pattern: str) -> Path:
    (found,) = root.glob(pattern)
    return found


def holding_the_old_root(root: Path) -> set[str]:
    """Relative paths of files that hold the old root, but for the record of the build in `.spack`."""
    found = subprocess.run(
        ["grep", "-rl", "--binary-files=text", "--exclude-dir=.spack", "--exclude-dir=.spack-db", OLD_ROOT, str(root)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    return {os.path.relpath(path, root) for path in found}


def named_in(ended: Ended, root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(package["prefix"], file), root)
        for package in ended.json["packages"]
        for remark in package["remarks"]
        for file in remark["files"]
    }


@pytest.mark.parametrize("length", [12, len(OLD_ROOT)], ids=["shorter", "equal"])
def test_golden_packages_run_where_they_were_not_built(
    cache: str, root_of_length: Callable[[int], Path], length: int
) -> None:
    root = root_of_length(length)
    assert len(str(root)) == length
    ended = binpkg("install", "greet@2.0", "greet@2.1", "--from", cache, "--store", root, "--allow-missing", "--json")
    assert ended.code == 0, ended.err
    outcomes = {package["name"] + package["version"]: package["outcome"] for package in ended.json["packages"]}
    assert outcomes.pop("gcc-runtime12.2.0") == "missing"
    assert set(outcomes.values()) == {"installed"}
    assert len(outcomes) == 5
    for version, greeting in GREETINGS.items():
        prefix = one(root, f"*/greet-{version}-*")
        said, hello = run(prefix / "bin/greet").splitlines()
        assert said.startswith("from /")
        assert os.path.realpath(said.removeprefix("from ")) == str(prefix)
        assert hello == greeting
        assert run(prefix / "bin/greet-script") == f"script of {prefix}\n"
    for version in ("1.2.0", "1.3.0"):
        prefix = one(root, f"*/greetlib-{version}-*")
        assert str(prefix) in run(prefix / "bin/greet-config")
        assert OLD_ROOT not in run(prefix / "bin/greet-config")
    assert holding_the_old_root(root) <= named_in(ended, root)
    assert binpkg("verify-store", root).code == 0


def test_a_longer_root_is_refused_naming_what_would_fit(cache: str, root_of_length: Callable[[int], Path]) -> None:
    root = root_of_length(40)
    ended = binpkg("install", "greetlib@1.3.0", "--from", cache, "--store", root, "--allow-missing")
    assert ended.code == 13
    assert f"at most {len(OLD_ROOT)} bytes" in ended.out
    assert not list(root.glob("*/greetlib*"))


@pytest.mark.parametrize("length", [12, 17, 120])
def test_packages_of_a_padded_root_install_anywhere(
    root_of_length: Callable[[int], Path], tmp_path: Path, length: int
) -> None:
    cache = f"oci-layout:{tmp_path}/padded"
    fill_from_mirror(GOLDEN / "v3-padded", LayoutStore(f"{tmp_path}/padded"))
    root = root_of_length(length)
    ended = binpkg("install", "greet@2.1", "--from", cache, "--store", root, "--allow-missing", "--json")
    assert ended.code == 0, ended.err
    prefix = one(root, "*/greet-2.1-*")
    said, hello = run(prefix / "bin/greet").splitlines()
    assert os.path.realpath(said.removeprefix("from ")) == str(prefix)
    assert hello == GREETINGS["2.1"]
    assert run(prefix / "bin/greet-script") == f"script of {prefix}\n"


def fill_from_mirror(mirror: Path, store: LayoutStore) -> None:
    """Put the packages of a URL mirror into a store, their archives as they are."""
    cache = OciCache(store, pause=lambda _: None)
    documents = []
    for path in mirror.glob("v3/manifests/spec/*/*.spec.manifest.json"):
        records = {record["mediaType"].split(".")[2]: record for record in json.loads(path.read_text())["data"]}
        archive, spec = (
            (mirror / "blobs/sha256" / records[k]["checksum"][:2] / records[k]["checksum"]) for k in ("install", "spec")
        )
        text = gzip.decompress(spec.read_bytes())
        document = parse_spec_document(text, path.name)
        root = document.root
        descriptor = Descriptor(OCI_LAYER_GZIP, Digest("sha256", archive.name), archive.stat().st_size)
        layer = Layer(file_blob(str(archive), descriptor), Digest.of(gzip.decompress(archive.read_bytes())))
        image = compose(
            [PackageLayer(root.name, root.version, root.hash, layer)],
            Platform("linux", "amd64"),
            spec=PackageSpec(json.loads(text)["spec"], root.describe()),
        )
        cache.publish(CacheEntry(PackageKey.of(root), document, layer, image))
        documents.append((root, document.graph))
    cache.merge_index(index_of(documents))


def test_installs_that_are_killed_leave_a_consistent_tree_and_are_completed(
    debian_corpus: Callable[[int], Corpus], tmp_path: Path
) -> None:
    corpus = debian_corpus(PACKAGES)
    cache = f"oci-layout:{tmp_path}/cache"
    assert binpkg("push", cache, "--store", corpus.directory, "--update-index").code == 0
    found = binpkg("find", "--from", cache, "--json").json
    queries = [f"/{package['hash']}" for package in found]
    assert len(queries) == PACKAGES
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    root = tmp_path / "root"
    install = [sys.executable, "-m", "oci_binpkg", "install", *queries, "--from", cache, "--store", str(root)]
    started = time.monotonic()
    subprocess.run(install, capture_output=True, check=True)
    whole = time.monotonic() - started
    shutil.rmtree(root)
    for number in range(KILLS + INTERRUPTS):
        running = subprocess.Popen(
            install,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=unmeasured_environment(),
        )
        time.sleep(moments.uniform(0.2, whole))
        os.killpg(running.pid, signal.SIGKILL if number < KILLS else signal.SIGINT)
        running.wait()
        consistent(root)
        if number % 10 == 9:
            shutil.rmtree(root, ignore_errors=True)
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    installs = consistent(root)
    assert len([record for record in installs.records() if record.installed]) == PACKAGES
    left = [name for name in os.listdir(one(root, "linux-*")) if name.startswith(".")]
    assert left == []


def consistent(root: Path) -> SpackInstalls:
    """Every package that is recorded is there, whole."""
    installs = SpackInstalls(str(root), create=True)
    for record in installs.records():
        if record.installed and not record.spec.is_external:
            assert record.is_present, record.prefix
    assert [verified for verified in verify_store(installs) if not verified.is_good] == []
    return installs
