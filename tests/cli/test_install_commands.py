"""The way back on the command line: install, install-image, download, uninstall, verify-store."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.golden import GOLDEN
from tests.support.spack_trees import Sketch, spack_tree

LAYOUT = f"oci-layout:{GOLDEN / 'oci-layout'}"


@pytest.fixture
def short():
    """A folder whose name is short enough for constants in the golden binaries."""
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def cache(tmp_path):
    tree = spack_tree(
        tmp_path / "old" / "store",
        [
            Sketch("zlib", "1.3", files={"lib/z.pc": "prefix={prefix}\n"}, explicit=False),
            Sketch("app", "2.0", files={"bin/app": "#!/bin/sh\ncat {zlib}/lib/z.pc\n"}, depends=["zlib"]),
        ],
    )
    address = f"oci-layout:{tmp_path / 'cache'}"
    assert binpkg("push", address, "--store", tree.root, "--update-index", "--tag", "all").code == 0
    return address


@pytest.mark.parametrize("command", ["install", "install-image", "uninstall", "verify-store", "download"])
def test_every_command_has_an_example(command):
    ended = binpkg(command, "-h")
    assert ended.code == 0
    assert f"\n    oci-binpkg {command}" in ended.out


def test_install_verify_and_uninstall(cache, tmp_path):
    store = tmp_path / "new"
    ended = binpkg("install", "app", "--from", cache, "--store", store)
    assert ended.code == 0, ended.err
    assert [line.split()[:2] for line in ended.lines] == [["installed", line.split()[1]] for line in ended.lines]
    assert "2 installed" in ended.err
    assert len(binpkg("find", "--store", store).lines) == 2
    assert binpkg("verify-store", store).code == 0
    (file,) = store.glob("*/zlib-*/lib/z.pc")
    file.write_text("changed")
    differs = binpkg("verify-store", store)
    assert differs.code == 10
    assert "lib/z.pc" in differs.out
    report = binpkg("verify-store", store, "zlib", "--json").json
    assert report[0]["findings"][0]["path"] == "lib/z.pc"
    needed = binpkg("uninstall", "zlib", "--store", store)
    assert needed.code == 3
    assert "--dependents" in needed.err
    assert binpkg("uninstall", "app", "zlib", "--store", store).code == 0
    assert binpkg("find", "--store", store).out == ""
    again = binpkg("install", "app", "--from", cache, "--store", store, "--json").json
    assert {package["outcome"] for package in again["packages"]} == {"installed"}
    assert [package["name"] for package in binpkg("uninstall", "app", "--store", store, "--json").json] == ["app"]


def test_install_golden_packages_and_an_image_of_them(short):
    refused = binpkg("install", "greet@2.0", "--from", LAYOUT, "--store", short / "a")
    assert refused.code == 6
    assert "--allow-missing" in refused.err
    ended = binpkg("install", "greet@2.0", "--from", LAYOUT, "--store", short / "a", "--allow-missing")
    assert ended.code == 0, ended.err
    assert "1 left out" in ended.err
    image = binpkg("install-image", f"{LAYOUT}:both", "--store", short / "b", "--allow-missing", "--json")
    assert image.code == 0, image.err
    assert sorted(p["outcome"] for p in image.json["packages"]) == ["installed"] * 5 + ["missing"]


def test_a_prefix_that_is_too_long_has_its_own_exit_code(tmp_path):
    store = tmp_path / ("x" * 60)
    ended = binpkg("install", "greetlib@1.2.0", "--from", LAYOUT, "--store", store, "--allow-missing")
    assert ended.code == 13, ended.err
    assert "at most 17 bytes" in ended.out


def test_download_writes_spec_and_archive(cache, tmp_path):
    ended = binpkg("download", "app", "--from", cache, tmp_path / "files")
    assert ended.code == 0, ended.err
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert [name.split(".", 2)[-1] for name in names] == [name.split(".", 2)[-1] for name in names]
    assert names[0].startswith("app-2.0-")
    document = json.loads(next((tmp_path / "files").glob("*.spec.json")).read_text())
    assert document["spec"]["nodes"][0]["name"] == "app"
    shown = binpkg("show", "app", "--from", cache, "--json").json
    assert next((tmp_path / "files").glob("*.tar.gz")).stat().st_size == shown["size"]
    assert binpkg("download", "app", "--from", cache, tmp_path / "files", "--json").json[0]["cache"]


def test_several_caches_are_asked_in_order(cache, tmp_path):
    report = binpkg(*("install", "app", "--from", LAYOUT, "--from", cache, "--store", tmp_path / "new", "--json")).json
    assert all(package["cache"] == cache for package in report["packages"])
    assert all("does not have it" in package["passed_over"][0] for package in report["packages"])


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["install", "app", "--from", "{cache}"], 2, "no install tree named"),
        (["install", "app", "--store", "{store}"], 2, "--from"),
        (["install", "app", "--from", "{cache}", "--store", "{apps}"], 2, "packages.toml"),
        (["install", "nothing", "--from", "{cache}", "--store", "{store}"], 4, "nothing"),
        (["install", "app@@", "--from", "{cache}", "--store", "{store}"], 2, "app@@"),
        (["install-image", "{cache}", "--store", "{store}"], 2, "a tag is missing"),
        (["install-image", "{cache}:absent", "--store", "{store}"], 6, "absent"),
        (["uninstall", "app", "--store", "{store}"], 3, "not a Spack install tree"),
        (["verify-store", "{store}"], 3, "store"),
        (["download", "nothing", "--from", "{cache}"], 4, "nothing"),
    ],
)
def test_what_is_wrong_is_said(cache, tmp_path, arguments, code, text):
    apps = tmp_path / "apps"
    apps.mkdir()
    (apps / "packages.toml").write_text("")
    ended = binpkg(*(word.format(cache=cache, store=tmp_path / "store", apps=apps) for word in arguments))
    assert ended.code == code, ended.err
    assert text in ended.err


@pytest.fixture
def tools(tmp_path):
    """A cache with a tool whose interpreter is a program of another package, and one whose interpreter is nowhere."""
    tree = spack_tree(
        tmp_path / "old" / "store",
        [
            Sketch("shell", files={"bin/shell": "#!/bin/sh\n"}, explicit=False),
            Sketch("good", files={"bin/good": "#!{shell}/bin/shell\n"}, depends=["shell"]),
            Sketch("bad", files={"bin/bad": "#!/nowhere/bin/lua\n", "share/doc/more": "-> gone"}),
        ],
    )
    for program in tree.root.glob("*/*/bin/*"):
        program.chmod(0o755)
    address = f"oci-layout:{tmp_path / 'tools'}"
    assert binpkg("push", address, "--store", tree.root, "--update-index", "--tag", "all").code == 0
    return address


def test_an_install_ends_with_what_does_not_run(tools, tmp_path):
    ended = binpkg("install", "bad", "good", "--from", tools, "--store", tmp_path / "new")
    assert ended.code == 0
    (line,) = [line for line in ended.lines if line.startswith("does not run")]
    assert line.endswith("/bin/bad: its interpreter /nowhere/bin/lua is not there")
    assert "remarked  links that lead nowhere: 1" in ended.lines
    assert "warning: not all that was installed runs here: " in ended.err
    assert ended.err.splitlines()[-1].endswith("3 installed, obstacles to running it: 1")


def test_an_install_of_what_runs_says_so(tools, tmp_path):
    ended = binpkg("install", "good", "--from", tools, "--store", tmp_path / "new", "--strict")
    assert ended.code == 0
    assert ended.err.splitlines()[-1].endswith("2 installed, all of it runs here")
    again = binpkg("install", "good", "--from", tools, "--store", tmp_path / "new", "--json").json
    assert "run_check" not in again  # nothing was put in place


@pytest.mark.parametrize("command", ["install", "install-image"])
def test_a_strict_install_fails_if_something_does_not_run(tools, tmp_path, command):
    what = ["bad", "--from", tools] if command == "install" else [f"{tools}:all"]
    ended = binpkg(command, *what, "--store", tmp_path / "new", "--strict", "--json")
    assert ended.code == 1
    check = ended.json["run_check"]
    assert (check["runs"], [Path(path).name for path in check["stopped"]]) == (False, ["bad"])
    stopping = [each for each in check["obstacles"] if each["stops"]]
    assert [(each["kind"], each["needed"]) for each in stopping] == [("script", "/nowhere/bin/lua")]
    assert (tmp_path / "new").exists()  # it is installed all the same
    assert binpkg(command, *what, "--store", tmp_path / "other").code == 0


def test_verify_store_finds_what_no_longer_runs(tools, tmp_path):
    store = tmp_path / "new"
    assert binpkg("install", "good", "--from", tools, "--store", store).code == 0
    assert binpkg("verify-store", store, "--run").code == 0
    (shell,) = store.glob("*/shell-*/bin/shell")
    shell.unlink()

    assert binpkg("verify-store", store, "good").code == 0  # its own files are as they were
    ended = binpkg("verify-store", store, "good", "--run")
    assert ended.code == 10
    assert ended.lines[0].startswith("does not run  good@1.0/")
    assert f"its interpreter {shell} is not there" in ended.out
    (package,) = binpkg("verify-store", store, "good", "--run", "--json").json
    assert (package["good"], package["runs"], package["findings"]) == (False, False, [])
    assert [each["kind"] for each in package["obstacles"]] == ["script"]


def test_verify_store_looks_into_no_prefix_that_is_a_link(tools, tmp_path):
    store = tmp_path / "new"
    assert binpkg("install", "bad", "--from", tools, "--store", store).code == 0
    (prefix,) = store.glob("*/bad-*")
    prefix.rename(tmp_path / "elsewhere")
    prefix.symlink_to(tmp_path / "elsewhere")

    (package,) = binpkg("verify-store", store, "--run", "--json").json
    assert package["unverifiable"]
    assert "obstacles" not in package


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 1),
        (["--allow-stale", "bin/*"], 1),
        (["--allow-stale", "bin/*", "--allow-stale=lib/*"], 0),
        (["--allow-stale"], 0),
    ],
)
def test_old_paths_may_stay_in_the_files_that_are_named(tmp_path, options, code):
    long = tmp_path / ("long" * 30)
    ended = binpkg("install", "greet@2.0", "--allow-missing", *options, "--from", LAYOUT, "--store", long)
    assert ended.code == code, ended.err
    assert bool(list(long.glob("*/greet-*"))) is (code == 0)
