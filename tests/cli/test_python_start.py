"""Python finds what was compiled current: in an installed tree, in a layer, and after it has compiled more itself."""

from __future__ import annotations

import json
import os
import py_compile
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.relocate.compiled_python import NO_SOURCE, read_header
from tests.support.command_line import binpkg

MODULES = {
    "m/__init__": "P = '{prefix}/share'\n",
    "m/deep/inner": "def f(): return '{prefix}/lib'\n",
    "alone": "x = 1\n",
}
MODES = py_compile.PycInvalidationMode


def package(root: Path, time: int = 1_700_000_000, mode: MODES = MODES.TIMESTAMP) -> Path:
    """A tree with one package of Python modules, compiled when their sources had this time."""
    prefix = root / "py"
    for name, text in MODULES.items():
        source = prefix / f"{name}.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text.format(prefix=prefix))
        os.utime(source, (time, time))
        py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
    (root / "packages.toml").write_text(
        '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
        '[[package]]\nname = "py"\nversion = "1"\nprefix = "py"\n'
    )
    return prefix


def python(prefix: Path, code: str, *options: str) -> str:
    """What Python prints that may write nowhere; the modules that it took compiled are on stderr."""
    command = [sys.executable, *options, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(prefix)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return ended.stdout + ended.stderr


IMPORT = "import m.deep.inner, m, alone; print(m.P, m.deep.inner.f())"


def compiled_anew(prefix: Path) -> list[str]:
    log = python(prefix, IMPORT, "-v", "-B")
    return [
        name
        for name in MODULES
        if f"code object from '{prefix}/{name}.py'" in log or f"code object from {prefix}/{name}.py" in log
    ]


@pytest.fixture
def pushed(tmp_path: Path) -> tuple[Path, str]:
    prefix = package(tmp_path / "built")
    cache = f"oci-layout:{tmp_path / 'cache'}"
    assert binpkg("push", cache, "--store", prefix.parent, "--update-index").code == 0
    return prefix, cache


def installed(cache: str, root: Path) -> Path:
    ended = binpkg("install", "py", "--from", cache, "--store", root)
    assert ended.code == 0, ended.err
    (prefix,) = root.glob("*/py-1-*")
    return prefix


def digest(cache: str) -> str:
    return str(binpkg("show", "py", "--from", cache, "--json").json["layer"])


def layer(cache: str) -> dict[str, bytes]:
    """The files of the only package's layer, by the end of their paths."""
    blob = Path(cache.removeprefix("oci-layout:"), "blobs/sha256", digest(cache).partition(":")[2])
    with tarfile.open(blob) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name.partition("/py/")[2]: file.read() for name, file in files.items() if file is not None}


def headers(files: dict[str, bytes]) -> list[tuple[int, int]]:
    found = [read_header(data[:16]) for name, data in sorted(files.items()) if name.endswith(".pyc")]
    return [(header.time, header.size) for header in found if header is not None]


@pytest.mark.parametrize("root", ["d", "a-destination-that-is-much-longer-than-the-place-it-was-built-in"])
def test_nothing_is_compiled_anew_after_an_install(pushed: tuple[Path, str], tmp_path: Path, root: str) -> None:
    built, cache = pushed
    assert compiled_anew(built) == []
    built.rename(tmp_path / "gone")
    prefix = installed(cache, tmp_path / root)
    assert compiled_anew(prefix) == []
    assert python(prefix, IMPORT, "-B") == f"{prefix}/share {prefix}/lib\n"


@pytest.mark.parametrize("mode", list(MODES))
def test_every_kind_of_header_leads_to_the_new_place(tmp_path: Path, mode: MODES) -> None:
    built = package(tmp_path / "built", mode=mode)
    cache = f"oci-layout:{tmp_path / 'cache'}"
    binpkg("push", cache, "--store", built.parent, "--update-index")
    prefix = installed(cache, tmp_path / "d")
    assert compiled_anew(prefix) == []
    assert python(prefix, IMPORT, "-B") == f"{prefix}/share {prefix}/lib\n"


