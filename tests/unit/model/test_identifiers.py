"""The fields of a spec become paths, tags and text on terminals: what they may hold is looked at once, when it is read."""

from __future__ import annotations

from typing import Any

import pytest

from oci_binpkg.errors import ContentError, QueryError
from oci_binpkg.installs.database import parse_database
from oci_binpkg.model.query import Query
from oci_binpkg.model.spec_document import parse_node
from tests.support.made_layouts import compact, hashed, node

LEADING_OUT = [
    "",
    ".",
    "..",
    "/",
    "/etc",
    "../x",
    "a/b",
    "a/../b",
    ".hidden",
    "a\nb",
    "a\0b",
    "a\x1b[2J",
    "a\u202eb",
    "a b",
    "x" * 256,
]
Json = dict[str, Any]


def arch(**members: Any) -> Json:
    return {"arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"} | members}


def edge(**members: Any) -> Json:
    made = {"name": "lib", "hash": "a" * 32, "parameters": {"deptypes": ["link"], "virtuals": ["libc"]}}
    return {"dependencies": [made | members]}


FIELDS: list[Json] = [
    *({"name": text} for text in LEADING_OUT),
    *({"version": text} for text in LEADING_OUT if text != ".hidden"),
    *({"version": text} for text in ("git./x=1", "git.../x", "git.a//b", "9" * 5000, "git." + "9" * 5000)),
    *({"namespace": text} for text in LEADING_OUT if text),
    *(arch(platform=text) for text in LEADING_OUT),
    *(arch(platform_os=text) for text in LEADING_OUT),
    *(arch(target=text) for text in LEADING_OUT),
    *(arch(target={"name": text, "parents": []}) for text in LEADING_OUT),
    *(arch(target={"name": "zen4", "parents": [text]}) for text in LEADING_OUT),
    *({"arch": f"linux-debian12-{text}"} for text in ("", "..", "/etc", "a\nb")),
    *({"hash": text} for text in ("", "A" * 32, "../x", "a/b", "a" * 65, "a\n")),
    *(edge(name=text) for text in LEADING_OUT),
    *(edge(hash=text) for text in ("", "..", "a/b", "a" * 65)),
    *(edge(parameters={"deptypes": [text], "virtuals": []}) for text in LEADING_OUT),
    *(edge(parameters={"deptypes": ["link"], "virtuals": [text]}) for text in LEADING_OUT),
    *(edge(parameters=value) for value in ({"deptypes": "link"}, {"deptypes": [1]}, [], 7)),  # type: ignore[var-annotated]
    *({"parameters": value} for value in ({"cflags": 5}, {"cflags": "x"}, {"ldlibs": [1]}, {"x": {"a": 1}}, {"x": [[]]})),  # type: ignore[var-annotated]
    *({"parameters": value} for value in ({"x": "a\nb"}, {"x": ["\x1b["]}, {"a\x1b": True}, {"x": 2**64}, {"x": "y" * 70_000})),
    *({"external": {"path": path}} for path in ("relative", "/a/../b", "/a:b", "/a\nb", "//a", "/a/", "/" + "x" * 5000)),
    *({"build_spec": value} for value in ({"name": "..", "hash": "a"}, {"name": "a", "hash": "/"})),
    *({"compiler": {"name": name, "version": "1"}} for name in LEADING_OUT),
    *({"compiler": {"name": "gcc", "version": text}} for text in ("a/b", "..", "1\n", "9" * 5000)),
    *({"annotations": {"compiler": text}} for text in ("..@=1", "gcc@=1\x1b", "/x@=1")),
]  # fmt: skip


@pytest.mark.parametrize("members", FIELDS, ids=lambda members: repr(members)[:60])
def test_a_field_that_could_leave_its_room_is_refused(members: Json) -> None:
    with pytest.raises(ContentError, match="node"):
        parse_node({**node(), **members}, 5, "node")


@pytest.mark.parametrize(
    "members",
    [
        {"version": "git.feature/new=1.2"},
        {"version": "git.0123456789abcdef0123456789abcdef01234567"},
        {"version": "1.0+cu12~rc1"},
        {"version": "2024.06.01_r123-4"},
        {"name": "r-ggplot2", "namespace": "spack_repo.builtin"},
        arch(platform_os="ubuntu22.04", target="x86_64_v3"),
        {"parameters": {"cflags": ["-O2\t-g", "-DX='a b'"], "n": 3, "off": None, "many": ["a", "b", True]}},
        {"external": {"path": "/usr", "module": None}},
        {"compiler": {"name": "intel-oneapi-compilers", "version": "2024.1.0"}},
    ],
    ids=repr,
)
def test_what_real_packages_hold_is_read(members: Json) -> None:
    spec = parse_node(hashed({**node(), **members}), 5, "node")
    assert spec.describe().startswith(f"{spec.name}@")


@pytest.mark.parametrize("text", ["zlib@1:" + "2" * 4400, "zlib@=" + "9" * 5000, "zlib@git." + "1" * 900 + "=1"])
def test_a_query_with_a_version_of_thousands_of_digits_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="characters"):
        Query.parse(text)


def test_a_database_is_read_as_strictly() -> None:
    made = node(**arch(platform=".spack", target="db"))
    data = compact({"database": {"version": "8", "installs": {made["hash"]: {"spec": made, "installed": True}}}})
    with pytest.raises(Exception, match=r"platform: '\.spack' is not allowed"):
        parse_database(data, "index.json")
