"""Images have the variables that recipes set, whoever says what these are; a package of a stranger sets no others."""

import json
import shutil
from pathlib import Path

import pytest

from oci_binpkg.model.run_environment import ENVIRONMENT_KEY
from tests.support import golden
from tests.support.command_line import binpkg
from tests.support.golden import LACKS_A_DEPENDENCY
from tests.support.made_layouts import Layout, Package, layout, node

ARCH = '[defaults]\narch = {platform = "linux", os = "debian12", target = "x86_64"}\n'
LOCAL = ("PATH", "CMAKE_PREFIX_PATH", "GREET_HOME", "MANPATH", "PKG_CONFIG_PATH")


def config_of(path: Path, tag: str) -> dict:
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    (entry,) = (e for e in entries if e["annotations"][golden.REF_NAME].startswith(tag))
    manifest = json.loads((path / "blobs" / entry["digest"].replace(":", "/")).read_bytes())
    return json.loads((path / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes())


def environment(path: Path, tag: str) -> dict[str, str]:
    return dict(text.split("=", 1) for text in config_of(path, tag)["config"]["Env"])


def spacks(tag: str, store: Path) -> dict[str, str]:
    """What Spack gave the image of a tag: each path once, without the packages that the tree does not have."""
    digest = next(digest for name, digest in golden.tags().items() if name.startswith(tag))
    config = json.loads(golden.read_blob(json.loads(golden.read_blob(digest))["config"]["digest"]))
    found = {}
    for text in config["config"]["Env"]:
        name, _, value = text.replace(golden.STORE_ROOT, str(store)).partition("=")
        paths = [path for path in dict.fromkeys(value.split(":")) if "gcc-runtime" not in path]
        if name != "PATH":
            paths = [path for path in paths if not path.startswith("/usr/")]
        found[name] = ":".join(paths)
    return {name: value for name, value in found.items() if value}


def in_golden_order(found: dict[str, str]) -> dict[str, object]:
    """Spack's PATH has the same folders twice, once for each way that leads to them: which ones is what counts."""
    ours = dict(found)
    return {**ours, "PATH": (ours["PATH"].split(":")[0], sorted(ours["PATH"].split(":")))}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = golden.unpack_store(tmp_path_factory.mktemp("golden"))
    index = store / ".spack-db/index.json"
    index.write_text(index.read_text().replace(golden.STORE_ROOT, str(store)))
    return store


def pushed(cache: Path, store: Path, *words: str) -> None:
    ended = binpkg("push", f"oci-layout:{cache}", *words, "--store", store)
    assert ended.code in {0, LACKS_A_DEPENDENCY}, ended.err


@pytest.mark.covers("P13")
def test_images_of_the_golden_tree_have_the_environment_that_spack_gave_them(store, tmp_path):
    pushed(tmp_path / "c", store, "greet@2.0", "greet@2.1", "--tag", "both", "--no-spack")
    for tag in ("both", *golden.PACKAGES):
        assert in_golden_order(environment(tmp_path / "c", tag)) == in_golden_order(spacks(tag, store)), tag


@pytest.mark.parametrize("mirror", ["v3-unsigned", "v2-unsigned"])
def test_images_of_packages_from_spacks_mirrors_have_what_their_recipes_set(mirror, tmp_path):
    source = tmp_path / "mirror"
    shutil.copytree(golden.GOLDEN / mirror, source)
    target = f"oci-layout:{tmp_path}/c"
    ended = binpkg("copy", f"file://{source}", target, "greet@2.1", "--no-check-signature", "--unsigned")
    assert ended.code in {0, LACKS_A_DEPENDENCY}, ended.err
    found = environment(tmp_path / "c", "greet-2.1")
    assert found["GREET_HOME"] in found["CMAKE_PREFIX_PATH"].split(":")
    assert "/greetlib-1.3.0-" in found["GREET_HOME"]


@pytest.fixture
def bare(store, tmp_path):
    """The golden tree without its recipes."""
    copied = tmp_path / "bare"
    shutil.copytree(store, copied, symlinks=True)
    index = copied / ".spack-db/index.json"
    index.write_text(index.read_text().replace(str(store), str(copied)))
    for recipes in copied.glob("linux-x86_64/*/.spack/repos"):
        shutil.rmtree(recipes)
    return copied


def test_without_any_source_the_variables_of_recipes_are_not_there(bare, tmp_path):
    pushed(tmp_path / "c", bare, "greet@2.0", "--no-spack")
    assert "GREET_HOME" not in environment(tmp_path / "c", "greet-2.0")


FAKE_SPACK = """#!/bin/sh
echo "$@" >> {log}
for hash in "$@"; do case $hash in
{cases}
esac; done
echo 'export SPACK_LOADED_HASHES=x;'
"""


def fake_spack(folder: Path, store: Path) -> Path:
    """A program that answers as `spack load --sh` does for the golden packages."""
    places = {package.name: package.prefix_in(store) for package in golden.packages()}
    cases = []
    for package in golden.packages():
        lib = {"greet-2.0": "greetlib-1.2.0", "greet-2.1": "greetlib-1.3.0"}.get(package.name, package.name)
        home = f"echo 'export GREET_HOME={places[lib]};';" if lib.startswith("greetlib") else ""
        cases.append(
            f"/{package.hash}) echo 'export PATH={places[package.name]}/bin:/usr/bin;'; {home};;".replace(";;;", ";;")
        )
    program = folder / "spack"
    folder.mkdir()
    program.write_text(FAKE_SPACK.format(log=folder / "log", cases="\n".join(cases)))
    program.chmod(0o755)
    return folder / "log"


@pytest.mark.covers("P13")
def test_spack_is_asked_once_for_all_and_its_answer_is_remembered(bare, tmp_path, monkeypatch):
    log = fake_spack(tmp_path / "bin", bare)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    pushed(tmp_path / "c", bare, "greet@2.1")
    assert in_golden_order(environment(tmp_path / "c", "greet-2.1")) == in_golden_order(spacks("greet-2.1", bare))
    assert len(log.read_text().splitlines()) == 1
    pushed(tmp_path / "again", bare, "greet@2.1")
    assert len(log.read_text().splitlines()) == 1
    assert environment(tmp_path / "again", "greet-2.1") == environment(tmp_path / "c", "greet-2.1")


def test_packages_of_one_name_are_asked_for_one_by_one(bare, tmp_path, monkeypatch):
    fake_spack(tmp_path / "bin", bare)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    pushed(tmp_path / "c", bare, "greet@2.0", "greet@2.1")
    for name in ("greetlib-1.2.0", "greetlib-1.3.0"):
        assert environment(tmp_path / "c", name)["GREET_HOME"] == spacks(name, bare)["GREET_HOME"]


def test_a_spack_that_fails_is_told_once_and_nothing_else_is_lost(bare, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/spack").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/spack").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    ended = binpkg("push", f"oci-layout:{tmp_path / 'c'}", "greet@2.0", "greet@2.1", "--store", bare)
    assert ended.code in {0, LACKS_A_DEPENDENCY}, ended.err
    assert ended.err.count("does not tell what packages add to the environment") == 1


@pytest.mark.covers("P13")
@pytest.mark.parametrize("kind", ["tcl", "lmod"])
def test_the_module_files_that_spack_generated_are_read(bare, tmp_path, monkeypatch, kind):
    root = tmp_path / "spack"
    for package in golden.packages():
        home = str(package.prefix_in(bare))
        folder = root / "share/spack" / {"tcl": "modules", "lmod": "lmod"}[kind] / "linux-debian12-x86_64"
        path = folder / package.name / ("1.lua" if kind == "lmod" else "1")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f'prepend_path("PATH", "{home}/bin", ":")', f'setenv("GREET_HOME", "{home}")']
        if kind == "tcl":
            lines = ["#%Module1.0", f"prepend-path --delim {{:}} PATH {{{home}/bin}}", f"setenv GREET_HOME {{{home}}}"]
        path.write_text("\n".join(lines if package.name.startswith("greetlib") else lines[:-1]) + "\n")
        with (folder / "module-index.yaml").open("a") as index:
            index.write("" if index.tell() else "module_index:\n")
            index.write(f"  {package.hash}:\n    path: {path}\n    use_name: {package.name}\n")
    monkeypatch.setenv("SPACK_ROOT", str(root))
    pushed(tmp_path / "c", bare, "greet@2.0", "--no-spack")
    assert in_golden_order(environment(tmp_path / "c", "greet-2.0")) == in_golden_order(spacks("greet-2.0", bare))


