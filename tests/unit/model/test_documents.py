"""JSON from somewhere else is read strictly."""

from __future__ import annotations

import json

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.model.documents import (
    DEEPEST,
    MOST_VALUES,
    all_text,
    canonical_json,
    integer_of,
    list_of,
    object_of,
    parse_json,
    refuse_case_variants,
    text_of,
    texts_of,
)


def test_reads_an_object() -> None:
    data = '{"a": [1, -2.5e3, null, true, "ü", "\\u00fc", "\\ud83d\\ude00"], "b": {}}'.encode()
    assert parse_json(data, "doc") == {"a": [1, -2500.0, None, True, "ü", "ü", "😀"], "b": {}}


@pytest.mark.covers("B01")
@pytest.mark.parametrize(
    "data",
    ['{"a": 1, "a": 1}', '{"x": [{"a": {"b": 1, "b": 2}}]}', '{"a": 1, "\\u0061": 2}', '{"layers": 1, "Layers": 2}'],
)
def test_refuses_repeated_keys_at_any_level(data: str) -> None:
    with pytest.raises(ContentError, match=r"^doc: a key stands twice"):
        parse_json(data.encode(), "doc")


@pytest.mark.covers("B01")
def test_keys_that_differ_in_case_are_fine_where_maps_are_free() -> None:
    assert parse_json(b'{"a": 1, "A": 2}', "doc", fold_case=False) == {"a": 1, "A": 2}
    with pytest.raises(ContentError, match="twice"):
        parse_json(b'{"a": 1, "a": 2}', "doc", fold_case=False)


@pytest.mark.covers("B02")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_refuses_numbers_that_are_none(number: str) -> None:
    with pytest.raises(ContentError, match=r"^doc: .*(not JSON|out of range)"):
        parse_json(f'{{"a": {number}}}'.encode(), "doc")


@pytest.mark.covers("B03")
@pytest.mark.parametrize(
    "data",
    [
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": ["\\uDFFF x"]}',
        b'{"\\ud800": 1}',
        b'{"a": "\\ude00\\ud83d"}',
    ],
)
def test_refuses_what_is_not_utf8(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"^doc: not valid JSON"):
        parse_json(data, "doc")


@pytest.mark.covers("B04")
@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000])
def test_refuses_deep_nesting(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"^doc: nested too deeply"):
        parse_json(data, "doc")


@pytest.mark.covers("B04")
def test_refuses_numbers_of_thousands_of_digits() -> None:
    with pytest.raises(ContentError, match=r"^doc: not valid JSON") as caught:
        parse_json(b'{"a": ' + b"9" * 5000 + b"}", "doc")
    assert len(caught.value.message) < 300


@pytest.mark.covers("B04")
def test_what_was_nested_is_not_written_either() -> None:
    document: dict[str, object] = {}
    for _ in range(100_000):
        document = {"a": document}
    with pytest.raises(ContentError, match="nested too deeply"):
        canonical_json(document)


@pytest.mark.parametrize("data", [b"", b"{", b"{}x", b"{'a': 1}", b"{} {}", b"\x00"])
def test_refuses_what_is_not_json(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"^doc: not valid JSON"):
        parse_json(data, "doc")


def test_a_web_page_in_the_place_of_json_is_called_that() -> None:
    with pytest.raises(ContentError, match=r"^doc: a web page or XML, not JSON") as caught:
        parse_json(b"\n<html>", "doc")
    assert "login page" in caught.value.hint


@pytest.mark.parametrize("data", [b"[]", b"1", b'"a"', b"null", b"true"])
def test_refuses_what_is_no_object(data: bytes) -> None:
    with pytest.raises(ContentError, match=r"^doc: a JSON object is expected"):
        parse_json(data, "doc")


DOCUMENT = {"text": "t", "n": 5, "o": {"a": 1}, "l": ["x", "y"], "null": None, "mixed": ["x", 1]}


def test_takes_members_of_the_right_type() -> None:
    assert text_of(DOCUMENT, "text", "doc") == "t"
    assert text_of(DOCUMENT, "absent", "doc", default="d") == "d"
    assert integer_of(DOCUMENT, "n", "doc") == 5
    assert object_of(DOCUMENT, "o", "doc") == {"a": 1}
    assert object_of(DOCUMENT, "null", "doc", optional=True) == {}
    assert list_of(DOCUMENT, "l", "doc") == ["x", "y"]
    assert list_of(DOCUMENT, "absent", "doc", optional=True) == []
    assert texts_of(DOCUMENT, "l", "doc") == ("x", "y")
    assert texts_of(DOCUMENT, "absent", "doc") == ()


