"""What leads from one package to another leads there in the new place, however the old tree was arranged."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.command_line import binpkg

ARCH = '[defaults]\narch = {platform = "linux", os = "debian12", target = "x86_64"}\n'


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def describe(root: Path, **packages: tuple[str, list[str]]) -> None:
    """Write the `packages.toml` of a tree: name -> prefix, dependencies."""
    tables = [
        f'[[package]]\nname="{name}"\nversion="1"\nprefix="{prefix}"\ndepends={depends}\n'
        for name, (prefix, depends) in packages.items()
    ]
    (root / "packages.toml").write_text(ARCH + "".join(tables).replace("'", '"'))


def moved(root: Path, to: Path, *names: str, gone: Path | None = None) -> dict[str, Path]:
    cache = f"oci-layout:{to.parent / 'cache'}"
    pushed = binpkg("push", cache, "--store", root, "--update-index")
    assert pushed.code == 0, pushed.err
    old = gone or root
    old.rename(old.with_name(f"{old.name}.gone"))
    ended = binpkg("install", *names, "--from", cache, "--store", to)
    assert ended.code == 0, ended.err
    return {path.name.rsplit("-", 2)[0]: path for path in to.glob("linux-x86_64/*")}


def output(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "apps").mkdir()
    return tmp_path / "apps"


def test_a_script_reads_a_package_whose_path_is_longer_than_its_own(root, tmp_path):
    for prefix in ("perl/5", "perl/5.36", "perl/5-doc"):
        write(root / prefix / "share/name", prefix)
    write(root / "perl/5/bin/show", f"#!/bin/sh\ncat {root}/perl/5.36/share/name {root}/perl/5-doc/share/name\n")
    describe(root, perl=("perl/5", []), new=("perl/5.36", []), doc=("perl/5-doc", []))

    prefixes = moved(root, tmp_path / "there", "perl", "new", "doc")

    assert output(prefixes["perl"] / "bin/show") == "perl/5.36perl/5-doc"


def test_a_prefix_that_is_a_link_is_the_same_place_by_both_names(root, tmp_path):
    (root / "gmp-6.3").mkdir()
    (root / "gmp").symlink_to("gmp-6.3")
    write(root / "gmp/gmp.pc", f"{root}/gmp-6.3/lib:{root}/gmp/lib:{root}/gmp-6.30/lib")
    write(root / "mpfr/mpfr.pc", f"-L{root}/gmp-6.3/lib -L{root}/gmp/lib")
    describe(root, gmp=("gmp", []), mpfr=("mpfr", ["gmp"]))

    prefixes = moved(root, tmp_path / "there", "mpfr")

    gmp = prefixes["gmp"]
    assert (gmp / "gmp.pc").read_text() == f"{gmp}/lib:{gmp}/lib:{root}/gmp-6.30/lib"
    assert (prefixes["mpfr"] / "mpfr.pc").read_text() == f"-L{gmp}/lib -L{gmp}/lib"


def test_a_tree_behind_two_links(root, tmp_path):
    real = tmp_path / "disk7/apps"
    real.parent.mkdir()
    root.rename(real)
    (tmp_path / "mnt").symlink_to("disk7")
    root.symlink_to("mnt/apps")
    write(real / "a/a.conf", f"{root}/a {real}/b/x")
    write(real / "b/x", "found")
    (real / "a/x").symlink_to(real / "b/x")
    describe(real, a=("a", ["b"]), b=("b", []))

    prefixes = moved(root, tmp_path / "there", "a", gone=real)

    assert (prefixes["a"] / "a.conf").read_text() == f"{prefixes['a']} {prefixes['b']}/x"
    assert (prefixes["a"] / "x").read_text() == "found"


def test_relative_links_lead_to_the_other_package(root, tmp_path):
    write(root / "deep/in/dep/lib/d", "found")
    write(root / "app/lib/own", "own")
    for name, target in {
        "lib/one": "../../deep/in/dep/lib/d",
        "all": "../deep/in/dep/",
        "share/x/dep": "../../../deep/in/dep/lib",
        "share/x/own": "../../lib/own",
        "share/x/self": "../../../app/lib/own",
        "host": os.path.relpath("/usr/bin/env", root / "app"),
    }.items():
        (root / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "app" / name).symlink_to(target)
    describe(root, app=("app", ["dep"]), dep=("deep/in/dep", []))

    (tmp_path / "further").mkdir()
    app = moved(root, tmp_path / "further/there", "app")["app"]

    assert [(app / name).read_text() for name in ("lib/one", "all/lib/d", "share/x/dep/d")] == ["found"] * 3
    assert [(app / name).read_text() for name in ("share/x/own", "share/x/self")] == ["own"] * 2
    assert os.readlink(app / "share/x/own") == "../../lib/own"
    assert os.path.samefile(app / "host", "/usr/bin/env")
    assert not any(os.readlink(app / name).startswith("/") for name in ("lib/one", "all", "share/x/dep", "host"))


def test_paths_lead_to_the_new_place_however_they_are_written(root, tmp_path):
    write(root / "dep/share/name", "dep")
    write(
        root / "app/bin/show",
        f"#!/bin/sh\ncd /\ncat {root}//dep/share/name {root}/app/../dep/./share/name {root}/./dep/bin/../share/name\n",
    )
    (root / "dep/bin").mkdir()
    write(root / "dep/bin/keep", "")
    (root / "app/link").symlink_to(f"{root}/app/../dep//share/name")
    write(root / "app/a.json", json.dumps({"dep": f"{root}/dep", "url": f"file://{root}/dep"}).replace("/", "\\/"))
    write(root / "app/a.url", quote(f"{root}/dep", ""))
    for encoding in ("utf-16-le", "utf-32-be"):
        (root / f"app/{encoding}").write_bytes(f"dep={root}/dep\n".encode(encoding))
    describe(root, dep=("dep", []), app=("app", ["dep"]))

    prefixes = moved(root, tmp_path / "there", "app")

    app, dep = prefixes["app"], prefixes["dep"]
    assert output(app / "bin/show") == "depdepdep"
    assert (app / "link").read_text() == "dep"
    assert json.loads((app / "a.json").read_text()) == {"dep": str(dep), "url": f"file://{dep}"}
    assert "\\/" in (app / "a.json").read_text()
    assert (app / "a.url").read_text() == quote(str(dep), "")
    for encoding in ("utf-16-le", "utf-32-be"):
        assert (app / encoding).read_bytes() == f"dep={dep}\n".encode(encoding)


def test_a_tree_that_is_given_by_its_real_path_while_its_files_hold_that_of_a_link(root, tmp_path):
    real = tmp_path / "disk7/apps"
    real.parent.mkdir()
    root.rename(real)
    root.symlink_to(real)
    write(real / "dep/share/name", "dep")
    write(real / "app/bin/show", f"#!/bin/sh\ncat {root}/dep/share/name {real}/dep/share/name {root}//dep/share/name\n")
    (real / "app/name").symlink_to(f"{root}/dep/share/name")
    write(real / "app/note", f"{root}/other {root}s\n")
    describe(real, dep=("dep", []), app=("app", ["dep"]))

    prefixes = moved(real, tmp_path / "there", "app", gone=real)

    assert output(prefixes["app"] / "bin/show") == "depdepdep"
    assert (prefixes["app"] / "name").read_text() == "dep"
    assert (prefixes["app"] / "note").read_text() == f"{root}/other {root}s\n"
