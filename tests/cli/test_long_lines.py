"""Scripts of installed packages start, however long the root makes their interpreter lines; roots that cannot be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.spack_trees import Sketch, Tree, spack_tree

TELLS = '#!/bin/sh\nread word\nprintf "[%s]" "$@" "$word"\nexit 3\n'
SCRIPTS = {
    "bin/caml": "#!{prefix}/lib/ocaml\nlet () = ()\n",
    "bin/scheme": "#!{prefix}/lib/guile -s\n!#\n(x)\n",
    "bin/erlang": "#!{prefix}/lib/escript\n%% -*- coding: latin-1 -*-\nmain(_) -> ok.\n",
    "bin/lisp": "#!{prefix}/lib/sbcl --script\n(x)\n",
    "bin/page": "#!{prefix}/lib/php\n<?php declare(strict_types=1);\n",
    "bin/words": "#!{prefix}/lib/env -S X='a b' node\n1\n",
    "bin/plain": "#!{prefix}/lib/foo\n# x\n",
}
GIVEN = {"scheme": "[-s]", "lisp": "[--script]", "words": "[-S X='a b' node]"}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    programs = {f"lib/{name}": TELLS for name in ("ocaml", "guile", "escript", "sbcl", "php", "env", "foo")}
    return spack_tree(tmp_path / "tree", [Sketch("app", files=SCRIPTS | programs)])


def long_root(tmp_path: Path, length: int) -> Path:
    return tmp_path / ("d" * (length - len(str(tmp_path)) - 1))


def installed(cache: str, root: Path) -> Path:
    ended = binpkg("install", "app", "--from", cache, "--store", root, "--strict")
    assert ended.code == 0, ended.err
    (found,) = root.glob("*/app-*")
    return found


def check_scripts(prefix: Path) -> None:
    for name in SCRIPTS:
        script = prefix / name
        done = subprocess.run([script, "a b"], check=False, capture_output=True, text=True, input="in\n")
        assert (done.returncode, done.stderr) == (3, ""), name
        assert done.stdout == f"{GIVEN.get(script.name, '')}[{script}][a b][in]"


def test_scripts_start_at_their_own_names_wherever_they_go(tree: Tree, tmp_path: Path) -> None:
    first, second = f"oci-layout:{tmp_path}/cache", f"oci-layout:{tmp_path}/second"
    assert binpkg("push", first, "--store", tree.root, "--update-index").code == 0
    root = long_root(tmp_path, 110)
    check_scripts(installed(first, root))
    assert binpkg("verify-store", "--run", root).code == 0

    pushed = binpkg("push", second, "--store", root, "--update-index", "--json")
    assert pushed.code == 0, pushed.err
    again = binpkg("push", f"oci-layout:{tmp_path}/third", "--store", root, "--update-index", "--json")
    digests = [[each["digest"] for each in ended.json["packages"]] for ended in (pushed, again)]
    assert digests[0] == digests[1] != []
    check_scripts(installed(second, tmp_path / "s"))
    check_scripts(installed(second, long_root(tmp_path, 130)))


def test_a_root_for_which_no_line_is_short_enough_is_refused(tree: Tree, tmp_path: Path) -> None:
    cache, root = f"oci-layout:{tmp_path}/cache", long_root(tmp_path, 250)
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0

    ended = binpkg("install", "app", "--from", cache, "--store", root)

    assert ended.code == 13
    assert "its interpreter line would have" in ended.err
    assert list(root.glob("*/app-*")) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a b", "blank"),
        ("a\tb", "blank"),
        ("a:b", "colon"),
        ("$ORIGIN", "dollar"),
        ("it's", "quote"),
        ("a\\b", "quote"),
        ("a\x1bb", "control"),
    ],
)
def test_roots_that_nothing_can_name_are_refused(tree: Tree, tmp_path: Path, name: str, word: str) -> None:
    cache, root = f"oci-layout:{tmp_path}/cache", tmp_path / name
    assert binpkg("push", cache, "--store", tree.root, "--update-index").code == 0

    ended = binpkg("install", "app", "--from", cache, "--store", root)

    assert ended.code == 13
    assert word in ended.err
    assert not root.exists()