def test_a_package_without_sources_is_at_home_in_the_new_place(tmp_path: Path) -> None:
    built = package(tmp_path / "built")
    for source in list(built.rglob("*.py")):
        py_compile.compile(str(source), cfile=f"{source}c", doraise=True)
        source.unlink()
    cache = f"oci-layout:{tmp_path / 'cache'}"
    binpkg("push", cache, "--store", built.parent, "--update-index")
    ended = binpkg("install", "py", "--from", cache, "--store", tmp_path / "longer-than-before" / "d")
    (prefix,) = (tmp_path / "longer-than-before" / "d").glob("*/py-1-*")
    assert "    " not in ended.out  # nothing to remark
    assert python(prefix, IMPORT, "-B") == f"{prefix}/share {prefix}/lib\n"


def test_in_a_layer_compiled_files_name_sources_of_time_0(pushed: tuple[Path, str]) -> None:
    files = layer(pushed[1])
    assert sorted(headers(files)) == sorted((0, len(files[f"{name}.py"])) for name in MODULES)


def test_times_of_sources_are_not_in_a_layer(tmp_path: Path) -> None:
    digests = set()
    for time in (1_600_000_000, 1_700_000_001):
        root = tmp_path / "built"
        package(root, time)
        cache = f"oci-layout:{tmp_path / str(time)}"
        binpkg("push", cache, "--store", root, "--update-index")
        digests.add(digest(cache))
        root.rename(tmp_path / f"gone-{time}")
    assert len(digests) == 1


def test_what_was_stale_is_stale_in_the_layer_and_after_its_install(tmp_path: Path) -> None:
    built = package(tmp_path / "built")
    os.utime(built / "alone.py", (5, 5))
    (built / "alone.py").write_text("x = 2\n")
    cache = f"oci-layout:{tmp_path / 'cache'}"
    binpkg("push", cache, "--store", built.parent, "--update-index")
    assert (0, NO_SOURCE) in headers(layer(cache))
    prefix = installed(cache, tmp_path / "d")
    assert compiled_anew(prefix) == ["alone"]
    assert python(prefix, "import alone; print(alone.x)", "-B") == "2\n"


