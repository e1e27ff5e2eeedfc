"""Compiled Python files: their headers, and the paths among their constants."""

from __future__ import annotations

import importlib.util
import marshal
import os
import struct
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.compiled_python import (
    naming,
    naming_content,
    read_header,
    relocate_constants,
    remaining_in_constants,
    source_hash,
    source_of,
)
from oci_binpkg.relocate.prefixes import PrefixMap

OLD = "/opt/built/pkg-1"
SHORTER, LONGER = "/o/p", "/somewhere/else/" + "long/" * 60 + "pkg-1"
MAGIC = importlib.util.MAGIC_NUMBER
SOURCE = f"""
'''Documentation that names {OLD}/share, twice: {OLD}/share.'''
P = "{OLD}/share"
B = b"{OLD}/lib\\0{OLD}"
OTHER = {{"{OLD}/a": 1, "x": (-5, 2**70, 1.5, 2j, None, ..., True)}}
S = P in {{"{OLD}/b", "{OLD}", "no"}}
class K:
    def method(self, x="{OLD}", *, y=frozenset):
        return [lambda: "ünï {OLD}/ü", x, (1, "{OLD}/" + "z" * 3)]
def outer():
    q = 1
    def inner(): return q, "-I{OLD}/include", "{OLD}-data"
    return inner
"""


def compiled(source: str = SOURCE, file: str = f"{OLD}/m.py") -> bytes:
    return MAGIC + bytes(12) + marshal.dumps(compile(source, file, "exec"))


def moved(data: bytes, new: str) -> bytes:
    return relocate_constants(data, PrefixMap.of({OLD: new}))


def facts(code: types.CodeType, mapping: PrefixMap | None = None) -> object:
    """Everything in a code object, the texts replaced one by one."""

    def of(value: object) -> object:
        if isinstance(value, types.CodeType):
            return facts(value, mapping)
        if isinstance(value, tuple):
            return tuple(map(of, value))
        if isinstance(value, frozenset):
            return frozenset(map(of, value))
        if mapping and isinstance(value, str):
            return mapping.replace_text(value.encode()).decode()
        if mapping and isinstance(value, bytes):
            return mapping.replace_text(value)
        return value

    texts = (code.co_consts, code.co_filename, code.co_names, code.co_varnames, code.co_name)
    return of(texts), code.co_code, code.co_linetable, code.co_exceptiontable, code.co_firstlineno


@pytest.mark.parametrize("new", [SHORTER, LONGER, "/ö/pfad", "/opt/built/pkg-1/inner/pkg-1"])
def test_constants_and_file_names_are_those_of_the_new_place_and_nothing_else_changes(new: str) -> None:
    data = compiled()

    changed = moved(data, new)

    expected = facts(marshal.loads(data[16:]), PrefixMap.of({OLD: new}))
    assert facts(marshal.loads(changed[16:])) == expected
    assert changed[:16] == data[:16]
    assert list(remaining_in_constants(changed, PrefixMap.of({OLD: new}))) == []
    assert list(remaining_in_constants(data, PrefixMap.of({OLD: new})))


def test_the_modules_of_the_standard_library_keep_every_constant() -> None:
    folder = os.path.dirname(os.__file__)
    mapping = PrefixMap.of({folder: LONGER})
    for name in ("os", "typing", "argparse", "decimal", "_pydecimal", "enum", "asyncio/events", "email/header"):
        path = f"{folder}/{name}.py"
        if not Path(path).exists():
            continue
        code = compile(Path(path).read_bytes(), path, "exec")
        changed = relocate_constants(MAGIC + bytes(12) + marshal.dumps(code), mapping)
        assert facts(marshal.loads(changed[16:])) == facts(code, mapping), name


def test_numbers_sets_dictionaries_and_lists_are_gone_through() -> None:
    value = [{"a": [1, 2**40, -(2**90)], b"k": {1.5, 2j}}, {OLD: {}, "z": ()}, f"{OLD}/x" * 2, "ende"]
    head = MAGIC + bytes(12)
    for version in (0, 2, 4):
        changed = moved(head + marshal.dumps(value, version), SHORTER)
        # a path goes on where another begins: only the first is a mention
        assert marshal.loads(changed[16:]) == [value[0], {SHORTER: {}, "z": ()}, f"{SHORTER}/x{OLD}/x", "ende"]


