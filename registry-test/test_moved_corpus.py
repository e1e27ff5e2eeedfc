"""Debian packages, each as if built for its own prefix, installed to a shorter, an equal and a longer root.

A few packages by day; `make corpus` takes more than 300, and breaks 200 of their programs.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_binpkg.runs.elf_facts import MAGIC, ElfFacts
from oci_binpkg.runs.examine import examine
from oci_binpkg.runs.machine import this_machine
from oci_binpkg.runs.view import FolderView
from tests.support.command_line import binpkg
from tests.support.real.components import RealParts, cache_directory
from tests.support.real.debian_packages import CorpusError
from tests.support.real.planted_packages import FOLDER, build_planted, elf_facts, files_below
from tests.support.real.process import short_directory
from tests.support.real.sandbox import endings
from tests.support.real.tree_differences import TreeDifferences

WHOLE = os.environ.get("OCI_BINPKG_CORPUS") == "whole"
SAMPLE = ("coreutils", "lua5.4", "xz-utils")
ALL = (
    *("python3-requests", "python3-yaml", "python3-docutils", "python3-pygments", "python3-lxml", "libwww-perl"),
    *("libmoose-perl", "ruby", "rake", "ruby-nokogiri", "lua5.4", "lua-socket", "lua-lpeg", "ocaml-base"),
    *("ocaml-findlib", "guile-3.0", "guile-json", "emacs-nox", "elpa-magit", "texlive-latex-base", "latexmk"),
    *("qtchooser", "qt5-qmake-bin", "libqt5xml5", "git", "sqlite3", "tcl", "graphviz"),
)
LENGTHS = {"shorter": 20, "equal": 40, "longer": 90}
TO_BREAK = 200 if WHOLE else 25

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(3600 if WHOLE else 300),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the names of loaders and folders are x86_64's"),
]


@dataclass(frozen=True)
class MovedCorpus:
    """The prefixes where they were planted, and where each install has them."""

    old: Path
    cache: str
    names: tuple[str, ...]
    folder: Path

    def root(self, length: str) -> Path:
        """A root of a length; the old one has that of `equal`."""
        return self.folder / length[0].ljust(LENGTHS[length] - len(str(self.folder)) - 1, "x")

    def install(self, length: str) -> dict[Path, Path]:
        """Install all packages, once for all tests; return old and new prefixes."""
        root = self.root(length)
        if not root.exists():
            ended = binpkg("install", *self.names, "--from", self.cache, "--store", root, "--allow-missing")
            assert ended.code == 0, ended.err[-3000:]
        found = {path.name[:-33]: path for path in (root / FOLDER).iterdir()}
        return {old: found[old.name[:-33]] for old in sorted((self.old / FOLDER).iterdir())}


@pytest.fixture(scope="module")
def corpus(parts: RealParts) -> Iterator[MovedCorpus]:
    parts.require("debian-packages", "patchelf", "docker")  # the last stands for root
    with short_directory() as folder:
        old = folder / "o".ljust(LENGTHS["equal"] - len(str(folder)) - 1, "o")
        roots, cache = ALL if WHOLE else SAMPLE, cache_directory() / "packages"
        try:
            made = build_planted(None, cache=cache, directory=old, roots=roots)
        except CorpusError as error:
            parts.give_up("debian-packages", str(error))
        address = f"oci-layout:{folder / 'c'}"
        ended = binpkg("push", address, "--store", old, "--compression", "fast", "--update-index")
        assert ended.code == 0, ended.err[-3000:]
        names = tuple(name.replace("+", "p").replace(".", "-") for name in made.names)
        yield MovedCorpus(old, address, names, folder)


def test_the_corpus_is_wide_enough(corpus: MovedCorpus) -> None:
    kinds = Counter(path.suffix for path in files_below(corpus.old))

    assert len(corpus.names) >= (300 if WHOLE else 20)
    for suffix in (".pm", ".rb", ".pyc", ".go", ".so") if WHOLE else (".so", ".mo"):
        assert kinds[suffix] > 5, (suffix, kinds.most_common(60))


@pytest.mark.parametrize("length", LENGTHS)
def test_no_byte_changes_that_is_not_in_a_path_of_the_tree(corpus: MovedCorpus, length: str) -> None:
    moved = corpus.install(length)
    differences = TreeDifferences(moved)

    found = [each for old, new in moved.items() for each in differences.of_prefix(old, new)]
    assert not found, "\n".join(found[:200])


def programs(prefix: Path) -> Iterator[Path]:
    """What a user could start."""
    for path in files_below(prefix):
        if not path.is_symlink() and path.is_file() and os.access(path, os.X_OK) and ".so" not in path.name:
            with path.open("rb") as file:
                head = file.read(4)
            if head[:2] == b"#!" or head == MAGIC:
                yield path


def test_what_ran_before_runs_after(corpus: MovedCorpus) -> None:
    before = [(prefix, path) for prefix in sorted((corpus.old / FOLDER).iterdir()) for path in programs(prefix)]
    ended = endings([path for _, path in before], "--version")
    ran = Counter(ended)

    assert ran["0"] > len(before) // 4, ran
    for length in LENGTHS:
        moved = corpus.install(length)
        after = [moved[prefix] / path.relative_to(prefix) for prefix, path in before]
        other = endings(after, "--version")
        differ = [n for n, (one, two) in enumerate(zip(ended, other, strict=True)) if one != two]
        # what depends on the time or the load of the machine gets a second try
        again = list(
            zip(
                endings([before[n][1] for n in differ], "--version"),
                endings([after[n] for n in differ], "--version"),
                strict=True,
            )
        )
        assert [(after[n], *pair) for n, pair in zip(differ, again, strict=True) if pair[0] != pair[1]] == []


# whether the findings about programs are true


def loads(program: Path, facts: ElfFacts) -> bool:
    """Whether the kernel takes a program, and its loader finds everything."""
    if not os.path.exists(facts.interpreter):
        return False
    try:
        argv, env = [str(program)], {"LD_TRACE_LOADED_OBJECTS": "1", "PATH": "/usr/bin", "LD_WARN": "1"}
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20, env=env)
    except OSError:
        return False
    return done.returncode == 0 and "not found" not in done.stdout + done.stderr


def stopped(program: Path) -> bool:
    return str(program) in examine(FolderView(), [str(program.parent)], this_machine()).stopped


def test_no_program_that_loads_is_said_to_be_stopped_and_no_other_to_run(corpus: MovedCorpus) -> None:
    prefixes = [str(prefix) for prefix in corpus.install("equal").values()]
    verdict = examine(FolderView(), prefixes, this_machine())
    said, wrong = set(verdict.stopped), []
    count = 0
    for prefix in prefixes:
        for path in programs(Path(prefix)):
            facts = elf_facts(path)
            if facts is not None and facts.interpreter:
                count += 1
                if loads(path, facts) is (str(path) in said):
                    wrong.append(str(path))

    assert count > (300 if WHOLE else 100)
    assert wrong == []


def library_of(program: Path, facts: ElfFacts) -> Path:
    """One library that a program has from the tree."""
    folders = [Path(folder) for folder in facts.runpath or facts.rpath]
    found = [folder / name for name in facts.needed for folder in folders if (folder / name).exists()]
    return found[len(str(program)) % len(found)]


def library_removed(program: Path, facts: ElfFacts) -> list[Path]:
    return [library_of(program, facts).resolve(), library_of(program, facts)]


def link_cut(program: Path, facts: ElfFacts) -> list[Path]:
    return [library_of(program, facts)]


def version_raised(program: Path, _: ElfFacts) -> None:
    data = program.read_bytes()
    program.write_bytes(data.replace(b"\0GLIBC_2.", b"\0GLIBC_9."))


def interpreter_renamed(program: Path, facts: ElfFacts) -> None:
    data, path = program.read_bytes(), os.fsencode(facts.interpreter)
    program.write_bytes(data.replace(path + b"\0", path[:-1] + b"9\0"))


def other_machine(program: Path, _: ElfFacts) -> None:
    data = bytearray(program.read_bytes())
    data[18:20] = b"\xb7\0"
    program.write_bytes(data)


Break = Callable[[Path, ElfFacts], list[Path] | None]
BREAKS: tuple[Break, ...] = (library_removed, link_cut, version_raised, interpreter_renamed, other_machine)


def test_programs_with_one_thing_broken_are_found(corpus: MovedCorpus) -> None:
    """Where a program still loads, because the system has that library too, nothing must be said."""
    candidates = []
    for prefix in corpus.install("equal").values():
        for path in programs(prefix):
            facts = elf_facts(path)
            if facts and facts.interpreter and facts.needed and path.stat().st_nlink == 1 and loads(path, facts):
                candidates.append((path, facts))
    broken, wrong = Counter[str](), []
    for number in range(20 * TO_BREAK):
        if broken.total() >= TO_BREAK:
            break
        path, facts = candidates[number % len(candidates)]
        spoil = BREAKS[(number + number // len(candidates)) % len(BREAKS)]
        content, status = path.read_bytes(), path.stat()
        away = [(each, each.with_name(f"{each.name}.away")) for each in dict.fromkeys(spoil(path, facts) or ())]
        for place, kept in away:
            os.rename(place, kept)
        changed = elf_facts(path)
        runs = changed is not None and loads(path, changed)
        broken[spoil.__name__] += not runs
        if stopped(path) is runs:
            wrong.append((str(path), spoil.__name__, runs))
        for place, kept in away:
            os.rename(kept, place)
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert wrong == []
    assert broken.total() >= TO_BREAK
    assert set(broken) == {each.__name__ for each in BREAKS}
