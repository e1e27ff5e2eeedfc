"""What relocation remarks is counted by kind: one value each, however many files it is about."""

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
    remarks_of,
)

LEFT = "mentions an old prefix, and is not declared to be relocated"
STALE = RelocationFinding(FindingKind.CANNOT_GROW, 7, b"/opt/old/x", b"/opt/old", b"/much/longer", 8)


def lines(report: RelocationReport) -> tuple[str, ...]:
    return tuple(map(str, counted_remarks(report)))


def stale(path: str, offset: int) -> StaleString:
    return StaleString(path, RelocationFinding(FindingKind.CANNOT_GROW, offset, b"/old/x", b"/old", b"/longer", 4))


def test_thousands_of_files_of_one_kind_are_one_line() -> None:
    report = RelocationReport(reported=tuple(Remark(f"data/{number}.bin", LEFT) for number in range(2911)))
    assert lines(report) == (f"2,911 files: {LEFT}",)
    assert len(list(remarks_of(report))) == 2911


def test_reasons_that_differ_in_their_detail_are_one_kind() -> None:
    reason = "compiled Python that mentions an old prefix and was left alone"
    reported = (Remark("a.pyc", f"{reason}: byte 5"), Remark("b.pyc", f"{reason}: byte 17"), Remark("c", LEFT))
    assert lines(RelocationReport(reported=reported)) == (f"2 files: {reason}", f"c: {LEFT}")


def test_strings_of_one_file_and_of_several() -> None:
    kind = "still hold an old path, where the new one does not fit"
    one = RelocationReport(stale=(stale("bin/x", 1), stale("bin/x", 2)))
    assert lines(one) == (f"2 strings of bin/x {kind}",)
    two = RelocationReport(stale=(stale("bin/x", 1), stale("bin/x", 2), stale("bin/y", 1)))
    assert lines(two) == (f"2 files {kind}",)
    alone = RelocationReport(stale=(stale("bin/x", 1),))
    assert lines(alone) == ("bin/x: still holds '/old/x': at most 4 bytes fit there",)
    assert lines(RelocationReport()) == ()


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
