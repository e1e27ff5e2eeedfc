"""Recipes are read and never run: a list of settings is known, anything else is a question for Spack."""

import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from oci_binpkg.installs.module_files import read_module
from oci_binpkg.installs.recipes import NotPlainError, read_recipe
from oci_binpkg.model.run_environment import EnvironmentChange, environment_document, with_placeholders
from tests.support.spack_trees import Sketch, graph_of

SPEC = graph_of([Sketch("py-tool")])[1]["py-tool"]


def recipe(prefix, body, name="py_tool", repo="spack_repo/builtin"):
    path = prefix / ".spack/repos" / repo / "packages" / name / "package.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"class PyTool(Package):\n    def install(self):\n        evil()\n{body}")
    return str(prefix)


def settings(*lines, signature="self, env"):
    return f"    def setup_run_environment({signature}):\n" + "".join(f"        {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('env.set("A", self.prefix)', ["set", "A", "{prefix}"]),
        ('env.set("A", "1")', ["set", "A", "1"]),
        ('env.unset("A")', ["unset", "A", ""]),
        ('env.prepend_path("P", self.prefix.lib.perl5)', ["prepend_path", "P", "{prefix}/lib/perl5"]),
        ('env.append_path("P", join_path(self.prefix, "a", "b"))', ["append_path", "P", "{prefix}/a/b"]),
        ('env.prepend_path("P", self.spec.prefix.lib.join("x-y"))', ["prepend_path", "P", "{prefix}/lib/x-y"]),
        ('env.prepend_path("P", os.path.join(self.prefix.share, "d"))', ["prepend_path", "P", "{prefix}/share/d"]),
        ('env.set("A", f"{self.prefix}/etc")', ["set", "A", "{prefix}/etc"]),
        ('env.set("A", str(self.prefix) + "/etc")', ["set", "A", "{prefix}/etc"]),
    ],
)
def test_a_plain_setting_is_read(line, expected, tmp_path):
    found = read_recipe(recipe(tmp_path, settings('"""Set up."""', line)), SPEC)
    assert found is not None
    assert environment_document(found) == [expected]


@pytest.mark.parametrize(
    "line",
    [
        'if self.spec.satisfies("+x"): env.set("A", "1")',
        'env.set("A", self.spec["zlib"].prefix)',
        'env.set("A", self.version)',
        'env.set("A", self.home)',
        'env.set(name, "1")',
        'env.set("A", __import__("os").getcwd())',
        'env.set("A", "1", force=True)',
        'env.set("A B", "1")',
        'env.set_path("A", ["1"])',
        'other.set("A", "1")',
        "super().setup_run_environment(env)",
        'env.set("A", ' + "(" * 60 + '"1"' + "+ '')" * 60 + ")",
    ],
)
def test_what_is_more_than_a_list_of_settings_is_not_guessed(line, tmp_path):
    with pytest.raises(NotPlainError):
        read_recipe(recipe(tmp_path, settings('env.set("B", "1")', line)), SPEC)


@pytest.mark.parametrize("text", ["x = (", "\0", "(" * 5000, "    x: int\n"])
def test_a_recipe_that_says_nothing_says_nothing(text, tmp_path):
    assert read_recipe(recipe(tmp_path, text), SPEC) is None


@pytest.mark.parametrize(("name", "repo"), [("py-tool", "builtin"), ("py_tool", "spack_repo/lab"), ("_py_tool", "x")])
def test_recipes_lie_where_any_spack_puts_them(name, repo, tmp_path):
    assert read_recipe(recipe(tmp_path, settings("pass"), name, repo), SPEC) == ()


def test_a_link_in_the_place_of_a_recipe_is_not_followed(tmp_path):
    prefix = recipe(tmp_path / "a", settings('env.set("A", "1")'))
    other = tmp_path / "b/.spack/repos/builtin/packages/py_tool"
    other.mkdir(parents=True)
    (other / "package.py").symlink_to(next((tmp_path / "a").rglob("package.py")))
    assert read_recipe(str(tmp_path / "b"), SPEC) is None
    assert read_recipe(prefix, SPEC)


TCL = """#%Module1.0
## comment
proc ModulesHelp { } { puts stderr "setenv EVIL x" }
conflict tool
prepend-path --delim {:} PATH {/p/bin:/p/sbin}
prepend-path --delim {;} LISP {/p}
append-path MANPATH "/p/man"
setenv HOME_OF "/p"
setenv COMPUTED $root/x
unsetenv OLD
"""
LUA = r"""
whatis("Name : tool")
prepend_path("PATH", "/p/bin:/p/sbin", ":")
prepend_path("LISP", "/p", ";")
append_path("MANPATH", "/p/man")
setenv("HOME_OF", "/p")
setenv("COMPUTED", pathJoin(root, "x"))
unsetenv("OLD")
"""


@pytest.mark.parametrize(("name", "text"), [("1.0", TCL), ("1.0.lua", LUA)])
def test_module_files_are_read_line_by_line(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found = read_module(str(tmp_path / name))
    assert found is not None
    assert environment_document(found) == [
        ["prepend_path", "PATH", "/p/sbin"],
        ["prepend_path", "PATH", "/p/bin"],
        ["append_path", "MANPATH", "/p/man"],
        ["set", "HOME_OF", "/p"],
        ["unset", "OLD", ""],
    ]


def test_prefixes_become_placeholders_as_whole_paths_only():
    changes = [EnvironmentChange("A", text) for text in ("/p/tool/x", "/p/tool-data", "/p/tool", "-L/p/lib -L/p/tool")]
    found = with_placeholders(changes, "/p/tool", {"h" * 32: "/p/lib", "i" * 32: "/p/tool"})
    assert [change.value for change in found] == [
        "{prefix}/x",
        "/p/tool-data",
        "{prefix}",
        f"-L{{prefix:{'h' * 32}}} -L{{prefix}}",
    ]


def test_recipes_of_many_packages_are_read_at_the_same_time(tmp_path):
    """Python 3.11 itself fails with a SystemError where two threads parse."""
    prefix = recipe(tmp_path, settings(*(f'env.set("A{n}", self.prefix)' for n in range(60))))

    def hand_over(*_):
        event.wait(0.0001)

    # what Python does while it collects garbage lets other threads run in the middle of a parse
    event, threshold = Event(), gc.get_threshold()
    gc.callbacks.append(hand_over)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: read_recipe(prefix, SPEC), range(16)))
    finally:
        gc.callbacks.remove(hand_over)
        gc.set_threshold(*threshold)
    assert all(each == found[0] for each in found)
    assert found[0]