def described(root: Path, text: str) -> Path:
    for name in ("lib", "app"):
        (root / name / "bin").mkdir(parents=True)
        (root / name / "bin" / name).write_text("#!/bin/sh\n")
    (root / "packages.toml").write_text(
        f'{ARCH}[[package]]\nname="lib"\nversion="1"\nprefix="lib"\n{text}\n'
        '[[package]]\nname="app"\nversion="1"\nprefix="app"\ndepends=["lib"]\n'
        'environment = {set = {LIB_OF_APP = "{prefix:lib}/x"}, prepend_path = {PERL5LIB = ["a", "b"]}}\n'
    )
    return root


TABLE = '[package.environment]\nset = {LIB_HOME = "{prefix}"}\nappend_path = {PYTHONPATH = "py"}\n'


@pytest.mark.covers("P13")
@pytest.mark.parametrize("kind", ["oci-layout:", "file://"])
def test_the_environment_of_a_packages_toml_travels_through_caches_and_installs(kind, tmp_path):
    tree = described(tmp_path / "tree", TABLE)
    cache = f"{kind}{tmp_path / 'cache'}"
    assert binpkg("push", cache, "--store", tree, "--update-index", "--unsigned").code == 0
    words = ("--no-check-signature",) if kind == "file://" else ()
    ended = binpkg("install", "app", "--from", cache, "--store", tmp_path / "store", *words)
    assert ended.code == 0, ended.err
    pushed(tmp_path / "mine", tmp_path / "store", "app", "--no-spack")
    found = environment(tmp_path / "mine", "app")
    app, lib = (path.removesuffix("/bin") for path in found["PATH"].split(":")[:2])
    assert found["LIB_HOME"] == lib
    assert found["LIB_OF_APP"] == f"{lib}/x"
    assert found["PYTHONPATH"] == f"{lib}/py"
    assert found["PERL5LIB"] == f"{app}/a:{app}/b"


