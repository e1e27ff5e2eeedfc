"""What relocation remarks is counted by kind: one line each, however many files it is about."""

from __future__ import annotations

from oci_binpkg.relocate.edits import (
    FindingKind,
    RelocationFinding,
    RelocationReport,
    Remark,
    StaleString,
    counted_remarks,
    remarks_of,
)

LEFT = "mentions an old prefix, and is not declared to be relocated"


def stale(path: str, offset: int) -> StaleString:
    return StaleString(path, RelocationFinding(FindingKind.CANNOT_GROW, offset, b"/old/x", b"/old", b"/longer", 4))


def test_thousands_of_files_of_one_kind_are_one_line() -> None:
    report = RelocationReport(reported=tuple(Remark(f"data/{number}.bin", LEFT) for number in range(2911)))
    assert counted_remarks(report) == (f"2,911 files: {LEFT}",)
    assert len(list(remarks_of(report))) == 2911


def test_reasons_that_differ_in_their_detail_are_one_kind() -> None:
    reason = "compiled Python that mentions an old prefix and was left alone"
    reported = (Remark("a.pyc", f"{reason}: byte 5"), Remark("b.pyc", f"{reason}: byte 17"), Remark("c", LEFT))
    assert counted_remarks(RelocationReport(reported=reported)) == (f"2 files: {reason}", f"c: {LEFT}")


def test_strings_of_one_file_and_of_several() -> None:
    kind = "still hold an old path, where the new one does not fit"
    one = RelocationReport(stale=(stale("bin/x", 1), stale("bin/x", 2)))
    assert counted_remarks(one) == (f"2 strings of bin/x {kind}",)
    two = RelocationReport(stale=(stale("bin/x", 1), stale("bin/x", 2), stale("bin/y", 1)))
    assert counted_remarks(two) == (f"2 files {kind}",)
    alone = RelocationReport(stale=(stale("bin/x", 1),))
    assert counted_remarks(alone) == ("bin/x: still holds '/old/x': at most 4 bytes fit there",)
    assert counted_remarks(RelocationReport()) == ()
