"""The order in which loaders look, and what they take for one and the same library."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.runs.elf_facts import ElfFacts
from oci_binpkg.runs.loader import Libraries, Loading, interpreter_for
from tests.support.run_trees import GLIBC, HERE, MUSL, RunTree, elf


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return RunTree.at(tmp_path)


def load(tree: RunTree, path: str, interpreter: str = GLIBC) -> Loading:
    libraries = Libraries(tree.view, HERE)
    facts = libraries.facts(path)
    assert isinstance(facts, ElfFacts)
    return libraries.load(path, facts, interpreter, whole=True)


def loaded(tree: RunTree, path: str, interpreter: str = GLIBC) -> list[str]:
    return [each.path for each in load(tree, path, interpreter).objects[1:]]


def test_libraries_come_breadth_first(tree: RunTree) -> None:
    tree.library("/usr/lib/liba.so", needed=["libc.so.6", "libx.so"])
    tree.library("/usr/lib/libb.so", needed=["libx.so"])
    tree.library("/usr/lib/libx.so")
    tree.program("/app", needed=["liba.so", "libb.so"])

    names = [path.rpartition("/")[2] for path in loaded(tree, "/app")]
    assert names == ["liba.so", "libb.so", "libc.so.6", "libx.so"]


def test_the_rpath_of_the_whole_chain_from_the_inside_out(tree: RunTree) -> None:
    for folder in ("/outer", "/inner"):
        tree.library(f"{folder}/libx.so")
    tree.library("/usr/lib/liba.so", needed=["libx.so"], rpath="/inner")
    tree.program("/app", needed=["liba.so"], rpath="/outer")
    assert loaded(tree, "/app")[1] == "/inner/libx.so"

    tree.place("/inner/libx.so").unlink()
    assert loaded(tree, "/app")[1] == "/outer/libx.so"


def test_a_runpath_in_between_hides_no_rpath_above(tree: RunTree) -> None:
    """Whose RUNPATH it is counts: the library that asks has none here, so all RPATHs above it do."""
    tree.library("/outer/libx.so")
    tree.library("/usr/lib/liba.so", needed=["libb.so"], runpath="/nothing")
    tree.library("/nothing/libb.so", needed=["libx.so"])
    tree.program("/app", needed=["liba.so"], rpath="/outer")

    assert loaded(tree, "/app")[-1] == "/outer/libx.so"


def test_who_has_a_runpath_sees_no_rpath(tree: RunTree) -> None:
    tree.library("/outer/libx.so")
    tree.library("/usr/lib/liba.so", needed=["libx.so"], runpath="/nothing")
    tree.program("/app", needed=["liba.so"], rpath="/outer")

    (missing,) = load(tree, "/app").missing
    assert (missing.by.path, missing.name) == ("/usr/lib/liba.so", "libx.so")
    assert "/outer" not in missing.looked


def test_the_configuration_comes_before_the_directories_of_the_loader(tree: RunTree) -> None:
    tree.file("/etc/ld.so.conf", "/opt/lib\n")
    for folder in ("/opt/lib", "/usr/lib", "/own"):
        tree.library(f"{folder}/libx.so")
    tree.program("/app", needed=["libx.so"])
    tree.program("/own-app", needed=["libx.so"], runpath="/own")

    assert loaded(tree, "/app") == ["/opt/lib/libx.so"]
    assert loaded(tree, "/own-app") == ["/own/libx.so"]


def test_without_default_directories_the_configured_ones_are_left(tree: RunTree) -> None:
    tree.file("/etc/ld.so.conf", "/opt/lib\n/usr/lib\n")
    for folder in ("/opt/lib", "/usr/lib"):
        tree.library(f"{folder}/libx.so" if folder == "/usr/lib" else f"{folder}/liby.so")
    tree.program("/app", needed=["liby.so", "libx.so"], flags=0x800)

    loading = load(tree, "/app")
    assert [each.path for each in loading.objects[1:]] == ["/opt/lib/liby.so"]
    assert [missing.name for missing in loading.missing] == ["libx.so"]


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("$ORIGIN/../lib", "/apps/app/bin/../lib"),
        ("${ORIGIN}/../lib", "/apps/app/bin/../lib"),
        ("/opt/$LIB/x", "/opt/lib/x86_64-linux-gnu/x"),
        ("/opt/${PLATFORM}", "/opt/x86_64"),
        ("/opt//lib/", "/opt//lib"),
    ],
)
def test_what_stands_for_other_text(tree: RunTree, path: str, folder: str) -> None:
    tree.file("/apps/app/bin/keep", "")
    tree.library(f"{folder}/libx.so")
    tree.program("/apps/app/bin/app", needed=["libx.so"], runpath=path)

    assert loaded(tree, "/apps/app/bin/app") == [f"{folder}/libx.so"]


@pytest.mark.parametrize("path", ["lib", "", "$ORIGINAL/lib", "$LIBS"])
def test_search_paths_that_mean_no_place(tree: RunTree, path: str) -> None:
    tree.library("/apps/app/lib/libx.so")
    tree.program("/apps/app/bin/app", needed=["libx.so"], runpath=f"{path}:/apps/app/lib")

    assert loaded(tree, "/apps/app/bin/app") == ["/apps/app/lib/libx.so"]


def test_a_program_behind_a_link_knows_where_it_really_is(tree: RunTree) -> None:
    tree.program("/apps/app/bin/app", needed=["libx.so"], runpath="$ORIGIN/../lib")
    tree.library("/apps/app/lib/libx.so")
    tree.link("/usr/bin/app", "../../apps/app/bin/app")

    assert loaded(tree, "/usr/bin/app") == ["/apps/app/bin/../lib/libx.so"]


def test_a_library_behind_a_link_knows_the_path_by_which_it_was_found(tree: RunTree) -> None:
    tree.library("/store/libouter.so", needed=["libx.so"], runpath="$ORIGIN")
    tree.link("/apps/app/lib/libouter.so", "/store/libouter.so")
    tree.library("/apps/app/lib/libx.so")
    tree.program("/apps/app/bin/app", needed=["libouter.so"], runpath="/apps/app/lib")

    assert loaded(tree, "/apps/app/bin/app") == ["/apps/app/lib/libouter.so", "/apps/app/lib/libx.so"]


def test_a_library_that_is_needed_by_its_path(tree: RunTree) -> None:
    tree.library("/apps/dep/lib/libx.so", soname="")
    tree.program("/app", needed=["/apps/dep/lib/libx.so", "$ORIGIN/apps/dep/lib/liby.so"])
    tree.library("/apps/dep/lib/liby.so")

    assert loaded(tree, "/app") == ["/apps/dep/lib/libx.so", "//apps/dep/lib/liby.so"]


def test_a_library_is_known_by_its_soname(tree: RunTree) -> None:
    """By the name that it has given itself it is not searched for again."""
    tree.library("/apps/dep/lib/libx.so.1.2", soname="libx.so.1")
    tree.program("/app", needed=["/apps/dep/lib/libx.so.1.2", "libx.so.1"])

    assert loaded(tree, "/app") == ["/apps/dep/lib/libx.so.1.2"]


def test_one_file_under_two_names_is_loaded_once(tree: RunTree) -> None:
    tree.library("/usr/lib/libx.so.1", soname="")
    tree.link("/usr/lib/libx.so", "libx.so.1")
    tree.library("/usr/lib/liby.so", needed=["libx.so"])
    tree.program("/app", needed=["libx.so.1", "liby.so"])

    assert loaded(tree, "/app") == ["/usr/lib/libx.so.1", "/usr/lib/liby.so"]


def test_libraries_that_need_each_other(tree: RunTree) -> None:
    tree.library("/usr/lib/liba.so", needed=["libb.so"])
    tree.library("/usr/lib/libb.so", needed=["liba.so"])
    tree.program("/app", needed=["liba.so"])

    assert loaded(tree, "/app") == ["/usr/lib/liba.so", "/usr/lib/libb.so"]


def test_musl_lends_a_runpath_to_whom_it_loads(tree: RunTree) -> None:
    tree.file(MUSL, elf(soname="libc.so"), mode=0o755)
    tree.library("/outer/liba.so", needed=["libx.so"], runpath="/nothing")
    tree.library("/outer/libx.so")
    tree.program("/app", interpreter=MUSL, needed=["liba.so"], runpath="/outer")

    assert loaded(tree, "/app", MUSL) == ["/outer/liba.so", "/outer/libx.so"]


def test_the_loader_that_a_library_meets() -> None:
    def facts(*needed: str) -> ElfFacts:
        from oci_binpkg.runs.elf_facts import ElfRole

        return ElfFacts(ElfRole.LIBRARY, "x86_64", needed=needed)

    assert interpreter_for(facts("libc.so.6"), {}) == GLIBC
    assert interpreter_for(facts("libc.musl-x86_64.so.1"), {}) == MUSL
    assert interpreter_for(facts("libc.so"), {}) == MUSL
    assert interpreter_for(facts("libc.so.6"), {"x86_64": "/apps/glibc/lib/ld.so"}) == "/apps/glibc/lib/ld.so"
