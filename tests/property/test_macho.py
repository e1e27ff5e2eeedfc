"""Whatever happens to a Mach-O file on its way: it is relocated, or refused with a reason, and soon."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from oci_binpkg.errors import ContentError
from oci_binpkg.relocate.codesign import parse_signature
from oci_binpkg.relocate.macho import relocate_macho, remaining_in_macho
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support.examples import examples
from tests.support.macho_files import (
    ARM64,
    I386,
    ID,
    LOAD,
    PPC,
    RPATH,
    X86_64,
    Shape,
    build,
    build_fat,
    check_signature,
    fixture,
    has_signature,
    paths_in,
    signature_of,
    slices_of,
)

UNIVERSAL = fixture("made/libgreet.dylib")
THIN = fixture("made/greet")
FILES = (
    THIN,
    UNIVERSAL,
    fixture("libxau/libXau-x86_64.dylib"),
    build_fat([(ARM64, build([(RPATH, "/opt/made")])), (I386, build([(ID, "/opt/made/x")], Shape(wide=False)))]),
    build([(RPATH, "/opt/made"), (LOAD, "/opt/made/x")], Shape(order=">", wide=False, cpu=PPC)),
)
MAPPINGS = (
    PrefixMap.of({"/opt/made": "/o", "/DLC": "/x"}),
    PrefixMap.of({"/opt/made": "/opt/longer", "/DLC": "/a/longer/one"}),
)
SHAPES = (
    Shape(cpu=X86_64),
    Shape(cpu=ARM64),
    Shape(cpu=I386, wide=False),
    Shape(cpu=PPC, wide=False, order=">"),
)
WORDS = st.one_of(
    st.integers(0, 64),
    st.sampled_from([0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF8, 0x1D, 0x19, 0x1, 0x80000000]),
    st.integers(0, 0xFFFFFFFF),
)
names = st.text("abcdefgh-", min_size=1, max_size=30)
paths = st.builds(lambda parts: "/" + "/".join(parts), st.lists(names, min_size=1, max_size=4))


@examples(300)
@given(
    data=st.sampled_from(FILES),
    mapping=st.sampled_from(MAPPINGS),
    edits=st.lists(st.tuples(st.integers(0, 400), WORDS, st.sampled_from(["<I", ">I"])), min_size=1, max_size=4),
    tail=st.booleans(),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_a_damaged_file_is_relocated_or_refused(
    data: bytes, mapping: PrefixMap, edits: Sequence[tuple[int, int, str]], tail: bool, cut: int | None
) -> None:
    damaged = bytearray(data)
    for word, value, order in edits:
        # the headers at the beginning, or the signature at the end
        struct.pack_into(
            order, damaged, len(damaged) - 4 - 4 * (word % 140) if tail else 4 * (word % (len(damaged) // 4)), value
        )
    with suppress(ContentError):
        cut_short = bytes(damaged[:cut])
        edit = relocate_macho(cut_short, mapping)
        list(remaining_in_macho(edit.data, mapping))
        assert len(edit.data) <= len(data) + 3 * 0x8000


@examples(100)
@given(at=st.integers(0, 600), value=st.integers(0, 0xFFFFFFFF), cut=st.one_of(st.none(), st.integers(0, 600)))
@example(at=28, value=0xFFFFFFFF, cut=None)
def test_a_damaged_signature_is_read_or_refused(at: int, value: int, cut: int | None) -> None:
    damaged = bytearray(signature_of(THIN))
    struct.pack_into(">I", damaged, at % (len(damaged) - 4), value)
    with suppress(ContentError):
        parse_signature(bytes(damaged[:cut]))


@examples(60)
@given(
    shape=st.sampled_from(SHAPES),
    old=paths,
    new=paths,
    below=st.lists(st.tuples(st.sampled_from([ID, LOAD, RPATH]), names), max_size=5, unique_by=lambda item: item[1]),
)
def test_what_macholib_reads_afterwards_is_what_was_asked_for(
    shape: Shape, old: str, new: str, below: list[tuple[int, str]]
) -> None:
    kinds = [kind if kind != ID or index == 0 else LOAD for index, (kind, _) in enumerate(below)]  # one name at most
    inside = [(kind, f"{old}/{name}") for kind, (_, name) in zip(kinds, below, strict=True)]
    outside = [(LOAD, f"{old}x/{name}") for _, name in below]
    data = build(inside + outside, Shape(shape.wide, shape.order, shape.cpu, padding=1024))
    edit = relocate_macho(data, PrefixMap.of({old: new}))
    assert edit.refused == ()
    assert edit.changed == bool(below and old != new)
    with tempfile.TemporaryDirectory() as folder:
        read = [path for _, path in paths_in(edit.data, Path(folder))]
    assert read == [f"{new}/{name}" for _, name in below] + [path for _, path in outside]
    if has_signature(edit.data):
        check_signature(edit.data)
    else:
        assert relocate_macho(edit.data, PrefixMap.of({new: old})).data == data or old in new or new in old


@examples(25)
@given(new=paths)
def test_every_slice_that_was_signed_is_signed_again(new: str) -> None:
    edit = relocate_macho(UNIVERSAL, PrefixMap.of({"/opt/made": new}))
    if edit.changed:
        check_signature(slices_of(edit.data)[1])
    else:
        assert any("no room" in reason for reason in edit.refused)
        assert edit.data is UNIVERSAL
