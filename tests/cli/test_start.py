"""What a command loads before it does anything: start-up is paid at every call, and scripts make many."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.command_line import binpkg, unmeasured_environment
from tests.support.fake_registry import FakeRegistry
from tests.support.spack_trees import Sketch, spack_tree

ROOT = Path(__file__).parents[2]

COMMANDS = {
    "push": ["push", "CACHE", "--store", "STORE"],
    "install": ["install", "app", "--from", "CACHE", "--store", "TARGET"],
    "install-image": ["install-image", "CACHE:both", "--store", "TARGET"],
    "index update": ["index", "update", "CACHE"],
    "check": ["check", "--on", "CACHE", "--store", "STORE"],
    "find": ["find", "--from", "CACHE"],
}
RARE = (
    *("yaml", "rich", "docker", "fsspec", "tomlkit", "asyncio"),
    *("oci_binpkg.cache.mirror", "oci_binpkg.cache.mirror_v2", "oci_binpkg.objects.protocol"),
    *("oci_binpkg.signing.sign", "oci_binpkg.signing.keyring", "oci_binpkg.signing.gpg"),
    *("oci_binpkg.ops.engines", "oci_binpkg.ops.inspect", "oci_binpkg.installs.packages_toml"),
    *("oci_binpkg.cli.logs", "oci_binpkg.cli.crash"),
)
"""What only some caches, trees or flags need, none of which are here."""
NETWORK = (
    "requests",
    "urllib3",
    "tenacity",
    "ssl",
    "http",
    "oci_binpkg.store.registry.repository",
    "oci_binpkg.transport.registry_client",
)
NEEDED_BY_SOME = {
    "oci_binpkg.relocate": {"push", "install", "install-image"},
    "oci_binpkg.archive": {"push", "install", "install-image"},
    "oci_binpkg.archive.extract": {"install", "install-image"},
    "oci_binpkg.installs": {"push", "install", "install-image", "check"},
    "sqlite3": {"install", "install-image", "find"},
}


@pytest.fixture(scope="module", params=["layout", "registry"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A cache that has everything, and the folder of a tree that it came from and of one that it was installed into."""
    folder = tmp_path_factory.mktemp("start")
    spack_tree(folder / "STORE", [Sketch("zlib", "1.3", files={"lib/libz.so": b"z"}), Sketch("app", depends=["zlib"])])
    with FakeRegistry() as registry:
        cache = f"oci-layout:{folder}/cache" if request.param == "layout" else f"oci+http://{registry.host}/apps"
        done = binpkg("push", cache, "--store", folder / "STORE", "--update-index", "--tag", "both")
        assert done.code == 0, done.err
        done = binpkg("install", "app", "--from", cache, "--store", folder / "TARGET")
        assert done.code == 0, done.err
        yield cache, folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_what_it_needs(started: tuple[str, Path], command: str) -> None:
    cache, folder = started
    words = [word.replace("CACHE", cache) for word in COMMANDS[command]]
    words = [str(folder / word) if word in {"STORE", "TARGET"} else word for word in words]
    loaded = loaded_by(words)
    unwanted = [*RARE, *(module for module, by in NEEDED_BY_SOME.items() if command not in by)]
    unwanted += NETWORK if cache.startswith("oci-layout:") else ()
    assert "oci_binpkg.cache.oci" in loaded
    assert [module for module in unwanted if module in loaded] == []


def test_the_modules_that_are_watched_for_exist() -> None:
    ours = [name for name in (*RARE, *NETWORK, *NEEDED_BY_SOME) if name.startswith("oci_binpkg.")]
    assert [name for name in ours if find_spec(name) is None] == []


def loaded_by(words: list[str]) -> set[str]:
    """Return the modules that a command loads, which must go well."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "oci_binpkg", *words],
        cwd=ROOT,
        env=unmeasured_environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
