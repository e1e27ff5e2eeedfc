"""Every fault of the list has its test, and the table that people read is made of what the tests say."""

from tools import faults_table


def test_every_fault_has_a_test_that_says_what_comes_of_it():
    said = list(faults_table.tests())
    assert sorted({fault for fault, *_ in said}) == faults_table.FAULTS
    assert [name for _, text, name, _ in said if " -> " not in text] == []


def test_the_table_is_that_of_the_tests():
    text = faults_table.README.read_text(encoding="utf-8")
    assert text == faults_table.with_table(text), "run `python registry-test/tools/faults_table.py`"