def test_names_the_path_of_a_wrong_member() -> None:
    with pytest.raises(ContentError, match=r"^doc\.n: text is expected, not int"):
        text_of(DOCUMENT, "n", "doc")
    with pytest.raises(ContentError, match=r"^doc\.null: text is expected, not nothing"):
        text_of(DOCUMENT, "null", "doc", default="")
    with pytest.raises(ContentError, match=r"^doc\.l: an object is expected, not list"):
        object_of(DOCUMENT, "l", "doc", optional=True)
    with pytest.raises(ContentError, match=r"^doc\.absent: an object is expected, not nothing"):
        object_of(DOCUMENT, "absent", "doc")
    with pytest.raises(ContentError, match=r"^doc\.text: a list is expected, not str"):
        list_of(DOCUMENT, "text", "doc", optional=True)
    with pytest.raises(ContentError, match=r"^doc\.null: a list is expected"):
        list_of(DOCUMENT, "null", "doc")
    with pytest.raises(ContentError, match=r"^doc\.mixed\[1\]: text is expected, not int"):
        texts_of(DOCUMENT, "mixed", "doc")
    with pytest.raises(ContentError, match=r"^here\[0\]"):
        all_text([None], "here")


@pytest.mark.covers("B02", "B08")
@pytest.mark.parametrize(
    "value", ["-1", "12.0", "true", '"12"', "null", "9007199254740993", "9223372036854775808", "1e3"]
)
def test_integers_are_integers(value: str) -> None:
    document = json.loads(f'{{"size": {value}}}')
    with pytest.raises(ContentError, match=r"^doc\.size: an integer from 0 to 9007199254740992"):
        integer_of(document, "size", "doc")
    with pytest.raises(ContentError, match="from 0 to 10"):
        integer_of({"size": 11}, "size", "doc", maximum=10)


def test_case_variants_of_known_keys() -> None:
    refuse_case_variants({"layers": 1, "other": 2, "OTHER": 3}, ("layers",), "doc")
    with pytest.raises(ContentError, match="'Layers' differs from 'layers' only in case"):
        refuse_case_variants({"Layers": 1}, ("layers",), "doc")


def test_writes_compactly_in_the_given_order() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None]}) == '{"b":1,"a":["ü",null]}'.encode()


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":[' + b"[]," * MOST_VALUES + b"[]]}",
        b'{"a":[' + b"{}," * MOST_VALUES + b"{}]}",
        b'{"a":[' + b"1," * MOST_VALUES + b"1]}",
        b"{" + b",".join(b'"%d":1' % number for number in range(MOST_VALUES)) + b"}",
        b'{"a":"' + b"," * MOST_VALUES + b'","b":[' + b'"",' * MOST_VALUES + b"1]}",
    ],
    ids=["lists", "objects", "numbers", "members", "texts"],
)
def test_refuses_more_values_than_any_document_has(data: bytes) -> None:
    with pytest.raises(ContentError, match=rf"^doc: a document of more than {MOST_VALUES} values"):
        parse_json(data, "doc")


def test_counts_no_character_within_a_text_for_a_value() -> None:
    text = ',[{:\\"' * MOST_VALUES
    assert parse_json(b'{"a":"' + text.encode().replace(b'"', b'"') + b'","b":[1,2]}', "doc")["b"] == [1, 2]


def test_a_document_may_have_more_values_where_its_reader_expects_them() -> None:
    data = b'{"a":[' + b"1," * MOST_VALUES + b"1]}"
    assert len(parse_json(data, "doc", most_values=2 * MOST_VALUES)["a"]) == MOST_VALUES + 1


def test_refuses_what_is_nested_deeper_than_any_document() -> None:
    assert parse_json(nested(DEEPEST), "doc")["a"] is not None
    for depth in (DEEPEST + 1, 500, 100_000):
        with pytest.raises(ContentError, match=r"^doc: nested too deeply"):
            parse_json(nested(depth), "doc")


def test_refuses_a_fraction_of_a_million_digits() -> None:
    with pytest.raises(ContentError, match=r"^doc: a number of 1000002 characters"):
        parse_json(b'{"a":1.' + b"1" * 1_000_000 + b"}", "doc")
