"""YAML is counted while it is made: no document of a stranger becomes more than it should."""

from __future__ import annotations

import tracemalloc

import pytest
import yaml

from oci_binpkg.archive.binary_distribution import Distribution
from oci_binpkg.archive.yaml_events import YamlError, YamlLimits, read_yaml
from oci_binpkg.errors import ContentError
from tests.support.effort import cpu_within

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        "{a: [b, 'on', 1, null, ~, 2020-01-01], c: {d: e}, f: '', g: []}",
        "a: b\nc:\n- d\n- e: f\n  g: |\n    h\n    i\n",
        "a: &x [1, 2]\nb: *x\nc: {d: *x}\n",
        "&t text",
        "[]",
        "",
        "# nothing\n",
        "--- {a: b}\n...\n",
    ],
)
def test_reads_what_the_library_reads(text: str) -> None:
    assert read_yaml(text.encode()) == yaml.load(text, Loader=yaml.BaseLoader)


def test_merges_what_is_not_there_already() -> None:
    text = b"x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: own\n"
    assert read_yaml(text)["z"] == {"a": "own", "b": "2", "c": "4"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x: [" + "a," * 4_000_000 + "a]", "more than 500000 values"),
        ("{" + ",".join(f"{n}: a" for n in range(300_000)) + "}", "more than 500000 values"),
        ("- a\n" * 600_000, "more than 500000 values"),
        (LAUGHS, "more than 500000 values"),
        (MERGES, "comes twice|more than 500000 values"),
        ("x: &x [" + "a," * 1000 + "]\ny: [" + "*x," * 100_000 + "]", "more than 500000 values"),
        ("".join(f"- &a{n} b\n" for n in range(2000)), "more than 1000 anchors"),
        ("[" * 1_000_000, "nest"),
        ("{a: " * 100_000, "nest"),
        ("- " * 100_000, "nest"),
        ("a: &a [*a]", "an alias of nothing that is complete"),
        ("a: *b", "an alias of nothing|undefined alias"),
        ("a: b\na: c", "line 2: the key 'a' comes twice"),
        ("? [a]\n: b", "comes twice or is no text"),
        ("a: b\n--- c", "more than one document"),
        ("a: [b", "."),
        ("\0", "."),
    ],
)
def test_refuses_what_becomes_too_much_in_no_time(text: str, problem: str) -> None:
    with cpu_within(5), pytest.raises(YamlError, match=problem):
        read_yaml(text.encode())
    # measured memory makes it ten times as slow: a fiftieth of the values
    tracemalloc.start()
    with pytest.raises(YamlError, match=problem.replace("500000", "10000")):
        read_yaml(text.encode(), limits=YamlLimits(nodes=10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text) + 4 * 1024**2


def test_limits_are_the_callers() -> None:
    assert read_yaml(b"[a, b]", limits=YamlLimits(nodes=3)) == ["a", "b"]
    with pytest.raises(YamlError, match="more than 2 values"):
        read_yaml(b"[a, b]", limits=YamlLimits(nodes=2))
    with pytest.raises(YamlError, match="not known"):
        read_yaml(b"!!python/object:os.system {}", limits=YamlLimits(tags=False))


def test_a_document_of_a_layer_with_a_hundred_thousand_files_is_read() -> None:
    files = tuple(f"include/c++/bits/header-{number}.h" for number in range(100_000))
    made = Distribution("", "/opt", "/x", "a", {"z" * 32: "/opt/a"}, (), (), files)
    assert Distribution.parse(made.to_bytes(), "doc").relocate_textfiles == files


def test_the_document_of_a_layer_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ContentError, match=r"^doc: not valid YAML: more than 500000 values \(line 1\)"):
        Distribution.parse(b'{"x": [' + b"a," * 600_000 + b"a]}", "doc")
