"""Every bad input of the list has its tests, and the table that people read is made of their marks."""

import subprocess
import sys

from tools import inputs_table


def test_every_input_has_a_test_and_says_what_comes_of_it():
    assert list(inputs_table.INPUTS) == [f"B{number:02}" for number in range(1, 47)]
    assert sorted({each for each, *_ in inputs_table.tests()}) == list(inputs_table.INPUTS)
    assert [text for text in inputs_table.INPUTS.values() if " -> " not in text] == []


def test_the_table_is_that_of_the_tests():
    text = inputs_table.README.read_text(encoding="utf-8")
    assert text == inputs_table.with_table(text), "run `python registry-test/tools/inputs_table.py`"


def test_tests_are_found_by_the_id_of_what_they_cover():
    """`pytest -k B45`, wherever the id stands: in the name of a test or in its mark."""
    folder = inputs_table.TESTS / "unit" / "relocate"
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(folder),
        "-k",
        "B45",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    found = subprocess.run(command, check=False, capture_output=True, text=True, cwd=inputs_table.TESTS.parent).stdout
    wanted = {name for each, name, file in inputs_table.tests() if each == "B45" and folder in file.parents}
    assert wanted
    assert {line.partition("::")[2].partition("[")[0] for line in found.splitlines() if "::" in line} == wanted
