"""What an install of signed packages builds on: what is signed, and what its owner built."""

from __future__ import annotations

from typing import Any

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.cli.hints import words
from oci_binpkg.errors import SignatureError
from oci_binpkg.events import PackageStarted, Warned
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.signing.statement import Signed
from tests.support.memory_store import MemoryStore
from tests.support.signers import Verifies
from tests.support.spack_trees import Sketch, spack_tree
from tests.unit.ops.test_install import SKETCHES, cache, installed, outcomes, pushed, target, tree

__all__ = ["cache", "tree"]  # fixtures

ALICE, BOB = "A" * 40, "B" * 40


def signed(cache, signer=ALICE, made=1_000):
    """The cache as one whose packages count only with a signature."""

    def verify(_data, _signatures, _what, *, accept):
        found = Signed(signer, made)
        accept(found)
        return found

    return OciCache(cache.store, pause=lambda _: None, verifier=Verifies(judged=verify))


def by(*signers):
    return {"signers": lambda: frozenset(signers)}


def signers(new):
    """By name, who signed what is installed; None for its owner's own."""
    known = SpackInstalls(new.root).verifications
    found = {record.spec.name: known.of(record) for record in SpackInstalls(new.root).records()}
    return {name: each and each.signer for name, each in found.items()}


def refused(cache, new, *queries, **options):
    with pytest.raises(SignatureError) as caught:
        installed(cache, new, *queries, **{**by(ALICE), **options})
    assert caught.value.exit_code == 14
    return caught.value


def test_a_dependency_that_came_without_a_signature_is_not_built_on(cache, tree, tmp_path):
    new = target(tmp_path)
    installed(cache, new, "zlib")
    error = refused(signed(cache), new)
    assert f"{tree.spec('zlib').short} (not signed: signatures were not asked for)" in error.message
    assert f"install --force zlib@=1.3/{tree.hashes['zlib']}" in words(error.hint)
    assert "--accept-present" in words(error.hint)
    assert signers(new) == {"zlib": ""}


def test_it_is_built_on_when_told_or_when_it_was_installed_again(cache, tree, tmp_path):
    new = target(tmp_path)
    installed(cache, new, "zlib")
    report = installed(signed(cache), new, accept_present=True, **by(ALICE))
    assert outcomes(report) == {"zlib": "present", "cfg": "installed", "app": "installed"}
    other = target(tmp_path, "other")
    installed(cache, other, "zlib")
    installed(signed(cache), other, "zlib", force=True, **by(ALICE))
    installed(signed(cache), other, **by(ALICE))
    assert signers(other) == {"zlib": ALICE, "cfg": ALICE, "app": ALICE}


def test_a_package_that_is_named_and_there_is_not_good_for_being_there(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new)
    assert "app@2.0" in refused(signed(cache), new, "app").message
    refused(signed(cache), new, "app", force=True)  # what it needs is still there unsigned
    refused(signed(cache), new, "app", dry_run=True)


def test_what_spack_built_in_the_tree_is_its_owners_own(cache, tree, tmp_path):
    own = spack_tree(tmp_path / "own", [sketch for sketch in SKETCHES if sketch.name != "app"])
    new = SpackInstalls(str(own.root))
    report = installed(signed(cache), new, **by(ALICE))
    assert outcomes(report)["app"] == "installed"
    assert signers(new) == {"zlib": None, "cfg": None, "app": ALICE}


def test_a_signature_counts_as_long_as_its_key_is_trusted(cache, tmp_path):
    """A key that expired since is trusted still; one that was revoked, or is trusted no more, is not."""
    new = target(tmp_path)
    installed(signed(cache, BOB), new, "zlib", **by(ALICE, BOB))
    assert f"signed by the key {BOB}, which is revoked or not trusted" in refused(signed(cache), new).message
    assert outcomes(installed(signed(cache), new, **by(ALICE, BOB)))["zlib"] == "present"


def test_where_unsigned_packages_are_taken_they_are_built_on(cache, tmp_path):
    new = target(tmp_path)
    installed(cache, new, "zlib")
    empty = signed(OciCache(MemoryStore("empty"), pause=lambda _: None))
    report = installed([empty, cache], new, **by(ALICE))
    assert outcomes(report) == {"zlib": "present", "cfg": "installed", "app": "installed"}


