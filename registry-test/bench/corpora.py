"""What the benchmarks pack: real packages, one large one, many small ones.

All of it is Debian's. A corpus is made once in a folder and taken from there the next time.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.real.components import cache_directory, command_path
from tests.support.real.debian_packages import build_corpus, fetch

CLOSURE: Final = 150
SMALL: Final = 2_000
FILES_OF_A_SMALL_ONE: Final = 8
LARGEST_SMALL_FILE: Final = 64 * 1024
ONE_LARGE: Final = (
    *("clang-14", "clang-tidy-14", "clang-tools-14", "clangd-14", "libclang-14-dev", "libclang-common-14-dev"),
    *("libclang-cpp14", "libclang1-14", "liblldb-14", "libllvm14", "libmlir-14", "libmlir-14-dev", "libpolly-14-dev"),
    *("lld-14", "lldb-14", "llvm-14", "llvm-14-dev", "llvm-14-runtime", "llvm-14-tools", "mlir-14-tools"),
    *("openjdk-17-jdk-headless", "openjdk-17-jre-headless"),
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """An install tree at `root` with the prefixes in it; `files` and `size` (bytes) are those of regular files."""

    key: str
    title: str
    root: Path
    prefixes: tuple[Path, ...]
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a corpus as tars, one for each package, and of those compressed by zlib at its level 6."""

    tar: int
    gzip6: int


def closure(folder: Path) -> Corpus:
    """Make about 150 packages that a scientific program needs, each in a prefix of its own."""

    def build(root: Path) -> None:
        build_corpus(CLOSURE, cache=cache_directory() / "packages", directory=root)

    return _made("closure", f"{CLOSURE} Debian packages", folder, build)


def large(folder: Path) -> Corpus:
    """Make one package of more than a gigabyte: LLVM 14 and OpenJDK 17 in one prefix."""

    def build(root: Path) -> None:
        prefix = root / "prefixes" / "toolchain-14"
        prefix.mkdir(parents=True)
        for archive in fetch(ONE_LARGE, cache=cache_directory() / "packages"):
            subprocess.run([command_path("dpkg-deb"), "--extract", str(archive), str(prefix)], check=True)
        _write_packages(root, [prefix])

    return _made("large", "one package (LLVM and a JDK)", folder, build)


def small(folder: Path, source: Corpus) -> Corpus:
    """Make 2,000 packages of a few small files each, all of them files of `source`."""

    def build(root: Path) -> None:
        files = _small_files(source)
        prefixes = []
        for number in range(SMALL):
            prefix = root / "prefixes" / f"small{number:04}-1.0"
            (prefix / "share").mkdir(parents=True)
            for name in range(FILES_OF_A_SMALL_ONE):
                shutil.copyfile(next(files), prefix / "share" / f"file{name}")
            (prefix / "share" / "origin").write_text(f"package {number}\n")
            prefixes.append(prefix)
        _write_packages(root, prefixes)

    return _made("small", f"{SMALL:,} small packages", folder, build)


def sizes_of(corpus: Corpus, folder: Path) -> Sizes:
    """Return the sizes of a corpus; they are computed once and kept in `folder`."""
    kept = folder / f"{corpus.key}.sizes.json"
    if kept.exists():
        return Sizes(**json.loads(kept.read_text()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_tar_sizes, corpus.prefixes))
    sizes = Sizes(sum(tar for tar, _ in found), sum(gzip6 for _, gzip6 in found))
    kept.write_text(json.dumps(asdict(sizes)))
    return sizes


def _tar_sizes(prefix: Path) -> tuple[int, int]:
    argv = [command_path("tar"), "--create", "--file=-", f"--directory={prefix.parent}", prefix.name]
    compressor = zlib.compressobj(6, wbits=31)
    plain = packed = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        while chunk := reading.stdout.read(1 << 20):
            plain += len(chunk)
            packed += len(compressor.compress(chunk))
    return plain, packed + len(compressor.flush())


def _small_files(source: Corpus) -> Iterator[Path]:
    found = [path for path in _regular_files(source.root / "prefixes") if path.stat().st_size < LARGEST_SMALL_FILE]
    while True:
        yield from sorted(found)


def _write_packages(root: Path, prefixes: list[Path]) -> None:
    lines = ["[defaults]", f'arch = {{ platform = "linux", os = "debian", target = "{platform.machine()}" }}', ""]
    for prefix in prefixes:
        name, _, version = prefix.name.rpartition("-")
        facts = {"name": name, "version": version, "prefix": str(prefix)}
        lines += ["[[package]]", *(f"{key} = {json.dumps(value)}" for key, value in facts.items()), ""]
    (root / "packages.toml").write_text("\n".join(lines))


def _made(key: str, title: str, folder: Path, build: Callable[[Path], None]) -> Corpus:
    root = folder / key
    if not (root / "packages.toml").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        build(root)
    files = list(_regular_files(root / "prefixes"))
    size = sum(path.lstat().st_size for path in files)
    return Corpus(key, title, root, tuple(sorted((root / "prefixes").iterdir())), len(files), size)


def _regular_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path
