"""Where a prefix is mentioned in text, and what replaces it."""

from __future__ import annotations

import pytest

from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.relocate.prefix_set import PrefixSet
from oci_binpkg.relocate.prefixes import PrefixMap, mapping_for
from tests.support.effort import cpu_within


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        (b"/opt/a/lib", True),
        (b"x=/opt/a", True),
        (b"-I/opt/a/include -L/opt/a/lib", True),
        (b"PATH=/usr/bin:/opt/a/bin", True),
        (b"#!/opt/a/bin/python", True),
        (b"/opt/abc", True),
        (b"/stage/opt/a/lib", False),
        (b"//opt/a", False),
        (b"/x-y/opt/a", False),
        (b"../opt/a", True),
        (b"caf\xe9/opt/a", True),
        (b"/opt/b", False),
        (b"", False),
    ],
)
def test_the_text_rule(text: bytes, mentioned: bool) -> None:
    assert (next(PrefixSet.of(["/opt/a"]).mentions(text), None) is not None) is mentioned


def test_the_longest_prefix_wins() -> None:
    moved = PrefixMap.of({"/opt": "/1", "/opt/a/b": "/3", "/opt/a": "/2"})

    assert moved.replace_text(b"/opt/a/b/x:/opt/a/x:/opt/x") == b"/3/x:/2/x:/1/x"


def test_what_stands_before_a_prefix_is_kept() -> None:
    moved = PrefixMap.of({"/opt/a": "/new"})

    assert moved.replace_text(b"-I/opt/a/include /stage/opt/a -Wl,-rpath,/opt/a") == (
        b"-I/new/include /stage/opt/a -Wl,-rpath,/new"
    )


def test_text_without_mention_is_the_same_object() -> None:
    text = b"nothing of that kind: /stage/opt/a"

    assert PrefixMap.of({"/opt/a": "/new"}).replace_text(text) is text


def test_identity_pairs_and_the_root_change_nothing() -> None:
    moved = PrefixMap.of({"/opt/a": "/opt/a/", "/": "/new"})

    assert not moved
    assert moved.replace_text(b"/opt/a") == b"/opt/a"
    assert PrefixMap.of({"/opt/a": "/b"})


def test_special_characters_stand_for_themselves() -> None:
    moved = PrefixMap.of({"/opt/g++ (1.2)": "/new"})

    assert moved.replace_text(b"/opt/g++ (1.2)/bin /opt/gxx (1.2)") == b"/new/bin /opt/gxx (1.2)"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/opt/a", "/new"),
        ("/opt/a/lib/x", "/new/lib/x"),
        ("/opt/abc/x", "/opt/abc/x"),
        ("../opt/a", "../opt/a"),
        ("/opt/a/\udce9", "/new/\udce9"),
    ],
)
def test_links_are_moved_by_whole_components(target: str, expected: str) -> None:
    assert PrefixMap.of({"/opt/a": "/new"}).replace_link(target) == expected


def test_link_targets() -> None:
    known = PrefixSet.of(["/opt/a", "/srv"])

    assert known.is_target("/opt/a/lib")
    assert known.is_target("/srv")
    assert not known.is_target("../opt/a")
    assert not known.is_target("/usr/lib")


def test_a_relative_prefix_is_refused() -> None:
    with pytest.raises(UsageError, match="not an absolute path"):
        PrefixSet.of(["opt/a"])


def test_no_prefixes_mention_nothing() -> None:
    assert list(PrefixSet.of([]).mentions(b"/opt/a")) == []
    assert PrefixSet.of([]).pattern.search(b"/opt/a") is None
    assert not PrefixSet.of([]).is_target("/opt/a")


def test_a_package_that_stays_while_its_tree_moves() -> None:
    moved = PrefixMap.of({"/opt": "/srv", "/opt/a": "/opt/a"})

    assert moved.replace_text(b"/opt/a/x /opt/b/x") == b"/opt/a/x /srv/b/x"
    assert moved.replace_link("/opt/a/x") == "/opt/a/x"
    assert not PrefixMap.of({"/opt": "/opt", "/opt/a": "/opt/a"})


def test_several_slashes_before_a_path_mean_one() -> None:
    moved = PrefixMap.of({"/opt/a": "/new"})

    assert moved.replace_path(b"///opt/a/lib") == b"/new/lib"
    assert moved.replace_path(b"///opt/b/lib") == b"///opt/b/lib"


def test_a_mention_within_a_new_prefix() -> None:
    moved = PrefixMap.of({"/opt/a": "/srv/opt/a"})

    assert moved.is_new(b"/srv/opt/a", moved.mention_of(b"/srv/opt/a", 4, b"/opt/a", 10))
    assert not moved.is_new(b"/opt/a", moved.mention_of(b"/opt/a", 0, b"/opt/a", 6))
    assert moved.standing_at(b"x/opt/a", 1) == b"/opt/a"
    assert moved.standing_at(b"x/opt/a", 0) is None


def test_the_mapping_of_an_install() -> None:
    moved = mapping_for(
        {"aaa": "/old/a-aaa", "bbb": "/old/b-bbb", "ccc": "/old/c-ccc"},
        {"aaa": "/new/a-aaa", "bbb": "/new/other-b"},
        root=("/old", "/new"),
        sbang=("/old/bin/sbang", "/new/bin/own-sbang"),
    )

    assert moved.replace_text(b"/old/a-aaa/x /old/b-bbb/x /old/c-ccc/x") == b"/new/a-aaa/x /new/other-b/x /new/c-ccc/x"
    assert moved.replace_text(b"#!/bin/sh /old/bin/sbang") == b"#!/bin/sh /new/bin/own-sbang"


def test_unknown_sides_are_left_out() -> None:
    assert not mapping_for({"aaa": ""}, {"aaa": "/new/a"}, root=("", "/new"), sbang=("/old/bin/sbang", ""))


def many(count: int) -> dict[str, str]:
    return {
        f"/opt/store/linux-x86_64/package-{number}-hash": f"/srv/new/package-{number}-hash" for number in range(count)
    }


@pytest.mark.parametrize(
    "pairs",
    [many(100_000), {f"/{number}": f"/new/{number}" for number in range(30_000)}, {"/a" * depth: "/b" for depth in range(1, 60)}],
    ids=["one root", "no root", "within one another"],
)  # fmt: skip
def test_many_prefixes_cost_no_more_passes_than_one(pairs: dict[str, str]) -> None:
    with cpu_within(20):  # a pass for each prefix takes minutes
        mapping = PrefixMap.of(pairs)
        old, new = next(reversed(pairs.items()))
        text = (f"-I{old}/include x" * 2000 + " /" * 20_000 + "/stage" * 20_000).encode()
        assert mapping.replace_text(text).count(new.encode() + b"/include") == 2000
        assert mapping.replace_path(f"{old}/lib/x".encode()) == f"{new}/lib/x".encode()
        assert mapping.old.is_target(f"{old}/lib")
        assert not mapping.old.is_target("/usr/lib")
        assert not mapping.is_new(text, mapping.mention_of(text, 2, old.encode(), len(text)))
    assert len(mapping.old.needles) <= 64


def test_prefixes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ContentError, match="5001 bytes"):
        PrefixMap.of({"/" + "a" * 5000: "/b"})
    with pytest.raises(ContentError, match="within one another"):
        PrefixMap.of({"/a" * depth: "/b" for depth in range(1, 100)}).replace_text(b"/a")
