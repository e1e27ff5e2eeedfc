"""The document `binary_distribution` is what a YAML library would write, for whatever names files have."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from oci_binpkg.archive.binary_distribution import Distribution, Relocations

names = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),  # type: ignore[arg-type]
    st.text("abyen/._+-0123456789xob~:# ", max_size=12),
    st.sampled_from(["yes", "No", "on", "NULL", "~", "y", "0x1f", "1e3", "1_000", "=", "<<", "2026-01-01", "a" * 300]),
    st.builds("/{}".format, st.text("ab-_. /", max_size=150)),
)
hashes = st.one_of(st.text("abcdefgx234567", min_size=32, max_size=32), names)


@example({"2" * 32: "\x85"}, [], "")  # a line break below a key that is quoted
@given(st.dictionaries(hashes, names, max_size=4), st.lists(names, max_size=6), names)
def test_the_document_is_the_librarys(prefixes: Mapping[str, str], files: list[str], root: str) -> None:
    distribution = Distribution(root, root, root, root, prefixes)
    document = distribution.header | {"relocate_binaries": [*files], "relocate_links": [], "relocate_textfiles": files}

    written = distribution.to_bytes(Relocations(tuple(files), (), tuple(files)))

    options = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": float("inf")}
    assert written == yaml.dump(document, Dumper=yaml.SafeDumper, **options).encode()  # type: ignore[call-overload]
