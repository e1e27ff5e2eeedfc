"""An index is taken apart as a JSON parser reads it, however it is written and wherever its pieces end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.index import scanner as index_scan
from oci_binpkg.index.scanner import scan_index
from oci_binpkg.index.spool import Spool
from tests.support.examples import examples

HASHES = st.sampled_from(["a", "b" * 32, "c" * 32, "d1", "e" * 32])
TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(['},"cccc":{', '"', "\\", "{[", "}]}"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHES | TEXTS, inner, max_size=3),
    max_leaves=12,
)
RECORDS = st.dictionaries(HASHES | TEXTS, st.dictionaries(HASHES | TEXTS, VALUES, max_size=4), max_size=8)
MEMBERS = st.lists(st.tuples(st.sampled_from(["version", "new", "b" * 32, "x"]), VALUES), max_size=3)


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """An index as somebody may write it, and what `database` is in it."""
    before, after = dict(draw(MEMBERS)), dict(draw(MEMBERS))
    database = before | {"installs": draw(RECORDS)} | after
    around: dict[str, Any] = draw(st.sampled_from([{}, {"b" * 32: {"a": {}}}]))
    document = {"database": database, **around} if draw(st.booleans()) else {**around, "database": database}
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", "\n:")]))
    indent = draw(st.sampled_from([None, 1]))
    text = json.dumps(document, separators=separators, indent=indent, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass"), database


@pytest.fixture(params=[8, 64, 4096], autouse=True)
def pieces(request: pytest.FixtureRequest):
    """Pieces that end within everything there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_scan, "_PIECE", request.param)
        patch.setattr(index_scan, "_GUESSED_IN", request.param)
        yield


def scanned(data: bytes) -> dict[str, Any]:
    text = Spool.of(data)
    records: dict[str, Any] = {}
    members: dict[str, Any] = {}

    def found(key: str, start: int, value: Any) -> None:
        assert text.read(start, len(value)) == bytes(value)
        assert key not in records
        records[key] = json.loads(bytes(value))

    scan_index(text, "index", found, lambda name, value: members.update({name: json.loads(value)}))
    assert members["installs"] == {}
    return members | {"installs": records}


@examples(200)
@given(texts())
def test_an_index_is_what_a_parser_says(made: tuple[bytes, dict[str, Any]]) -> None:
    data, database = made
    try:
        assert scanned(data) == database
    except ContentError:
        with pytest.raises(UnicodeDecodeError):
            data.decode()


@examples(200)
@given(texts(), st.data())
def test_what_is_no_json_is_refused(made: tuple[bytes, dict[str, Any]], choose: st.DataObject) -> None:
    data, _ = made
    at = choose.draw(st.integers(0, len(data) - 1))
    broken = choose.draw(st.sampled_from([data[:at], data + b",", data[:at] + b"\0" + data[at + 1 :], data + b"{}"]))
    with pytest.raises(ContentError):
        scanned(broken)


@pytest.mark.parametrize("between", ["", '"b": {}, '])
def test_a_record_that_stands_twice_is_refused(between: str) -> None:
    for first, second in (("{}", "{}"), ('{"c": 1}', "{}"), ("{}", '{"c": 1}')):
        data = f'{{"database": {{"installs": {{"a": {first}, {between}"a": {second}}}}}}}'
        with pytest.raises(ContentError, match="twice"):
            scanned_once(data.encode())


def scanned_once(data: bytes) -> None:
    seen: set[str] = set()

    def found(key: str, start: int, value: Any) -> None:
        if key in seen:
            raise ContentError("a key stands twice")
        seen.add(key)

    scan_index(Spool.of(data), "index", found, lambda name, value: None)