def code_of(magic: int, fields: bytes) -> bytes:
    return struct.pack("<H", magic) + b"\r\n" + bytes(12) + b"\xe3" + fields


def short(text: bytes) -> bytes:
    return b"z" + bytes((len(text),)) + text


@pytest.mark.parametrize("magic", [3413, 3425, 3439])
def test_files_of_python_3_8_to_3_10_are_changed(magic: int) -> None:
    bytecode = b"s" + struct.pack("<I", len(OLD)) + OLD.encode()  # code that looks like a path is code all the same
    constants = b")\x02N" + short(f"{OLD}/x".encode())
    fields = (
        bytes(24)
        + bytecode
        + constants
        + b")\x00" * 4
        + short(OLD.encode())
        + short(b"<module>")
        + bytes(4)
        + b"s"
        + bytes(4)
    )

    changed = moved(code_of(magic, fields), SHORTER)

    expected = (
        bytes(24) + bytecode + b")\x02N" + short(f"{SHORTER}/x".encode()) + b")\x00" * 4 + short(SHORTER.encode())
    )
    assert changed[17:].startswith(expected)
    assert changed.endswith(short(b"<module>") + bytes(4) + b"s" + bytes(4))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[: d.index(OLD.encode()) + 3] + OLD.encode(),
        lambda d: d[:16] + b"\xee" + d[17:],
        lambda d: d[:16] + b"(\xff\xff\xff\xff" + d[17:],
        lambda d: d[:16] + b"[\1\0\0\0" * 5000 + OLD.encode(),
    ],
)
def test_a_damaged_stream_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ContentError):
        moved(damage(compiled()), SHORTER)


def test_python_2_and_unknown_versions_are_refused() -> None:
    for head in (b"\x03\xf3\r\n", struct.pack("<H", 9999) + b"\r\n", b"abcd"):
        with pytest.raises(ContentError, match="not known"):
            moved(head + bytes(12) + OLD.encode(), SHORTER)


def test_a_file_without_an_old_prefix_stays_the_same_object() -> None:
    data = compiled("x = 1", "/elsewhere/m.py")
    assert moved(data, SHORTER) is data


def test_the_hash_of_a_source_is_the_one_that_python_computes() -> None:
    key = int.from_bytes(MAGIC, "little")
    for size in (0, 1, 7, 8, 9, 63, 255, 256, 1000):
        source = bytes(range(256)) * 4
        assert source_hash(key, source[:size]) == importlib.util.source_hash(source[:size])
    assert naming_content(MAGIC + bytes(12), b"x = 1\n")[8:] == importlib.util.source_hash(b"x = 1\n")
    # SipHash-2-4 with this key is what Python 3.8 writes
    assert source_hash(0x0A0D0D55, b"") != source_hash(0x0A0D0DA7, b"")


def test_headers() -> None:
    header = read_header(naming(MAGIC + bytes(12), 2**32 + 5, 77))
    assert header
    assert header.names(5, 77)
    assert header.names(2**32 + 5, 2**32 + 77)
    assert not header.names(6, 77)
    assert read_header(b"\x03\xf3\r\n" + bytes(12)) is None
    assert read_header(MAGIC + b"\x07" + bytes(11)) is None
    assert read_header(MAGIC) is None


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lib/a/__pycache__/m.cpython-311.pyc", "lib/a/m.py"),
        ("__pycache__/m.cpython-311.opt-1.pyc", "m.py"),
        ("lib/a/m.pyc", None),
        ("lib/__pycache__/m.pyc", None),
        ("lib/__pycache__/m.x.y.z.pyc", None),
        ("lib/not__pycache__/m.cpython-311.pyc", None),
    ],
)
def test_where_the_source_is(path: str, source: str | None) -> None:
    assert source_of(path) == source
