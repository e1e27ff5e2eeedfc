from __future__ import annotations

import pytest

from oci_binpkg.errors import ContentError
from oci_binpkg.model.toml_documents import MOST_DOTS, parse_toml
from tests.support.effort import cpu_within


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (".".join("a" * 400_000) + " = 1", "dots in one line"),
        ("[" + ".".join("a" * 400_000) + "]", "dots in one line"),
        ("a = {" + ".".join("a" * 400_000) + " = 1}", "dots in one line"),
        (" . ".join(["'a'"] * 100_000) + " = 1", "dots in one line"),
        (f"{'a.' * MOST_DOTS}b = 1\n" * 900, ""),
        ("a = " + "[" * 400_000, "nested too deeply"),
        ("a = " + "{a=" * 200_000, "nested too deeply"),
        ("a = " + "1" * 900_000, "a number too large"),
        ("a = 1\na = 2", "Cannot overwrite"),
        ("a = \udce9", "not UTF-8"),
    ],
    ids=["key", "header", "inline", "quoted", "many keys", "lists", "tables", "digits", "twice", "encoding"],
)
def test_hostile_toml_costs_little_and_is_told(text: str, reason: str) -> None:
    with cpu_within(5), pytest.raises(ContentError, match=f"^file: not valid TOML: .*{reason}"):
        parse_toml(text.encode("utf-8", "surrogateescape"), "file")


def test_dots_in_lists_of_texts_are_read() -> None:
    assert len(parse_toml(b"a = [" + b"'https://a.b.example/c.d'," * 100 + b"]", "file")["a"]) == 100
