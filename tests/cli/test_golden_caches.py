"""No cache that Spack made is refused: every one of the golden ones is listed, shown and installed from, signed or not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN, unpack_store

FIVE = ["greet@2.0", "greet@2.1", "greetcfg@0.9", "greetlib@1.2.0", "greetlib@1.3.0"]
THREE = ["greet@2.1", "greetcfg@0.9", "greetlib@1.3.0"]
CACHES = {
    "v3-signed": FIVE,
    "v3-unsigned": FIVE,
    "v3-padded": THREE,
    "v2-signed": FIVE,
    "v2-unsigned": FIVE,
    "oci-layout": FIVE,
}
SUSPICIOUS = ("damaged", "cannot be verified", "not used", "claims the hash", "another package")


def address(name: str) -> str:
    return f"oci-layout:{GOLDEN / name}" if name == "oci-layout" else f"file://{GOLDEN / name}"


def check_flag(name: str) -> str:
    return "--check-signature" if name.endswith("-signed") else "--no-check-signature"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: the golden binaries have constants."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", CACHES)
def test_a_golden_cache_is_listed_shown_and_installed_from(name: str, short: Path) -> None:
    if name.endswith("-signed"):
        (key,) = (one["fingerprint"] for one in binpkg("keys", "fetch", address(name), "--json").json)
        assert binpkg("keys", "trust", key, "--from", address(name)).code == 0
    words = ("--from", address(name), check_flag(name))
    found = binpkg("find", *words)
    assert found.code == 0, found.err
    assert sorted(line.split()[1] for line in found.lines) == CACHES[name]
    for package in CACHES[name]:
        shown = binpkg("show", package, *words, "--json")
        assert shown.code == 0, shown.err
        assert shown.json["hash_state"] == "verified"
    installed = binpkg("install", "greet@2.1", *words, "--allow-missing", "--store", short / "s")
    assert installed.code == 0, installed.err
    said = [line for line in (found.err + installed.err).splitlines() if "gcc-runtime" not in line]
    assert not [line for line in said if any(word in line for word in SUSPICIOUS)]
    assert list(short.glob("s/linux-*/greet-2.1-*/bin/greet"))


def test_the_golden_tree_is_listed_and_pushed(tmp_path: Path) -> None:
    store = unpack_store(tmp_path)
    found = binpkg("find", "--store", store)
    assert found.code == 0, found.err
    assert set(FIVE) <= {line.split()[1] for line in found.lines}
    assert not any(word in found.err for word in SUSPICIOUS)
