"""What a tree remembers of the packages that came from caches: to which install it belongs, and what damage means."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.installs.protocol import InstallRecord
from oci_binpkg.installs.verifications import FILE, Verification, Verifications, change
from tests.support.spack_trees import Sketch, graph_of

_, SPECS = graph_of([Sketch("zlib", "1.3"), Sketch("app", "2.0")])
ZLIB, APP = SPECS["zlib"], SPECS["app"]


def record(spec=ZLIB, at=1000.5):
    return InstallRecord(spec, "/somewhere", installation_time=at)


def known(spec=ZLIB, at=1000.5, **members):
    return Verification(spec.hash, at, "oci://a/b", "sha256:m", "sha256:l", node_hash="verified", **members)


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".spack-db").mkdir()
    return str(tmp_path)


def test_a_tree_without_the_document_knows_nothing(root):
    assert Verifications(root).of(record()) is None
    assert Verifications(f"{root}/nowhere").of(record()) is None


def test_what_is_written_is_read_back_and_removed_alone(root):
    change(root, [known(), known(APP).signed("A" * 40, 77)])
    found = Verifications(root)
    assert found.of(record()) == known()
    assert found.of(record(APP)) == known(APP).signed("A" * 40, 77)
    change(root, [], {ZLIB.hash})
    assert Verifications(root).of(record()) is None
    assert Verifications(root).of(record(APP)) == known(APP).signed("A" * 40, 77)
    assert found.of(record()) == known()


def test_a_line_is_replaced_by_the_next_install(root):
    change(root, [known()])
    change(root, [known(at=2000.0).signed("A" * 40, 77)])
    assert Verifications(root).of(record(at=2000.0)).is_signed


def test_nothing_is_written_where_nothing_changes(root):
    change(root, [], {ZLIB.hash})
    assert not os.path.exists(os.path.join(root, FILE))


def test_a_package_that_somebody_else_installed_anew_is_its_owners_own(root):
    change(root, [known()])
    assert Verifications(root).of(record(at=1000.75)) is None


def test_an_install_that_did_not_end_says_nothing_good_of_what_is_there(root):
    change(root, [known(at=2000.0).signed("A" * 40, 77)])
    found = Verifications(root).of(record(at=1000.5))
    assert not found.is_signed
    assert "did not come to its end" in found.reason


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '","more":',
        '","installation_time":"1000.5"}',
        '","installation_time":true}',
        '","signer":"A"}',
        '","installation_time":1000.5,"signer":["A"]}',
        '","installation_time":1000.5,"signed_at":1.5}',
    ],
)
def test_a_damaged_line_counts_as_unsigned(root, line):
    with open(os.path.join(root, FILE), "w") as file:
        file.write(f'{{"hash":"{ZLIB.hash}{line}\n')
    found = Verifications(root).of(record())
    assert found is None or not found.is_signed
    if line.startswith('"'):
        assert "cannot be read" in found.reason


@pytest.mark.parametrize("what", ["directory", "link", "fifo"])
def test_something_else_in_its_place_makes_nothing_trusted(root, what, tmp_path):
    path = os.path.join(root, FILE)
    if what == "directory":
        os.mkdir(path)
    elif what == "fifo":
        os.mkfifo(path)
    else:
        other = tmp_path / "other"
        other.write_bytes(json.dumps({"hash": ZLIB.hash, "installation_time": 1000.5, "signer": "A"}).encode())
        os.symlink(other, path)
    found = Verifications(root).of(record())
    assert not found.is_signed
    assert "cannot be read" in found.reason


texts = st.text(st.characters(exclude_categories=("Cs",)))  # type: ignore[arg-type]


@given(cache=texts, reason=texts, at=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_comes_back(tmp_path_factory, cache, reason, at):
    root = tmp_path_factory.mktemp("tree")
    (root / ".spack-db").mkdir()
    one = replace(known(at=at), cache=cache, reason=reason)
    change(str(root), [one, known(APP)])
    assert Verifications(str(root)).of(record(at=at)) == one
