"""Where loaders look: what was compiled into them, and what their configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_binpkg.runs.search_rules import rules_of, usual_interpreter
from tests.support.run_trees import GLIBC, MUSL, RunTree, elf

DEBIAN = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib")


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    return RunTree.at(tmp_path)


def test_the_directories_compiled_into_the_loader(tree: RunTree) -> None:
    rules = rules_of(tree.view, GLIBC, "x86_64")

    assert (rules.system, rules.listed, rules.lib) == (DEBIAN, (), "lib/x86_64-linux-gnu")


def test_a_loader_with_other_directories(tree: RunTree) -> None:
    constants = b"\0/lib64/\0/usr/lib64/\0\0/etc/ld.so.cache\0"
    tree.file("/lib64/ld-linux-x86-64.so.2", elf(constants=constants), mode=0o755)

    rules = rules_of(tree.view, GLIBC, "x86_64")

    assert (rules.system, rules.lib) == (("/lib64", "/usr/lib64"), "lib64")


def test_a_loader_of_a_prefix_has_directories_and_a_configuration_there(tree: RunTree) -> None:
    constants = b"\0/apps/glibc/lib/\0\0/apps/glibc/etc/ld.so.cache\0"
    tree.file("/apps/glibc/lib/ld.so", elf(constants=constants), mode=0o755)
    tree.file("/apps/glibc/etc/ld.so.conf", "/apps/more\n")
    tree.file("/etc/ld.so.conf", "/usr/other\n")

    rules = rules_of(tree.view, "/apps/glibc/lib/ld.so", "x86_64")

    assert (rules.system, rules.listed, rules.lib) == (("/apps/glibc/lib",), ("/apps/more",), "lib")


def test_the_configuration_with_its_includes(tree: RunTree) -> None:
    tree.file("/etc/ld.so.conf", "# first\ninclude /etc/ld.so.conf.d/*.conf\n/opt/last/lib/ # why\nhwcap 1 nosegneg\n")
    tree.file("/etc/ld.so.conf.d/b.conf", "/opt/b\n\n/opt/c:/opt/d, /opt/e\n")
    tree.file("/etc/ld.so.conf.d/a.conf", "/opt/a\ninclude more/*.list\nrelative/path\n")
    tree.file("/etc/ld.so.conf.d/more/x.list", "/opt/more\n")
    tree.file("/etc/ld.so.conf.d/ignored.txt", "/opt/ignored\n")

    listed = rules_of(tree.view, GLIBC, "x86_64").listed

    assert listed == ("/opt/a", "/opt/more", "/opt/b", "/opt/c", "/opt/d", "/opt/e", "/opt/last/lib")


def test_a_configuration_that_includes_itself(tree: RunTree) -> None:
    tree.file("/etc/ld.so.conf", "/opt/a\ninclude /etc/ld.so.conf\n")

    assert rules_of(tree.view, GLIBC, "x86_64").listed == ("/opt/a",)


def test_an_include_of_nothing(tree: RunTree) -> None:
    tree.file("/etc/ld.so.conf", "include\ninclude /nowhere/*.conf\n/opt/a\n")

    assert rules_of(tree.view, GLIBC, "x86_64").listed == ("/opt/a",)


@pytest.mark.parametrize(
    ("architecture", "first"),
    [
        ("x86_64", "/lib/x86_64-linux-gnu"),
        ("ppc64le", "/lib/powerpc64le-linux-gnu"),
        ("arm", "/lib/arm-linux-gnueabihf"),
    ],
)
def test_what_is_usual_without_a_loader(tree: RunTree, architecture: str, first: str) -> None:
    system = rules_of(tree.view, "", architecture).system

    assert system[0] == first
    assert {"/lib", "/usr/lib", "/lib64"} <= set(system)


def test_musls_own_file_of_directories(tree: RunTree) -> None:
    tree.file(MUSL, elf(), mode=0o755)
    tree.file("/etc/ld-musl-x86_64.path", "/opt/a\n/opt/b:/opt/c\n")

    rules = rules_of(tree.view, MUSL, "x86_64")

    assert (rules.is_musl, rules.system) == (True, ("/opt/a", "/opt/b", "/opt/c"))


def test_musl_without_that_file(tree: RunTree) -> None:
    tree.file(MUSL, elf(constants=b"\0/usr/local/bin:/bin:/usr/bin\0/lib:/opt/lib\0"), mode=0o755)

    assert rules_of(tree.view, MUSL, "x86_64").system == ("/lib", "/opt/lib")


def test_musl_in_a_prefix_has_that_file_in_the_prefix(tree: RunTree) -> None:
    tree.file("/apps/musl/lib/ld-musl-x86_64.so.1", elf(), mode=0o755)
    tree.file("/apps/musl/etc/ld-musl-x86_64.path", "/apps/more\n")
    tree.file("/etc/ld-musl-x86_64.path", "/opt/other\n")

    assert rules_of(tree.view, "/apps/musl/lib/ld-musl-x86_64.so.1", "x86_64").system == ("/apps/more",)


def test_where_loaders_are() -> None:
    assert usual_interpreter("x86_64", musl=False) == GLIBC
    assert usual_interpreter("x86_64", musl=True) == MUSL
    assert usual_interpreter("arm", musl=True) == "/lib/ld-musl-armhf.so.1"
    assert usual_interpreter("unheard-of", musl=False) == ""
