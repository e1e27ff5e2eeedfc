"""Spack's record of files is understood, and ours is one that Spack could have written."""

import json
import os
import tracemalloc

import pytest

from oci_binpkg.errors import InstallsError
from oci_binpkg.installs import install_manifest as manifest
from oci_binpkg.installs.install_manifest import MANIFEST, compare, early_hashes, file_hash, manifest_of, read_manifest
from tests.support.golden import unpack_store


@pytest.fixture
def golden(tmp_path):
    """greetlib 1.2.0, with its record moved to where it was unpacked."""
    store = unpack_store(tmp_path)
    (prefix,) = store.glob("linux-x86_64/greetlib-1.2.0-*")
    record = prefix / MANIFEST
    link = prefix / "share/greet/current"
    target = os.readlink(link).replace("/opt/golden/store", str(store))
    link.unlink()
    link.symlink_to(target)
    record.write_text(record.read_text().replace("/opt/golden/store", str(store)))
    return prefix


def problems(prefix):
    return {finding.path: finding.problem for finding in compare(str(prefix))}


def test_a_golden_prefix_agrees_with_the_record_that_spack_made(golden):
    assert problems(golden) == {}


def test_every_kind_of_damage_is_found(golden):
    (golden / "include/greet.h").write_text("x")
    (golden / "bin/greet-config").chmod(0o644)
    content = (golden / "share/greet/blob.bin").read_bytes()
    (golden / "share/greet/blob.bin").write_bytes(b"X" + content[1:])
    (golden / "lib/libgreet.so").unlink()
    (golden / "lib/libgreet.so").symlink_to("elsewhere")
    (golden / "lib/libgreet.a").unlink()
    (golden / "share/empty").rmdir()
    (golden / "share/empty").write_text("")
    (golden / "new").write_text("")
    found = problems(golden)
    assert found.pop("include/greet.h") == "has 1 bytes instead of 61"
    assert found.pop("bin/greet-config") == "may not be executed"
    assert found.pop("bin/greet-config-1") == "may not be executed"
    assert found.pop("share/greet/blob.bin") == "has other content"
    assert found.pop("lib/libgreet.so") == "leads elsewhere"
    assert found.pop("lib/libgreet.a") == "is missing"
    assert found.pop("share/empty") == "is of another kind"
    assert found.pop("new") == "is not recorded"
    assert found == {}


def test_a_record_made_anew_is_as_spack_makes_it(golden):
    old = read_manifest(str(golden))
    made = json.loads(manifest_of(str(golden), str(golden), known={}, known_prefix="", changed=()))
    assert set(made) == set(old)
    assert {path: entry.get("hash") for path, entry in made.items()} == {p: e.get("hash") for p, e in old.items()}
    assert {path: entry.get("dest") for path, entry in made.items()} == {p: e.get("dest") for p, e in old.items()}


def test_hashes_are_kept_for_files_that_did_not_change(golden, monkeypatch):
    old = read_manifest(str(golden))
    hashed = []
    monkeypatch.setattr("oci_binpkg.installs.install_manifest.file_hash", lambda path: hashed.append(path) or "NEW")
    made = json.loads(
        manifest_of(str(golden), "/new", known=old, known_prefix=str(golden), changed={"include/greet.h"})
    )
    assert [os.path.basename(path) for path in hashed] == ["greet.h"]
    assert made["/new/include/greet.h"]["hash"] == "NEW"
    assert made["/new/lib/libgreet.a"]["hash"] == old[f"{golden}/lib/libgreet.a"]["hash"]


def test_a_file_that_changes_after_it_was_hashed_early_is_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_WORTH_THREADS", 1)
    monkeypatch.setattr(manifest, "_LARGE", 4)
    contents = {"same": b"plain text", "changed": b"old text", "small": b"x", "known": b"known text"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    known = {"/old/known": {"hash": "K", "size": 10}}
    with early_hashes(
        str(tmp_path), {name: len(c) for name, c in contents.items()}, known=known, known_prefix="/old"
    ) as early:
        assert set(early) == {"same", "changed"}
        assert early["changed"].result()
        (tmp_path / "changed").write_bytes(b"new text")
        made = json.loads(
            manifest_of(str(tmp_path), "/new", known=known, known_prefix="/old", changed={"changed"}, early=early)
        )
    for name in ("same", "changed", "small"):
        assert made[f"/new/{name}"]["hash"] == file_hash(str(tmp_path / name))
    assert made["/new/known"]["hash"] == "K"


def test_the_hash_is_the_one_spack_takes(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    assert file_hash(str(tmp_path / "x")) == "3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ"


@pytest.mark.parametrize("content", [None, b"[]", b"{", b'{"a": 1}'])
def test_a_prefix_without_a_sound_record_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / ".spack").mkdir()
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InstallsError, match="install_manifest"):
        list(compare(str(tmp_path)))


@pytest.mark.parametrize(
    "record",
    [
        b'{"a":{"b":[' + b"[]," * 1_000_000 + b"[]]}}",
        b'{"a":{"b":[[]]}}',
        b"{" + b",".join(b'"%d":{}' % number for number in range(20_000)) + b"}",
        b'{"a":{' + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}}",
        b'{"a":' * 100_000,
        b'{"a":{"size":' + b"1" * 5000 + b"}}",
        b'{"a":"' + b"x" * 1_000_000 + b'"}',
        b"[]",
        b'{"a":1}',
        b"\xff",
    ],
)
def test_a_record_that_is_more_than_its_files_is_damaged(tmp_path, record: bytes) -> None:
    (tmp_path / MANIFEST).parent.mkdir()
    (tmp_path / MANIFEST).write_bytes(record)
    tracemalloc.start()
    with pytest.raises(InstallsError, match=r"install_manifest\.json: "):
        read_manifest(str(tmp_path), files=3)
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    tracemalloc.stop()


def test_a_record_of_many_files_is_read(tmp_path) -> None:
    entry = {"mode": 33188, "owner": 0, "group": 0, "hash": "A" * 32, "time": 1.5, "size": 3}
    (tmp_path / MANIFEST).parent.mkdir()
    (tmp_path / MANIFEST).write_text(json.dumps({f"{'/long' * 60}/{number}": entry for number in range(20_000)}))
    assert len(read_manifest(str(tmp_path), files=20_000)) == 20_000