def test_the_environment_goes_along_when_a_cache_is_copied(tmp_path):
    tree = described(tmp_path / "tree", TABLE)
    assert binpkg("push", f"file://{tmp_path}/mirror", "--store", tree, "--update-index", "--unsigned").code == 0
    ended = binpkg("copy", f"file://{tmp_path}/mirror", f"oci-layout:{tmp_path}/copied", "--no-check-signature")
    assert ended.code == 0, ended.err
    assert environment(tmp_path / "copied", "app")["LIB_HOME"] == str(tree / "lib")
    assert config_of(tmp_path / "copied", "lib")[ENVIRONMENT_KEY][1] == ["set", "LIB_HOME", "{prefix}"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("environment = 1", "environment: a table is expected"),
        ("environment = {setenv = {}}", "unknown key 'setenv'"),
        ('environment = {set = {"A-B" = "x"}}', "'A-B' is not the name of a variable"),
        ("environment = {set = {A = 1}}", "environment: set.A: a text in quotes is expected"),
        ('environment = {set = {A = "a\\nb"}}', "control characters"),
        ('environment = {set = {A = "{prefix:nobody}"}}', "{prefix:nobody} names no package it depends on"),
        ('environment = {prepend_path = {A = "/a:/b"}}', "is not one path"),
        ('environment = {unset = "A"}', "environment: unset: a list of names is expected"),
    ],
)
def test_what_is_wrong_in_a_table_is_said(table, said, tmp_path):
    ended = binpkg("push", f"oci-layout:{tmp_path / 'c'}", "--store", described(tmp_path / "tree", table))
    assert ended.code == 3
    assert said in ended.err


STRANGE = [
    ["prepend_path", "PATH", "/tmp/evil/bin"],
    ["prepend_path", "PATH", "{prefix}/../../evil"],
    ["set", "PATH", "{prefix}/evil"],
    ["set", "LD_PRELOAD", "{prefix}/evil.so"],
    ["prepend_path", "LD_LIBRARY_PATH", "{prefix}/evil"],
    ["set", "BASH_ENV", "{prefix}/evil"],
    ["set", "PYTHONSTARTUP", "{prefix}/evil"],
    ["set", "https_proxy", "http://evil"],
    ["set", "PYTHONPATH", "{prefix}/evil"],
    ["append_path", "PERL5LIB", "/evil"],
    ["unset", "HOME", ""],
]


@pytest.mark.covers("P13")
@pytest.mark.parametrize("way", ["install", "copy"])
def test_a_package_of_a_cache_decides_over_nothing_else(way, tmp_path):
    tool = node("tool")
    made = Layout(tmp_path / "theirs")
    good = [["set", "TOOL_HOME", "{prefix}"], ["prepend_path", "PATH", "{prefix}/sbin"]]
    made.add(Package(tool), **{ENVIRONMENT_KEY: [*STRANGE, *good]})
    app = layout(tmp_path / "theirs2", [Package(node("app", needs=[tool]), [tool])])
    if way == "copy":
        target = f"oci-layout:{tmp_path / 'mine'}"
        assert binpkg("copy", made.name, f"file://{tmp_path}/m", "--unsigned").code in (0, 1)
        ended = binpkg("copy", f"file://{tmp_path}/m", target, "--no-check-signature")
        tag = "tool"
    else:
        store = tmp_path / "store"
        ended = binpkg("install", "app", "--from", app.name, "--from", made.name, "--store", store)
        assert ended.code == 0, ended.err
        ended = binpkg("push", f"oci-layout:{tmp_path / 'mine'}", "app", "--store", store, "--no-spack")
        assert "does not decide over" in ended.err
        tag = "app"
    assert ended.code == 0, ended.err
    found = environment(tmp_path / "mine", tag)
    assert "evil" not in str(found)
    assert "HOME" not in found
    assert found["TOOL_HOME"].rpartition("/")[2].startswith("tool")
    assert found["PATH"].split(":")[0] == f"{found['TOOL_HOME']}/sbin"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [1],
        [["set", "A"]],
        [["run", "A", "b"]],
        [["set", "A=B", "c"]],
        [["set", "A", "\x1b[31m"]],
        [["set", "A", "b"]] * 1001,
    ],
)
def test_an_environment_that_is_none_makes_a_package_unusable(wrong, tmp_path):
    made = Layout(tmp_path / "theirs")
    made.add(Package(node("tool")), **{ENVIRONMENT_KEY: wrong})
    ended = binpkg("install", "tool", "--from", made.name, "--store", tmp_path / "store")
    assert ended.code != 0
    assert ENVIRONMENT_KEY in ended.err
    assert "\x1b" not in ended.err
