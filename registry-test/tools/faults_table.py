"""Writes the table of faults in README.md from the tests' own words: `python registry-test/tools/faults_table.py`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1]
README = HERE / "README.md"
BEGIN, END = "<!-- faults: made by faults_table.py -->\n", "<!-- end of faults -->\n"
FAULTS = [f"F{number:02}" for number in range(1, 47)]


def tests() -> Iterator[tuple[str, str, str, Path]]:
    """Yield fault, what the test says, the test's name and its file."""
    for file in sorted(HERE.glob("test_faults_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            found = re.match(r"test_(F\d\d)_", node.name) if isinstance(node, ast.FunctionDef) else None
            if found and isinstance(node, ast.FunctionDef):
                yield found[1], " ".join((ast.get_docstring(node) or "").split()), node.name, file


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| | fault -> what comes of it | test |", "|---|---|---|"]
    for fault, text, name, file in sorted(tests()):
        short = name.removeprefix(f"test_{fault}_")
        lines.append(f"| {fault} | {text.replace('|', chr(92) + '|')} | `{short}` in `{file.name}` |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the README with the table of now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> int:
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
