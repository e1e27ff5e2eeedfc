"""The document `.spack/binary_distribution`: Spack's bytes, and what older archives have."""

from __future__ import annotations

import tarfile
from dataclasses import replace

import pytest
import yaml

from oci_binpkg.archive.binary_distribution import MEMBER, Distribution, Relocations
from oci_binpkg.errors import ContentError
from tests.support import golden

HASH = "6fytamqgzio2shuhlaie55hiv2m2stdw"


def made(*, links: tuple[str, ...] = (), textfiles: tuple[str, ...] = ()) -> Distribution:
    prefixes = {HASH: "/r/linux/a-1"}
    return Distribution("/r/bin/sbang", "/r", "/opt/spack", "linux/a-1", prefixes, (), links, textfiles)


@pytest.mark.parametrize("name", golden.PACKAGES)
def test_the_golden_documents_come_out_byte_for_byte(name: str) -> None:
    document = golden.package(name).distribution

    assert Distribution.parse(document, name).to_bytes() == document


def test_the_prefixes_that_matter_are_those_of_the_hashes_then_sbang_and_the_root() -> None:
    assert made().known_prefixes == ("/r/linux/a-1", "/r/bin/sbang", "/r")


def test_a_long_list_stays_on_one_line() -> None:
    paths = tuple(f"share/a rather long name {number}/with spaces.txt" for number in range(500))

    text = made(textfiles=paths).to_bytes().decode()

    assert text.count("\n") == 1
    assert text.endswith("}\n")
    assert Distribution.parse(text.encode(), "x").relocate_textfiles == paths


ODD = ("yes", "1.0", "a: b", "- x", "{x}", "x, y", "it's", "", "#1", "naïve ☃", "tab\tnew\nline", "null", "~", "0x1f")


def test_odd_names_survive() -> None:
    document = made().to_bytes(Relocations(binaries=ODD))

    assert yaml.safe_load(document)["relocate_binaries"] == list(ODD)
    assert Distribution.parse(document, "x").relocate_binaries == ODD
    assert "naïve ☃" in document.decode()


def test_lists_given_take_the_place_of_those_there() -> None:
    document = made(links=("old",)).to_bytes(Relocations(("b",), ("l",), ("t",)))

    parsed = Distribution.parse(document, "x")
    assert (parsed.relocate_binaries, parsed.relocate_links, parsed.relocate_textfiles) == (("b",), ("l",), ("t",))


def test_an_archive_of_spack_0_22() -> None:
    path = next(golden.GOLDEN.glob("v2-unsigned/build_cache/*/*/greet-2.1/*.spack"))
    with tarfile.open(path) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(MEMBER))
        member = archive.extractfile(name)
        assert member is not None
        parsed = Distribution.parse(member.read(), name)

    assert parsed.buildpath == "/opt/golden/oldstore"
    assert parsed.relocate_binaries == ("bin/greet",)
    assert parsed.relocate_textfiles == ("bin/greet-script",)
    assert parsed.hardlinks_deduped
    assert len(parsed.hash_to_prefix) == 4


def test_the_inverse_map_of_older_archives() -> None:
    document = f"prefix_to_hash:\n  /r/a: {HASH}\n  /r/b: '22222222222222222222222222222222'\nrelocate_links: null\n"

    parsed = Distribution.parse(document.encode(), "x")

    assert dict(parsed.hash_to_prefix) == {HASH: "/r/a", "2" * 32: "/r/b"}
    assert not parsed.hardlinks_deduped
    assert parsed.relocate_links == ()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid YAML"),
        (b"[" * 10000, "not valid YAML"),
        (b"- a", "mapping is expected"),
        (b"{buildpath: [a]}", "buildpath: text is expected"),
        (b"{hash_to_prefix: {a: [b]}}", "hash_to_prefix.*text is expected"),
        (b"{prefix_to_hash: {a: [b]}}", "text is expected"),
        (b"{relocate_binaries: x}", "a list is expected"),
        (b"{relocate_links: [[x]]}", "text is expected"),
        (b"{relocate_textfiles: [a/../../etc/passwd]}", "leads out of the prefix"),
        (b"{relocate_textfiles: [/etc/passwd]}", "leads out of the prefix"),
        (b"!!python/object/apply:os.system [echo]", "mapping is expected"),
    ],
)
def test_what_cannot_be_understood_is_refused(document: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message) as caught:
        Distribution.parse(document, "the layer of greet")
    assert "the layer of greet" in caught.value.message


def test_a_document_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_binpkg.archive.binary_distribution.MAX_BYTES", 10)

    with pytest.raises(ContentError, match="at most 10"):
        Distribution.parse(made().to_bytes(), "x")


def test_what_only_we_record_is_written_where_there_is_something_and_read_again() -> None:
    plain = made()
    more = replace(
        plain,
        real_root="/nfs/r",
        real_prefixes={HASH: "/nfs/r/a"},
        other_prefixes={"a" * 32: ("/r/linux/a-10", "a", "10", "linux", "debian12", "x86_64")},
        other_roots=("/apps", "/mnt/r"),
    )

    assert b"real_" not in plain.to_bytes()
    assert b"other_" not in plain.to_bytes()
    assert Distribution.parse(more.to_bytes(), "x") == more
    assert yaml.safe_load(more.to_bytes())["hash_to_prefix"] == {HASH: "/r/linux/a-1"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{real_root: r}", "not an absolute path"),
        (b"{other_roots: [r]}", "other_roots: 'r' is not allowed"),
        (b"{other_roots: [/r/../x]}", "is not allowed"),
        (b"{other_roots: [" + b"/r, " * 17 + b"]}", "at most 16"),
        (b"{real_prefixes: {x/y: /r}}", "real_prefixes: 'x/y' is not allowed"),
        (b"{other_prefixes: {6fytamqgzio2shuhlaie55hiv2m2stdw: [/r, a]}}", "a list of 6 texts"),
    ],
)
def test_what_only_we_record_is_checked(document: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        Distribution.parse(document, "x")


@pytest.mark.parametrize(("said", "expected"), [("true", 1), ("True", 1), ("false", 0), ("0", 0)])
def test_relative_rpaths_of_old_archives_are_remarked(said: str, expected: int) -> None:
    document = f"buildpath: /r\nrelative_prefix: a\nrelative_rpaths: {said}\nprefix_to_hash: {{/r/a: {HASH}}}\n"

    found = Distribution.parse(document.encode(), "it")

    assert len(found.confirmed("/r/a", "it").remarks) == expected
    elsewhere = Distribution.parse(document.replace("/r\n", "/s\n").encode(), "it").confirmed("/r/a", "it")
    assert len(elsewhere.remarks) == expected + 1
