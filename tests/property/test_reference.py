"""References: whatever parses is well formed, and is written as it was read."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from oci_binpkg.errors import UsageError
from oci_binpkg.model.content import Digest
from oci_binpkg.model.reference import (
    Reference,
    check_tag,
    hash_of_tag,
    is_package_tag,
    package_tag,
    parse_image,
    parse_reference,
    parse_repository,
)

hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5}){0,3}(:[1-9][0-9]{0,3})?", fullmatch=True)
components = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
repositories = st.builds(
    lambda host, names: f"{host}/{'/'.join(names)}", hosts, st.lists(components, min_size=1, max_size=4)
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,30}", fullmatch=True)
hostile = st.text(alphabet="abz09AZ./:@-_%[]\\ \n\x1b\u2024é", max_size=40) | st.text(max_size=40)


@given(repositories, st.none() | tags | st.binary(max_size=3).map(Digest.of))
def test_well_formed_references_are_written_as_they_are_read(repository: str, end: str | Digest | None) -> None:
    text = repository if end is None else f"{repository}@{end}" if isinstance(end, Digest) else f"{repository}:{end}"
    reference = parse_reference(text)
    assert str(reference) == text
    assert parse_reference(str(reference)) == reference
    assert reference.repository == parse_repository(repository)


def outcome(parse: Callable[[str], Reference], text: str) -> Reference | str:
    try:
        return parse(text)
    except UsageError as error:
        return str(error)


@given(hostile)
def test_whatever_parses_is_safe_in_a_url(text: str) -> None:
    for parse in (parse_reference, parse_image):
        reference = outcome(parse, text)
        if isinstance(reference, str):
            assert "\x1b" not in reference
            continue
        name = reference.repository.name
        assert re.fullmatch(r"[a-z0-9._/-]+", name)
        assert not {"", ".", ".."} & set(name.split("/"))
        assert re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", reference.repository.host)
        assert not reference.tag or check_tag(reference.tag) == reference.tag
        assert len(str(reference.repository)) <= 255


@given(st.text(max_size=80), st.text(max_size=80), st.from_regex(r"[a-z2-7]{32}", fullmatch=True))
def test_every_package_has_a_tag_with_its_hash(name: str, version: str, package_hash: str) -> None:
    tag = package_tag(name, version, package_hash)
    assert len(tag) <= 128
    assert is_package_tag(tag)
    assert hash_of_tag(tag) == package_hash
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", tag)
