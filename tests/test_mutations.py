"""The behaviours that `make mutations` takes out are still where it looks for them."""

from tools import mutations


def test_every_mutation_can_be_applied():
    texts = [(one, (mutations.ROOT / one.file).read_text(encoding="utf-8")) for one in mutations.MUTATIONS]
    assert [one.fault for one, text in texts if text.count(one.old) != 1] == []


def test_a_run_that_fails_or_runs_nothing_proves_nothing():
    assert mutations.Counts.of("...\n3 passed, 2 deselected in 0.1s").wrong == ""
    assert mutations.Counts.of("1 failed, 3 passed in 0.1s").wrong == "1 of its tests fail with nothing taken out"
    assert mutations.Counts.of("3 passed, 2 errors in 0.1s").wrong == "2 of its tests fail with nothing taken out"
    assert "none of its tests ran" in mutations.Counts.of("12 deselected in 0.1s").wrong
    assert mutations.Counts(reason="its tests did not end").wrong == "its tests did not end"