@pytest.mark.parametrize("how", ["flag", "configuration"])
def test_compiled_files_may_travel_as_they_are(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = package(tmp_path / "built", 1_650_000_000)
    cache = f"oci-layout:{tmp_path / 'cache'}"
    if how == "configuration":
        (tmp_path / "config.toml").write_text("pyc = false\n")
        monkeypatch.setenv("OCI_BINPKG_CONFIG", str(tmp_path / "config.toml"))
    binpkg("push", cache, "--store", built.parent, "--update-index", *(["--no-pyc"] if how == "flag" else []))
    files = layer(cache)
    assert {name: data for name, data in files.items() if name.endswith(".pyc")} == {
        str(path.relative_to(built)): path.read_bytes() for path in built.rglob("*.pyc")
    }
    assert compiled_anew(installed(cache, tmp_path / "d")) == []  # an install knows these, too


def test_what_python_writes_later_is_no_damage_and_in_no_layer(
    pushed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = installed(pushed[1], tmp_path / "d")
    python(prefix, IMPORT, "-O")
    python(prefix, IMPORT, "-OO")
    (written,) = (prefix / "__pycache__").glob("alone.*.opt-2.pyc")
    ended = binpkg("verify-store", tmp_path / "d")
    assert ended.code == 0, ended.out
    again = f"oci-layout:{tmp_path / 'again'}"
    binpkg("push", again, "--store", tmp_path / "d", "--update-index")
    assert digest(again) == digest(pushed[1])  # it travels on as it came
    monkeypatch.setenv("OCI_BINPKG_LAYER_CACHE", str(tmp_path / "empty"))
    packed = f"oci-layout:{tmp_path / 'packed'}"
    binpkg("push", packed, "--store", tmp_path / "d", "--update-index")
    assert not any("opt-" in name for name in layer(packed))
    assert written.exists()


def test_a_first_cache_beside_a_source_is_no_damage_and_in_no_layer(tmp_path: Path) -> None:
    built = package(tmp_path / "built")
    for path in list(built.rglob("*.pyc")):
        path.unlink()
        if not list(path.parent.iterdir()):
            path.parent.rmdir()
    cache, again = (f"oci-layout:{tmp_path / name}" for name in ("cache", "again"))
    binpkg("push", cache, "--store", built.parent, "--update-index")
    prefix = installed(cache, tmp_path / "d")
    python(prefix, IMPORT)
    assert (prefix / "m/deep/__pycache__").is_dir()
    ended = binpkg("verify-store", tmp_path / "d")
    assert ended.code == 0, ended.out
    binpkg("push", again, "--store", tmp_path / "d", "--update-index")
    assert digest(again) == digest(cache)


def test_a_file_that_python_compiled_again_is_no_damage(pushed: tuple[Path, str], tmp_path: Path) -> None:
    prefix = installed(pushed[1], tmp_path / "d")
    os.utime(prefix / "alone.py", (1, 1))
    python(prefix, IMPORT)
    assert compiled_anew(prefix) == []
    assert binpkg("verify-store", tmp_path / "d").code == 0


def test_damage_to_compiled_files_is_found(pushed: tuple[Path, str], tmp_path: Path) -> None:
    prefix = installed(pushed[1], tmp_path / "d")
    (cache,) = (prefix / "__pycache__").glob("alone.*.pyc")
    whole, status = cache.read_bytes(), cache.stat()

    def findings() -> list[Any]:
        ended = binpkg("verify-store", tmp_path / "d", "--json")
        return [found["path"] for package in json.loads(ended.out) for found in package["findings"]]

    cache.write_bytes(whole[:-3])
    assert findings() == [str(cache.relative_to(prefix))]
    cache.write_bytes(whole[:40] + b"\xff" + whole[41:])
    os.utime(cache, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert findings() == [str(cache.relative_to(prefix))]
    cache.write_bytes(whole[:8] + struct.pack("<2I", 1, 1) + whole[16:])
    assert findings() == [str(cache.relative_to(prefix))]
    cache.write_bytes(whole)
    (prefix / "alone.py").write_text("x = 12345\n")
    python(prefix, IMPORT)
    assert set(findings()) == {"alone.py", str(cache.relative_to(prefix))}
    (prefix / "m/__pycache__/other.cpython-311.pyc").write_bytes(whole)
    (prefix / "__pycache__/notes.txt").write_text("x")
    assert {"m/__pycache__/other.cpython-311.pyc", "__pycache__/notes.txt"} < set(findings())


def test_remarks_are_counted_and_listed_when_asked_for(tmp_path: Path) -> None:
    built = package(tmp_path / "built")
    for number in range(120):
        (built / f"{number:03}.bin").write_bytes(b"\0\xff\xfe " + str(built).encode())
    cache = f"oci-layout:{tmp_path / 'cache'}"
    binpkg("push", cache, "--store", built.parent, "--update-index")
    ended = binpkg("install", "py", "--from", cache, "--store", tmp_path / "d")
    remarks = [line.strip() for line in ended.lines if line.startswith("    ")]
    assert remarks == ["120 files mention an old prefix, and are not declared to be relocated"]
    assert ".bin" not in ended.err
    said = binpkg("install", "py", "--from", cache, "--store", tmp_path / "f", "--json").json["packages"][0]["remarks"]
    assert said == [
        {
            "kind": "mention an old prefix, and are not declared to be relocated",
            "count": 120,
            "files": [f"{number:03}.bin" for number in range(5)],
        }
    ]
    listed = binpkg("install", "py", "--from", cache, "--store", tmp_path / "e", "-v").err
    assert all(f"{number:03}.bin: mentions an old prefix" in listed for number in range(120))
