"""Mirrors as anybody may write them down, in our file and in Spack's: read, or refused with the file's name."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import tomlkit
import yaml
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.config.caches import SpackPlaces
from oci_binpkg.config.settings import load_settings
from oci_binpkg.config.spack_mirrors import read_spack_mirrors
from oci_binpkg.errors import UsageError
from tests.support.examples import examples

KEYS = [
    "url",
    "fetch",
    "push",
    "pull",
    "view",
    "signed",
    "signed_index",
    "endpoint_url",
    "profile",
    "access_token",
    "access_token_variable",
    "access_key_id_variable",
    "access_key_secret_variable",
    "access_pair",
    "id",
    "secret_variable",
    "binary",
    "source",
    "autopush",
    "connection",
    "caches",
    "mirrors",
    "lab",
    "jobs",
    "store",
]
URLS = [
    "oci://h/x",
    "s3://b/x",
    "file:///m",
    "https://me:hush@h/x",
    "https://[",
    "h:1",
    "$spack/m",
    "${X}/m",
    "~/m",
    "//",
]
keys = st.sampled_from(KEYS) | st.text(max_size=8)
texts = st.sampled_from(URLS) | st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
scalars = texts | st.integers(-(2**70), 2**70) | st.booleans() | st.floats() | st.none() | st.dates()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=6
)
entries = st.dictionaries(st.sampled_from(KEYS), values | texts, max_size=4)
mirrors = st.dictionaries(keys, entries | values, max_size=3)


def loaded(home: Path, file: str, content: bytes) -> None:
    """Read the configuration whose one file this is."""
    path = home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        found = load_settings({"HOME": str(home), "SPACK_SYSTEM_CONFIG_PATH": f"{home}/system", "X": "/x"}).caches
    except UsageError as error:
        refusal = error
    else:
        refusal = None  # type: ignore[assignment]
    if refusal is not None:
        assert path.name in refusal.message
        assert "hush" not in str(refusal)
        return
    for cache in found.values():
        with contextlib.suppress(UsageError):
            cache.endpoint(writing=False)
        assert "hush" not in repr(cache)


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value if each is not None] if isinstance(value, list) else value


@examples(150)
@given(mirrors, st.dictionaries(keys, values, max_size=2))
def test_our_file_is_read_or_refused_with_its_name(caches: dict[str, Any], others: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as home:
        document = tomlkit.dumps(without_none({**others, "caches": caches}))
        loaded(Path(home), ".config/oci-binpkg/config.toml", document.encode("utf-8", "replace"))


@examples(100)
@given(
    st.binary(max_size=60), st.text(max_size=60), st.sampled_from(["", "[caches.lab]\n", "caches = ", "mirrors:\n  "])
)
def test_any_bytes_are_read_or_refused_with_the_files_name(data: bytes, text: str, begin: str) -> None:
    for content in (begin.encode() + data, (begin + text).encode("utf-8", "replace")):
        for file in (".config/oci-binpkg/config.toml", ".spack/mirrors.yaml"):
            with tempfile.TemporaryDirectory() as home:
                loaded(Path(home), file, content)


@examples(150)
@given(mirrors | values)
def test_spacks_file_is_read_or_refused_with_its_name(document: Any) -> None:
    with tempfile.TemporaryDirectory() as home:
        text = yaml.safe_dump({"mirrors": document}, allow_unicode=True)
        loaded(Path(home), ".spack/mirrors.yaml", text.encode("utf-8", "replace"))
        path = Path(home, ".spack/mirrors.yaml")
        with contextlib.suppress(UsageError):
            read_spack_mirrors(SpackPlaces(home, "", {}), str(path))
