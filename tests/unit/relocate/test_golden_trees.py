"""The packages that Spack built, moved to shorter, equally long and longer roots, and run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.archive.binary_distribution import MEMBER, Distribution
from oci_binpkg.errors import RelocationError
from oci_binpkg.relocate.edits import RelocationReport
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.tree import relocate_tree
from tests.support import golden

PADDED = golden.GOLDEN / "v3-padded"
runs_here = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the golden programs are for x86_64")


def mapping(distribution: Distribution, root: str) -> PrefixMap:
    old = distribution.hash_to_prefix
    new = {key: prefix.replace(distribution.buildpath, root) for key, prefix in old.items()}
    sbang = (distribution.sbang_install_path, f"{root}/bin/sbang")
    return mapping_for(old, new, root=(distribution.buildpath, root), sbang=sbang)


def relocate(prefix: Path, distribution: Distribution, root: str, **options: Any) -> RelocationReport:
    return relocate_tree(
        str(prefix),
        mapping(distribution, root),
        binaries=distribution.relocate_binaries,
        textfiles=distribution.relocate_textfiles,
        final_prefix=f"{root}/{distribution.relative_prefix}",
        root=root,
        sbang=f"{root}/bin/sbang",
        **options,
    )


def relocate_store(store: Path, root: str, **options: Any) -> dict[str, RelocationReport]:
    return {
        package.name: relocate(
            package.prefix_in(store), Distribution.parse(package.distribution, package.name), root, **options
        )
        for package in golden.packages()
    }


def files_that_mention(root: Path, text: str) -> list[str]:
    """All files outside .spack, as `grep -rlF` finds them, read without any code of ours."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            content = os.readlink(path).encode()
        elif path.is_file():
            content = path.read_bytes()
        else:
            continue
        if not {".spack", ".spack-db"} & set(path.parts) and (
            text.encode() in content or text.encode("utf-16-le") in content
        ):
            found.append(str(path.relative_to(root)))
    return found


