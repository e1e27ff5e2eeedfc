from __future__ import annotations

import pytest

from oci_binpkg.store.registry.lists import MAX_LINK, next_page
from tests.support.effort import cpu_within


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("", ""),
        ('</v2/a/tags/list?n=2&last=b>; rel="next"', "/v2/a/tags/list?n=2&last=b"),
        ("</x>;rel=next", "/x"),
        ("</x>; REL=Next", "/x"),
        ("</x>", "/x"),
        ("/x; rel=next", "/x"),
        ('</a>; rel="prev", </b>; rel="next"', "/b"),
        ('</a>; title="x, y; rel=next", </b>; rel=next', "/b"),
        ("</a,b;c>; rel=next", "/a,b;c"),
        ('</a>; rel="last next"', "/a"),
        ('</a>; title="a \\" ; b"; rel=next', "/a"),
        ('</a>; rel="nextish"', ""),
        ('<a b>; rel="next"', ""),
        ("<a", ""),
        (";rel=next", ""),
    ],
)
def test_the_next_page_is_found(header: str, target: str) -> None:
    assert next_page(header) == target


@pytest.mark.parametrize("piece", [" ", "<a>;x,", ';a="', "<", ",", ";", '"', "\\", "<a>;", "<>;rel=next,"])
def test_any_header_costs_little(piece: str) -> None:
    with cpu_within(2):
        next_page("<a>;x," + piece * (1_000_000 // len(piece)) + "<")


def test_a_link_beyond_the_limit_is_not_seen() -> None:
    assert next_page(" " * MAX_LINK + "</x>; rel=next") == ""
