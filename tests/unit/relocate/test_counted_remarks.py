"""Remarks on many files become one for each kind."""

from __future__ import annotations

import pytest

from oci_binpkg.relocate.edits import (
    CountedRemark,
    FindingKind,
    RelocationFinding,
    RelocationReport,
    Remark,
    StaleString,
    counted_remarks,
)

STALE = RelocationFinding(FindingKind.CANNOT_GROW, 7, b"/opt/old/x", b"/opt/old", b"/much/longer", 8)


@pytest.mark.parametrize("count", [2, 5, 6, 1234])
def test_many_files_of_a_kind_are_counted_and_the_first_are_named(count: int) -> None:
    paths = [f"share/{number:04}" for number in range(count)]
    report = RelocationReport(reported=tuple(Remark(path, "does x: because", "do x") for path in paths))

    (found,) = counted_remarks(report)

    assert found.to_json() == {"kind": "do x", "count": count, "files": paths[:5]}
    assert str(found) == f"{count:,} files do x"


def test_one_file_is_said_with_its_reason() -> None:
    (found,) = counted_remarks(RelocationReport(reported=(Remark("bin/x", "is odd: it is 7"),)))

    assert (str(found), found.to_json()) == (
        "bin/x: is odd: it is 7",
        {"kind": "is odd", "count": 1, "files": ["bin/x"]},
    )


def test_strings_of_one_file_count_each_and_name_it_once() -> None:
    (found,) = counted_remarks(RelocationReport(stale=(StaleString("bin/x", STALE), StaleString("bin/x", STALE))))

    assert (found.count, found.files) == (2, ("bin/x",))
    assert str(found).startswith("2 strings of bin/x still hold an old path")


def test_a_package_as_a_whole_names_no_file() -> None:
    assert CountedRemark.of_package("is old").to_json() == {"kind": "is old", "count": 1, "files": []}
