"""Scripts with other data behind them still run where they are installed, and their data are what they were."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import subprocess
import sys
import zipapp
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.relocate.packed_scripts import data_behind, relocate_script
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from oci_binpkg.relocate.scan import FileKind, PrefixScanner
from oci_binpkg.relocate.tree import relocate_tree

HASH = "a" * 32
LENGTHS = {"shorter": "n", "equal": "trees", "longer": "a-much-longer-root", "too long": "a-root-" * 20}
each_length = pytest.mark.parametrize("length", LENGTHS)


@pytest.fixture
def roots(tmp_path: Path, length: str) -> tuple[Path, Path]:
    """An old and a new root, both with a Python and a shell of their own in `app/bin`."""
    old, new = tmp_path / "store", tmp_path / LENGTHS[length]
    for prefix in (old / "app", new / "app-h"):
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin/python").symlink_to(sys.executable)
        (prefix / "bin/sh").symlink_to("/bin/sh")
    return old, new


def mapping(roots: tuple[Path, Path]) -> PrefixMap:
    old, new = map(str, roots)
    return mapping_for({HASH: f"{old}/app"}, {HASH: f"{new}/app-h"}, root=(old, new))


def moved(roots: tuple[Path, Path], content: bytes) -> Path:
    """The script in the new place, as an install leaves it, with nothing in the old one."""
    path = roots[1] / "app-h/bin/script"
    path.write_bytes(content)
    path.chmod(0o755)
    (roots[0] / "app").rename(roots[0] / "gone")
    scan = PrefixScanner([str(roots[0])]).start()
    scan.feed(content)
    texts = ["bin/script"] if scan.finish() is FileKind.TEXT else []
    report = relocate_tree(str(roots[1] / "app-h"), mapping(roots), textfiles=texts)
    assert report.changed == ("bin/script",)
    return path


def output(path: Path, *arguments: str) -> str:
    argv = [str(path), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@each_length
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_a_zipapp(roots: tuple[Path, Path], tmp_path: Path, length: str, compressed: bool) -> None:
    source = tmp_path / "source"
    (source / "pkg").mkdir(parents=True)
    (source / "pkg/__init__.py").write_text("value = 42\n")
    (source / "__main__.py").write_text("import sys, pkg\nprint(pkg.value, *sys.argv[1:])\n")
    target = io.BytesIO()
    zipapp.create_archive(source, target, interpreter=f"{roots[0]}/app/bin/python", compressed=compressed)

    script = moved(roots, target.getvalue())

    assert output(script, "a b") == "42 a b\n"
    with zipfile.ZipFile(script) as archive:
        assert archive.testzip() is None
    line = script.read_bytes().partition(b"\n")[0]
    assert len(line) <= 127
    assert line.startswith(b"#!/bin/sh" if length == "too long" else f"#!{roots[1]}/app-h/bin/python".encode())


@each_length
def test_an_archive_put_behind_a_line_by_cat(roots: tuple[Path, Path], length: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", "print('ran')")
        archive.comment = b"a comment"

    script = moved(roots, f"#!{roots[0]}/app/bin/python -E\n".encode() + packed.getvalue())

    assert script.read_bytes().endswith(packed.getvalue())
    assert output(script) == "ran\n"


INSTALLERS = {
    "lines": "n=$(awk '/^__DATA__/ {print NR + 1; exit}' \"$0\")\ntail -n +$n \"$0\" | gzip -dc\nexit 0\n__DATA__\n",
    "a number of lines": 'tail -n +6 "$0" | gzip -dc\n: P={old}/app/share\nexit 0\n',
    "bytes": 'P={old}/app/share\nSKIP=@SIZE@\ntail -c +$((SKIP + 1)) "$0" | gzip -dc\nexit 0\n',
    "bytes and one": 'P={old}/app/share\ntail -c +@NEXT@ "$0" | gzip -dc\nexit 0\n',
    "dd": 'dd if="$0" bs=@SIZE@ skip=1 2>/dev/null | gzip -dc\nexit 0\n',
}  # fmt: skip


def installer(body: str, old: Path, payload: bytes) -> bytes:
    text = f"#!{old}/app/bin/sh\n# {'-' * 100}\n" + body.replace("{old}", str(old))
    size = len(text) + 20
    for _ in range(5):
        made = text.replace("@SIZE@", str(size)).replace("@NEXT@", str(size + 1))
        size = len(made)
    return made.encode() + gzip.compress(payload, mtime=0)


@pytest.mark.parametrize("length", ["shorter", "equal", "longer"])
@pytest.mark.parametrize("kind", INSTALLERS)
def test_an_installer_finds_its_data(roots: tuple[Path, Path], kind: str) -> None:
    payload = f"data of {roots[0]}/app\n".encode() * 3

    script = moved(roots, installer(INSTALLERS[kind], roots[0], payload))

    assert output(script).encode() == payload
    assert str(roots[0]).encode() not in script.read_bytes()[: data_behind(script.read_bytes())]


def test_bytecode_of_ocaml_is_found_from_the_end() -> None:
    moving = mapping_for(
        {HASH: "/opt/store/ocaml"}, {HASH: "/a/longer/root/ocaml-h"}, root=("/opt/store", "/a/longer/root")
    )
    code = b"\0\1\2\3/opt/store/ocaml/lib" + struct.pack(">4sI", b"CODE", 24) + b"\0\0\0\1Caml1999X031"
    content = b"#!/opt/store/ocaml/bin/ocamlrun\n" + code

    assert relocate_script(content, data_behind(content), moving) == b"#!/a/longer/root/ocaml-h/bin/ocamlrun\n" + code


def test_old_paths_in_the_data_are_remarked(tmp_path: Path) -> None:
    moving = mapping_for({HASH: "/opt/store/app"}, {HASH: "/n/app"}, root=("/opt/store", "/n"))
    (tmp_path / "script").write_bytes(b"#!/opt/store/app/bin/ocamlrun\n\0\1/opt/store/app/x\xff")

    report = relocate_tree(str(tmp_path), moving)

    assert report.changed == ("script",)
    (remark,) = report.reported
    assert "behind its script" in remark.reason
    assert (tmp_path / "script").read_bytes() == b"#!/n/app/bin/ocamlrun        \n\0\1/opt/store/app/x\xff"


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\n\0\1/opt/store/app",
        b"#!/opt/store/other/bin/sh\n\0",
        b"\0\1/opt/store/app",
        b"#!no line\0/opt/store/app",
    ],
)
def test_other_data_are_left_alone(tmp_path: Path, content: bytes) -> None:
    moving = mapping_for({HASH: "/opt/store/app"}, {HASH: "/n/app"}, root=("/opt/store", "/n"))
    (tmp_path / "data").write_bytes(content)

    assert relocate_tree(str(tmp_path), moving).changed == ()
    assert (tmp_path / "data").read_bytes() == content


def zip64_behind(line: bytes) -> bytes:
    """An archive with its numbers in the fields for large ones, as if it were larger than 4 GiB."""
    entry, body = b"__main__.py", b"print('64')"
    crc = zlib.crc32(body)
    local = (
        struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 33, crc, len(body), len(body), len(entry), 0)
        + entry
        + body
    )
    extra = struct.pack("<HHQ", 1, 8, len(line))
    directory = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 33, crc, len(body), len(body), len(entry), len(extra), 0, 0, 0, 0, 0xFFFFFFFF) + entry + extra  # fmt: skip
    start = len(line) + len(local)
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    return line + local + directory + end + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(directory), 0xFFFFFFFF, 0)  # fmt: skip


def test_large_archives() -> None:
    old = "/opt/store/app"
    moving = mapping_for({HASH: old}, {HASH: "/a/longer/root/app"}, root=("/opt/store", "/a/longer/root"))
    content = zip64_behind(f"#!{old}/bin/python\n".encode())

    new = relocate_script(content, data_behind(content), moving)

    assert new == zip64_behind(b"#!/a/longer/root/app/bin/python\n")


@pytest.mark.parametrize("cut", [1, 10, 23, 30, 60])
def test_damaged_archives_keep_their_bytes(cut: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", os.urandom(50))
    moving = mapping_for({HASH: "/opt/store/app"}, {HASH: "/a/longer/root"}, root=("/opt/store", "/a/longer/root"))
    data = b"\0" + packed.getvalue()[:-cut]
    content = b"#!/opt/store/app/python\n" + data

    assert relocate_script(content, data_behind(content), moving) == b"#!/a/longer/root/python\n" + data


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_any_damage_leaves_a_script_and_as_many_bytes(changes: list[tuple[int, int]], large: bool) -> None:
    old, new = "/opt/store/app", "/a/longer/root/app"
    moving = mapping_for({HASH: old}, {HASH: new}, root=("/opt/store", "/a/longer/root"))
    line = f"#!{old}/bin/python\n".encode()
    packed = io.BytesIO(line)
    packed.seek(len(line))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("__main__.py", "x")
        archive.writestr("y", "z")
    content = bytearray(zip64_behind(line) if large else packed.getvalue())
    for at, value in changes:
        content[len(line) + 4 + at % (len(content) - len(line) - 4)] = value
    made = relocate_script(bytes(content), data_behind(bytes(content)), moving)

    assert made.startswith(f"#!{new}/bin/python\n".encode())
    assert len(made) == len(content) + len(new) - len(old)


@pytest.mark.skipif(shutil.which("perl") is None, reason="needs Perl")
def test_perl_with_control_characters_does_not_start_itself_for_ever(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "perl").symlink_to(str(shutil.which("perl")))
    script = b'#!/opt/old/perl -w\nprint "$^W @ARGV\\n";\n__END__\n\x01\n'
    file = tmp_path / "script"
    file.write_bytes(relocate_script(script, data_behind(script), PrefixMap.of({"/opt/old": str(deep)})))
    file.chmod(0o755)

    done = subprocess.run([file, "a", "b"], check=True, capture_output=True, text=True, timeout=10)

    assert done.stdout == "1 a b\n"
