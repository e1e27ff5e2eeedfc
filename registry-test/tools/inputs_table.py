"""Writes the table of bad inputs in README.md from the marks of the tests: `python registry-test/tools/inputs_table.py`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1]
TESTS = HERE.parent / "tests"
README = HERE / "README.md"
BEGIN, END = "<!-- inputs: made by inputs_table.py -->\n", "<!-- end of inputs -->\n"
INPUTS = {
    "B01": "A key twice in one object of a JSON document, at any level, or two that differ in case -> content error.",
    "B02": "NaN, Infinity, 1e400; a size that is `12.0`, true or text -> content error with the place.",
    "B03": "UTF-16, UTF-32, a byte order mark, half surrogates, broken UTF-8 -> content error.",
    "B04": "Nesting of 200,000 levels, a number of 5,000 digits -> one short content error.",
    "B05": "A manifest with `layers` and `manifests`, a `mediaType` that contradicts Content-Type or descriptor -> refused.",
    "B06": "schemaVersion 1, no config, layers null, an unknown type where a manifest is wanted -> content error with the place.",
    "B07": "A digest in upper case, too short, `sha256:../../x`, md5, a megabyte long -> refused before a path or URL is made of it.",
    "B08": "A size below 0, above 2^53, above the limit, not that of the bytes; right size and wrong digest -> content error.",
    "B09": "A manifest above the limit, 100,000 layers, an index nested too deep or in itself -> bounded, content error.",
    "B10": "An index without our platform or with two of it -> an error that lists what there is; attestations are passed over.",
    "B11": "`data` that is not the content, `urls` to a file or an internal address, foreign layers -> ignored, not fetched.",
    "B12": "Annotations with line feeds, escapes, a megabyte, a title like a path -> kept as data, never a path, printed harmless.",
    "B13": "Another tool's artefact under our tag, config `{}`, layers that are not as many as diff_ids or history -> content error.",
    "B14": "An index or tag that leads to a deleted manifest, another package, another architecture -> passed over with the reason, or an error; never installed.",
    "B15": "An older index in place of a newer one that was seen -> a warning; other content for a known hash -> content error.",
    "B16": "Names that are absolute, with `..`, empty, NUL, too long, not UTF-8 -> the layer is refused, nothing stays.",
    "B17": "Members beside the prefix, such as `pkg-evil/` beside `pkg/` -> the layer is refused.",
    "B18": "A member that would be written through a symbolic link -> the layer is refused; links themselves may point anywhere.",
    "B19": "A hard link to anything but a file before it in the archive, or with data -> the layer is refused.",
    "B20": "Devices, FIFOs, sparse and multi-volume members, unknown types -> the layer is refused.",
    "B21": "setuid, setgid, sticky, modes of 0 or for all -> 0755 or 0644, owned by the caller.",
    "B22": "`security.*`, extended headers that contradict, repeat or are huge -> the layer is refused; unknown keys are ignored.",
    "B23": "A name twice, a file and then a folder, names that the file system takes for one -> the layer is refused.",
    "B24": "Cut anywhere, damaged headers, empty blocks too early or missing, data after the end -> the layer is refused.",
    "B25": "gzip with a wrong checksum, no trailer, anything after its end -> the layer is refused; several members are one layer.",
    "B26": "zstd that is cut, has frames behind it, needs a dictionary or a huge window -> the layer is refused.",
    "B27": "Bombs: bytes, ratio, members, depth -> stopped while streaming, in little memory.",
    "B28": "Sizes that are negative, huge or beyond the end -> the layer is refused at once.",
    "B29": "Whiteouts in a package -> the layer is refused.",
    "B30": "A web page, nothing, xz, bzip2, or zstd where gzip is declared -> refused as what it is.",
    "B31": "Another process exchanges folders for links meanwhile -> nothing is written elsewhere.",
    "B32": "No signature, an unknown, expired, revoked or retired key, a weak hash, two signatures, other bytes -> refused with the reason.",
    "B33": "Text around a clear-signed block, two blocks -> refused, though gpg finds a good signature.",
    "B34": "Lines that one reader takes for a header and another not, escapes, an ordinary message -> refused before gpg sees them.",
    "B35": "A good signature of another package, version or manifest -> refused.",
    "B36": "A signed manifest with other layers, config or index -> refused: all that is installed is named in signed bytes.",
    "B37": "A key beside the packages -> not trusted for that; its fingerprint is shown.",
    "B38": "Huge signatures, many of them, compressed packets, a gpg that hangs -> bounded and refused.",
    "B39": "Broken login files, entries and helpers -> only their own host fails, with file and key and without secrets.",
    "B40": "A credential helper called `../../x` or with blanks and shell characters -> refused.",
    "B41": "References with upper case, `..`, `%2e`, logins, bare IPv6, impossible ports and tags -> usage error, and no request.",
    "B42": "Mistakes in a configuration file -> usage error with file, key and what is allowed, without secrets.",
    "B43": "A cached blob of wrong bytes or size, a link, a folder in its place -> noticed, and mended or named.",
    "B44": "Specs without hash, in a circle, with missing needs, of a newer format; a longer prefix -> refused with the reason.",
    "B45": "Strings without room, damaged ELF and Mach-O, two search paths, CRLF -> moved right, or the package fails and nothing stays.",
    "B46": "Errors of servers with escapes, ten megabytes, wrong shapes -> shown on one line, cut.",
}  # fmt: skip
"""What is sent to us -> what comes of it."""


def tests() -> Iterator[tuple[str, str, Path]]:
    """Yield input, the test's name and its file, for every mark `covers("Bxx")`."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield from ((each, node.name, file) for each in _marks(node) if each.startswith("B"))


def _marks(node: ast.FunctionDef) -> list[str]:
    calls = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
    marks = [mark for mark in calls if ast.unparse(mark.func) == "pytest.mark.covers"]
    return [str(word.value) for mark in marks for word in mark.args if isinstance(word, ast.Constant)]


def table() -> str:
    """Return the table as Markdown."""
    by_input: dict[str, dict[str, list[str]]] = {}
    for each, name, file in tests():
        where = by_input.setdefault(each, {}).setdefault(file.relative_to(TESTS).as_posix(), [])
        where.append(name.removeprefix("test_").removeprefix(f"{each}_"))
    lines = ["| | input -> what comes of it | tests in `tests/` |", "|---|---|---|"]
    for each, text in INPUTS.items():
        files = by_input.get(each, {}).items()
        cell = "; ".join(f"`{names[0]}`{_more(len(names))} in `{file}`" for file, names in sorted(files))
        lines.append(f"| {each} | {text} | {cell} |")
    return "\n".join(lines) + "\n"


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


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
