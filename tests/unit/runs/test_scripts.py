"""Scripts start with what their first line names, as the kernel, env and sbang read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.run_trees import RunTree

APP = "/apps/app/bin/app"


@pytest.fixture
def tree(tmp_path: Path) -> RunTree:
    tree = RunTree.at(tmp_path)
    tree.program("/apps/python/bin/python3")
    return tree


def needed(tree: RunTree) -> list[str]:
    return [found.needed for found in tree.examined().obstacles if found.kind.value == "script"]


@pytest.mark.parametrize(
    "line",
    [
        "#!/bin/sh",
        "#! /bin/sh -e",
        "#!/bin/sh\t-e",
        "#!/apps/python/bin/python3",
        "#!/usr/bin/env python3",
        "#!/usr/bin/env -S python3 -u",
        "#!/usr/bin/env -S LANG=C -u HOME python3 -u",
        "#!/usr/bin/env -S --unset=HOME python3",
        "#!/usr/bin/env /bin/sh",
        "#!/usr/bin/env",
        "#!",
        "#! ",
    ],
)
def test_lines_that_start_something(tree: RunTree, line: str) -> None:
    tree.script(APP, f"{line}\necho\n")

    verdict = tree.examined()

    assert (verdict.obstacles, verdict.scripts) == ((), 1)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("#!/apps/gone/bin/python3", "/apps/gone/bin/python3"),
        ("#!/bin/sh\r", "/bin/sh\r"),
        ("#!/usr/bin/env python4", "python4"),
        ("#!/usr/bin/env python3\r", "python3\r"),
        ("#!/usr/bin/env python3 -u", "python3 -u"),
        ("#!/usr/bin/env -S X=1 python4 -u", "python4"),
        ("#!/usr/bin/env /apps/gone/bin/x", "/apps/gone/bin/x"),
        ("#!/nowhere/env python3", "/nowhere/env"),
        ("#!python3", "python3"),
        ("#!/bin", "/bin"),
    ],
)
def test_lines_that_start_nothing(tree: RunTree, line: str, wanted: str) -> None:
    tree.script(APP, f"{line}\necho\n")

    assert needed(tree) == [wanted]
    assert tree.examined().stopped == (APP,)


def test_programs_of_the_rest_of_the_tree_are_found_by_env(tree: RunTree) -> None:
    tree.script(APP, "#!/usr/bin/env python3\n")

    assert tree.examined("/apps/app", tree=("/apps/python",)).runs
    assert not tree.examined("/apps/app").runs
    assert tree.examined("/apps/app", searched=("/apps/python/bin",)).runs


def test_an_interpreter_that_is_not_executable(tree: RunTree) -> None:
    tree.place("/apps/python/bin/python3").chmod(0o644)
    tree.script(APP, "#!/apps/python/bin/python3\n")
    tree.script(f"{APP}-env", "#!/usr/bin/env python3\n")

    found = [one for one in tree.examined().obstacles if one.kind.value == "script"]
    assert [one.path for one in found] == [APP, f"{APP}-env"]
    assert "is not executable" in found[0].reason


def test_an_interpreter_that_is_a_script(tree: RunTree) -> None:
    tree.script("/apps/tool/bin/wrapper", "#!/apps/python/bin/python3\n")
    tree.script(APP, "#!/apps/tool/bin/wrapper\n")
    assert needed(tree) == []

    tree.script("/apps/tool/bin/wrapper", "#!/apps/gone/python3\n")
    assert needed(tree) == ["/apps/tool/bin/wrapper", "/apps/gone/python3"]


def test_scripts_that_are_each_others_interpreter(tree: RunTree) -> None:
    tree.script("/apps/app/bin/one", "#!/apps/app/bin/two\n")
    tree.script("/apps/app/bin/two", "#!/apps/app/bin/one\n")

    assert tree.examined().scripts == 2


def test_an_interpreter_that_the_kernel_cuts(tree: RunTree) -> None:
    long = f"/apps/{'x' * 250}/bin/python3"
    tree.program(long)
    tree.script(APP, f"#!{long}\n")

    (found,) = tree.examined("/apps/app").obstacles
    assert "cuts its first line after 255 bytes" in found.reason


def test_a_long_line_of_a_short_interpreter(tree: RunTree) -> None:
    tree.script(APP, f"#!/bin/sh {'x' * 300}\n")

    assert needed(tree) == []


SBANG = "#!/bin/sh /apps/bin/sbang\n"


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        ("#!/apps/python/bin/python3", []),
        ("#!/apps/gone/bin/perl -w", ["/apps/gone/bin/perl"]),
        ("//!/apps/gone/bin/node", ["/apps/gone/bin/node"]),
        ("--!/apps/gone/bin/lua", ["/apps/gone/bin/lua"]),
        ("<?php #!/apps/gone/bin/php ?>", ["/apps/gone/bin/php"]),
        ("#!/usr/bin/env python3", []),
        ("nothing of the kind", []),
    ],
)
def test_a_script_that_sbang_starts(tree: RunTree, second: str, wanted: list[str]) -> None:
    tree.script("/apps/bin/sbang", "#!/bin/sh\n")
    tree.script(APP, f"{SBANG}{second}\n")

    assert needed(tree) == wanted


def test_sbang_is_not_there(tree: RunTree) -> None:
    tree.script(APP, f"{SBANG}#!/apps/python/bin/python3\n")

    assert needed(tree) == ["/apps/bin/sbang"]


def test_what_nobody_can_start_is_no_script(tree: RunTree) -> None:
    tree.script("/apps/app/share/template", "#!/apps/gone/bin/python3\n", mode=0o644)

    assert (needed(tree), tree.examined().scripts) == ([], 0)


def test_examples_are_remarked(tree: RunTree) -> None:
    tree.script("/apps/app/share/doc/examples/show", "#!/usr/bin/ksh93\n")

    assert tree.obstacles() == [("/apps/app/share/doc/examples/show", "script", "/usr/bin/ksh93", False)]
    assert tree.examined().stopped == ()


def test_a_prefix_that_is_itself_a_folder_of_programs(tree: RunTree) -> None:
    tree.script("/apps/app/bin/x", "#!/gone\n")

    assert not tree.examined("/apps/app/bin").runs


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (";; #!/apps/python/bin/python3 --script", []),
        ("%% -*- coding: latin-1 -*- #!/apps/gone/bin/escript", ["/apps/gone/bin/escript"]),
        ("-- #! /apps/gone/bin/psql -f", ["/apps/gone/bin/psql"]),
        ("# #!/usr/bin/env -S X='a b' python3", []),
        ("nothing of the kind", []),
    ],
)
def test_a_script_that_the_launcher_starts(tree: RunTree, second: str, wanted: list[str]) -> None:
    tree.script("/apps/bin/sbang-launch", "#!/bin/sh\n")
    tree.script(APP, f"#!/bin/sh /apps/bin/sbang-launch\n{second}\n")

    assert needed(tree) == wanted


def test_the_launcher_is_not_there(tree: RunTree) -> None:
    tree.script(APP, "#!/bin/sh /apps/bin/sbang-launch\n;; #!/apps/python/bin/python3\n")

    assert needed(tree) == ["/apps/bin/sbang-launch"]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ('exec "/apps/python/bin/python3" "$0" "$@"\n!#\n', []),
        ('exec "/apps/gone/bin/guile" -e main -s "$0" "$@"\n!#\n', ["/apps/gone/bin/guile"]),
        ("# coding: latin-1\n'''exec' \"/apps/gone/bin/python3\" \"$0\" \"$@\"\n' '''\n", ["/apps/gone/bin/python3"]),
        ('exec "/apps/gone/bin/tool" "$1"\n', []),
        ('exec "$TOOL" "$0" "$@"\n', []),
    ],
)
def test_a_script_that_sh_runs_in_another_language(tree: RunTree, lines: str, wanted: list[str]) -> None:
    tree.script(APP, f"#!/bin/sh\n{lines}")

    assert needed(tree) == wanted