def test_another_process_that_puts_an_unsigned_dependency_there_meanwhile_is_overruled(cache, tree, tmp_path):
    new = target(tmp_path)
    done: list[Any] = []

    def meanwhile(event):
        if isinstance(event, PackageStarted) and not done:
            done.append(event)
            installed(cache, SpackInstalls(new.root, create=True), "zlib")

    report = installed(signed(cache), new, observer=meanwhile, jobs=1, **by(ALICE))
    assert done
    assert outcomes(report) == {"zlib": "installed", "cfg": "installed", "app": "installed"}
    assert signers(new) == {"zlib": ALICE, "cfg": ALICE, "app": ALICE}


def test_another_process_that_replaces_a_dependency_by_an_unsigned_one_stops_what_needs_it(cache, tree, tmp_path):
    new = target(tmp_path)
    installed(signed(cache), new, "zlib", **by(ALICE))
    done: list[Any] = []

    def meanwhile(event):
        if isinstance(event, PackageStarted) and not done:
            done.append(event)
            installed(cache, SpackInstalls(new.root), "zlib", force=True)

    report = installed(signed(cache), new, observer=meanwhile, **by(ALICE))
    failed = {result.spec.name: result.error for result in report.packages if result.error}
    assert set(failed) == {"app"}
    assert "which was installed meanwhile: not signed" in failed["app"].message
    assert "app" not in signers(new)


def other_build(tree, tmp_path):
    """The same packages in other layers."""
    return pushed(tree, tmp_path / "anew", MemoryStore("other"), codec="gzip:1")


def test_an_older_signed_build_is_told_and_refused_when_asked_for(cache, tree, tmp_path):
    events: list[Any] = []
    new = target(tmp_path)
    installed(signed(cache, made=2_000), new, "zlib", **by(ALICE))
    older = signed(other_build(tree, tmp_path), made=1_000)
    report = installed(older, new, "zlib", force=True, pin_newest=True, **by(ALICE))
    assert report.exit_code == 14
    assert (
        "was signed on 1970-01-01 00:16:40 UTC; the one that is installed is newer" in report.packages[0].error.message
    )
    assert "--pin-newest" in words(report.packages[0].error.hint)
    installed(older, new, "zlib", force=True, observer=events.append, **by(ALICE))
    told = [event.text for event in events if isinstance(event, Warned)]
    assert len([text for text in told if "the one that is installed is newer" in text]) == 1


def test_a_newer_build_or_the_same_one_is_no_news(cache, tree, tmp_path):
    events: list[Any] = []
    new = target(tmp_path)
    options = {"force": True, "pin_newest": True, "observer": events.append, **by(ALICE)}
    installed(signed(cache, made=2_000), new, "zlib", **options)
    installed(signed(cache, made=1_000), new, "zlib", **options)  # the same manifest, signed twice
    report = installed(signed(other_build(tree, tmp_path), made=3_000), new, "zlib", **options)
    assert outcomes(report) == {"zlib": "installed"}
    assert not [event for event in events if isinstance(event, Warned)]


def test_an_unsigned_build_in_place_of_a_signed_one_is_told_and_refused_when_asked_for(cache, tree, tmp_path):
    events: list[Any] = []
    new = target(tmp_path)
    installed(signed(cache), new, "zlib", **by(ALICE))
    other = other_build(tree, tmp_path)
    report = installed(other, new, "zlib", force=True, pin_newest=True)
    assert report.exit_code == 14
    installed(other, new, "zlib", force=True, observer=events.append)
    assert any("is not signed; the one that is installed was" in e.text for e in events if isinstance(e, Warned))


def test_the_next_cache_is_asked_for_a_newer_build(cache, tree, tmp_path):
    new = target(tmp_path)
    installed(signed(cache, made=2_000), new, "zlib", **by(ALICE))
    older, newer = signed(other_build(tree, tmp_path), made=1_000), signed(cache, made=2_000)
    report = installed([older, newer], new, "zlib", force=True, pin_newest=True, **by(ALICE))
    assert outcomes(report) == {"zlib": "installed"}
    assert "the one that is installed is newer" in report.packages[0].passed_over[0]


def test_a_package_of_the_owner_comes_again_without_a_word(cache, tree, tmp_path):
    own = spack_tree(tmp_path / "own", [Sketch("zlib", "1.3", files={"lib/z": b"z"})])
    assert installed(cache, SpackInstalls(str(own.root)), "zlib", force=True, pin_newest=True).exit_code == 0