def output(program: Path) -> str:
    done = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture(params=["", "root"])
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory with a path of 13 or of 17 bytes; /opt/golden/store has 17."""
    directory = Path(tempfile.mkdtemp(prefix=request.param, dir="/tmp"))
    directory.rmdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_the_packages_run_in_their_new_place(root: Path, tmp_path: Path) -> None:
    store = golden.unpack_store(tmp_path)

    reports = relocate_store(store, str(root))

    shutil.copytree(store, root, symlinks=True)
    assert files_that_mention(root, "/opt/golden/store") == []
    assert all(not report.stale and not report.tails and not report.reported for report in reports.values())
    assert reports["greetlib-1.3.0"].changed == (
        "bin/greet-config",
        "bin/greet-config-1",
        "lib/libgreet.a",
        "lib/libgreet.so.1.2",
        "lib/pkgconfig/greet.pc",
        "share/greet/current",
        "share/greet/latin1.txt",
        "share/greet/utf16.txt",
    )
    for package in golden.packages():
        prefix = package.prefix_in(root)
        for name in ("greet-config", "greet-script"):
            if (prefix / "bin" / name).exists():
                assert output(prefix / "bin" / name).split()[-1] == str(prefix)


@runs_here
def test_the_program_finds_its_parts(root: Path, tmp_path: Path) -> None:
    store = golden.unpack_store(tmp_path)
    relocate_store(store, str(root))
    shutil.copytree(store, root, symlinks=True)

    for name, greeting in (("greet-2.0", "hello, world (lib 1.2.0)"), ("greet-2.1", "HELLO, world (lib 1.3.0)")):
        prefix = golden.package(name).prefix_in(root)
        first, second = output(prefix / "bin" / "greet").splitlines()
        assert first.startswith("from /")
        assert os.path.realpath(first.removeprefix("from ")) == os.path.realpath(prefix)
        assert second == greeting


def test_only_what_was_changed_changes(root: Path, tmp_path: Path) -> None:
    store, untouched = golden.unpack_store(tmp_path / "a"), golden.unpack_store(tmp_path / "b")

    reports = relocate_store(store, str(root))

    for package in golden.packages():
        old, new = package.prefix_in(untouched), package.prefix_in(store)
        differs = []
        for path in sorted(old.rglob("*")):
            other = new / path.relative_to(old)
            assert path.lstat().st_mode == other.lstat().st_mode
            if path.is_symlink():
                differs += [path] if os.readlink(path) != os.readlink(other) else []
            elif path.is_file():
                differs += [path] if path.read_bytes() != other.read_bytes() else []
        assert tuple(str(path.relative_to(old)) for path in differs) == reports[package.name].changed
    library = golden.package("greetlib-1.2.0").prefix_in(store)
    assert (library / "bin/greet-config").samefile(library / "bin/greet-config-1")


def test_there_and_back_again(tmp_path: Path) -> None:
    """An equally long root leaves nothing behind: the way back gives the same bytes."""
    store, untouched = golden.unpack_store(tmp_path / "a"), golden.unpack_store(tmp_path / "b")
    other = "/srv/other/places"
    relocate_store(store, other)
    for package in golden.packages():
        there = Distribution.parse(package.distribution, package.name)
        back = {new.decode(): old.decode() for old, new in mapping(there, other).pairs}
        relocate_tree(
            str(package.prefix_in(store)),
            PrefixMap.of(back),
            binaries=there.relocate_binaries,
            textfiles=there.relocate_textfiles,
        )

    files = [path.relative_to(store) for path in sorted(store.rglob("*")) if path.is_file()]
    assert [name for name in files if (store / name).read_bytes() != (untouched / name).read_bytes()] == []


def test_a_longer_root_is_refused_and_the_longest_named(tmp_path: Path) -> None:
    store = golden.unpack_store(tmp_path)
    package = golden.package("greetlib-1.3.0")
    distribution = Distribution.parse(package.distribution, package.name)

    with pytest.raises(RelocationError, match="lib/libgreet") as refusal:
        relocate(package.prefix_in(store), distribution, "/opt/golden/longer-store")

    assert refusal.value.longest_root == len("/opt/golden/store")
    assert refusal.value.longest_prefix == len(package.recorded)
    assert refusal.value.exit_code == 13
    assert f"{package.recorded}/share/greet" in str(refusal.value)
    assert "a root of at most 17 bytes" in refusal.value.hint


def test_what_may_stay_stale_is_in_the_report(tmp_path: Path) -> None:
    store = golden.unpack_store(tmp_path)

    reports = relocate_store(store, "/opt/golden/longer-store", allow_stale=True)

    stale = {(name, one.path) for name, report in reports.items() for one in report.stale}
    assert stale == {
        ("greet-2.0", "bin/greet"),
        ("greet-2.1", "bin/greet"),
        ("greetlib-1.2.0", "lib/libgreet.a"),
        ("greetlib-1.2.0", "lib/libgreet.so.1.2"),
        ("greetlib-1.3.0", "lib/libgreet.a"),
        ("greetlib-1.3.0", "lib/libgreet.so.1.2"),
    }
    left = {
        str(package.prefix_in(Path()) / path)
        for package in golden.packages()
        for name, path in stale
        if name == package.name
    }
    assert set(files_that_mention(store, "/opt/golden/store")) == left


def unpack_padded(directory: Path) -> list[tuple[Path, Distribution]]:
    """The three packages that were built below a root of 192 characters."""
    found = []
    for blob in sorted(PADDED.glob("blobs/sha256/*/*")):
        try:
            member = Path(golden.unpack(blob, directory)[-1])
        except tarfile.ReadError:
            continue
        distribution = Distribution.parse((directory / member).read_bytes(), str(member))
        found.append((directory / str(member).removesuffix(f"/{MEMBER}"), distribution))
    return found


def test_a_padded_tree_moves_to_any_root(tmp_path: Path) -> None:
    packages = unpack_padded(tmp_path / "padded")
    assert len(packages) == 3
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # interpreter lines have a longest length
        move_padded(packages, Path(folder, "a-root-that-is-a-good-deal-longer-than-usual"))


def move_padded(packages: list[tuple[Path, Distribution]], root: Path) -> None:
    for prefix, distribution in packages:
        report = relocate(prefix, distribution, str(root))
        assert not report.stale
        assert not report.reported
        shutil.copytree(prefix, root / distribution.relative_prefix, symlinks=True)

    assert files_that_mention(root, "/opt/golden/padded") == []
    greet = next(root.glob("*/greet-2.1-*"))
    assert (
        (greet / "bin/greet-script").read_text().startswith(f"#!/bin/sh {root}/bin/sbang\n#!{greet}/libexec/interp\n")
    )
    if os.uname().machine == "x86_64":
        assert output(greet / "bin/greet").endswith(f"{greet}\nHELLO, world (lib 1.3.0)\n")


def test_a_spliced_dependency_takes_the_place_of_another(tmp_path: Path) -> None:
    """greet 2.1 was built with greetlib 1.3.0, and is put beside 1.2.0, whose prefix is as long."""
    store = golden.unpack_store(tmp_path)
    greet, old, new = (golden.package(name) for name in ("greet-2.1", "greetlib-1.3.0", "greetlib-1.2.0"))
    distribution = Distribution.parse(greet.distribution, greet.name)
    moved = mapping_for(distribution.hash_to_prefix, {**distribution.hash_to_prefix, old.hash: new.recorded})

    report = relocate_tree(
        str(greet.prefix_in(store)),
        moved,
        binaries=distribution.relocate_binaries,
        textfiles=distribution.relocate_textfiles,
    )

    assert report.changed == ("bin/greet",)
    content = (greet.prefix_in(store) / "bin/greet").read_bytes()
    assert f"{new.recorded}/lib".encode() in content
    assert old.recorded.encode() not in content
