"""Real packages to pack: Debian's own, each unpacked into a prefix of its own, with a `packages.toml` naming them."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tests.support.real.components import command_path

# Asked for one after the other until the closure is large enough.
ROOTS = ("octave", "gnuplot-nox", "r-base-core", "maxima", "gfortran", "texlive-latex-base", "paraview")
_URI_LINE = re.compile(r"^'[^']+' (\S+_\S+_\S+\.deb) (\d+) ", re.MULTILINE)
_CHUNK_OF_NAMES = 100


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """One package as its control file tells it. `wants` are alternatives lists, names only; `archive` the .deb file."""

    name: str
    version: str
    provides: frozenset[str]
    wants: tuple[tuple[str, ...], ...]
    archive: Path


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder with `packages.toml` and one prefix per package; `names` in dependency order, dependencies first."""

    directory: Path
    names: tuple[str, ...]

    @property
    def packages_toml(self) -> Path:
        return self.directory / "packages.toml"


class CorpusError(RuntimeError):
    """The packages cannot be had here."""


def build_corpus(
    count: int | None,
    *,
    cache: Path,
    directory: Path,
    roots: Sequence[str] = ROOTS,
    folder: str = "prefixes",
    suffix: str = "",
) -> Corpus:
    """`count` packages (None: all) of the closure of `roots`: downloaded into `cache`, unpacked below `directory/folder`.

    Dependencies are restricted to the chosen packages and cycles are cut, so that what is left is a graph in order.
    """
    packages = _in_dependency_order(download(count, cache=cache, roots=roots), first=roots)[:count]
    chosen = {package.name for package in packages}
    position = {package.name: place for place, package in enumerate(packages)}
    providers = _providers(packages)
    blocks = []
    prefixes = [
        directory / folder / f"{_query_name(package.name)}-{_file_version(package.version)}{suffix}"
        for package in packages
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_unpack, (package.archive for package in packages), prefixes))
    for package, prefix in zip(packages, prefixes, strict=True):
        needed = {
            name for name in _needs(package, providers) if name in chosen and position[name] < position[package.name]
        }
        blocks.append(_toml_block(package, prefix, sorted(needed)))
    corpus = Corpus(directory, tuple(package.name for package in packages))
    target = platform.machine()
    head = f'[defaults]\narch = {{ platform = "linux", os = "debian", target = "{target}" }}\n'
    corpus.packages_toml.write_text("\n".join([head, *blocks]), encoding="utf-8")
    return corpus


def download(count: int | None, *, cache: Path, roots: Sequence[str] = ROOTS) -> list[DebianPackage]:
    """At least `count` packages, every one of the closure of as many roots as that takes (None: all of them).

    Kept in `cache` for next time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = _closure(count, roots)
        missing = [file for file in files if not (cache / file).exists()]
        for start in range(0, len(missing), _CHUNK_OF_NAMES):
            _fetch(missing[start : start + _CHUNK_OF_NAMES], cache)
    return [_read_control(cache / file) for file in files]


def fetch(names: Sequence[str], *, cache: Path) -> list[Path]:
    """The archives of exactly these packages, without what they need. Kept in `cache` for next time."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chosen = set(names)
        files = [file for file in _print_uris(names) if file.split("_")[0] in chosen]
        _fetch([file for file in files if not (cache / file).exists()], cache)
    return [cache / file for file in files]


def _closure(count: int | None, roots: Sequence[str]) -> list[str]:
    """File names as apt writes them, `NAME_VERSION_ARCH.deb` with the version's colon escaped."""
    if count is None:
        return _print_uris(roots)
    files: list[str] = []
    for upto in range(1, len(roots) + 1):
        files = _print_uris(roots[:upto])
        if len(files) >= count:
            return files
    message = f"the closure of {', '.join(roots)} has {len(files)} packages, {count} were asked for"
    raise CorpusError(message)


def _print_uris(roots: Sequence[str]) -> list[str]:
    # With an empty status file apt believes that nothing is installed and lists the whole closure; what it has downloaded
    # itself it would leave out.
    state = ["-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::archives=/dev/null/"]
    options = [*state, "--print-uris", "--yes", "--no-install-recommends"]
    done = _apt(*options, "install", *roots)
    if "Unable to locate package" in done.stderr:
        _apt("update")
        done = _apt(*options, "install", *roots)
    if done.returncode != 0:
        message = f"apt-get cannot tell the closure of {', '.join(roots)}: {done.stderr.strip()[-500:]}"
        raise CorpusError(message)
    return [match[1] for match in _URI_LINE.finditer(done.stdout)]


def _fetch(files: Iterable[str], cache: Path) -> None:
    wanted: list[str] = []
    for file in files:
        name, version, _ = file.split("_")
        wanted.append(f"{name}={unquote(version)}")
    if not wanted:
        return
    done = _apt("download", *wanted, cwd=cache)
    if done.returncode != 0:
        message = f"apt-get download failed: {done.stderr.strip()[-500:]}"
        raise CorpusError(message)


def _apt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    # apt's own configuration says how the mirror is reached; the environment is left as it is for that reason.
    argv = [command_path("apt-get"), *arguments]
    return subprocess.run(
        argv, cwd=cwd, check=False, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )


def _read_control(archive: Path) -> DebianPackage:
    fields = ("Package", "Version", "Provides", "Depends", "Pre-Depends")
    argv = [command_path("dpkg-deb"), "--field", str(archive), *fields]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    control = dict(line.split(": ", 1) for line in re.sub(r"\n\s+", " ", text).splitlines() if ": " in line)
    wants = [*_relations(control.get("Pre-Depends", "")), *_relations(control.get("Depends", ""))]
    provides = frozenset(name for group in _relations(control.get("Provides", "")) for name in group)
    return DebianPackage(control["Package"], control["Version"], provides, tuple(wants), archive)


def _relations(field: str) -> list[tuple[str, ...]]:
    """`a (>= 1) | b:any, c` as (("a", "b"), ("c",)): names only."""
    groups = (group.split("|") for group in field.split(",") if group.strip())
    return [tuple(re.split(r"[\s(:\[]", choice.strip(), maxsplit=1)[0] for choice in group) for group in groups]


def _providers(packages: Iterable[DebianPackage]) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in packages:
        for name in package.provides:
            found.setdefault(name, package.name)
    found.update({package.name: package.name for package in packages})
    return found


def _needs(package: DebianPackage, providers: dict[str, str]) -> set[str]:
    """The first alternative that is there, for every relation that has one."""
    chosen = (next((providers[name] for name in group if name in providers), None) for group in package.wants)
    return {name for name in chosen if name is not None and name != package.name}


def _in_dependency_order(packages: list[DebianPackage], *, first: Sequence[str]) -> list[DebianPackage]:
    """Dependencies first, the closures of `first` before the rest; of packages that need one another, the one met first
    comes last.
    """
    by_name = {package.name: package for package in packages}
    providers = _providers(packages)
    order: dict[str, DebianPackage] = {}
    started: set[str] = set()
    for root in (*(name for name in first if name in by_name), *sorted(by_name)):
        stack = [(root, False)]
        while stack:
            name, finished = stack.pop()
            if finished:
                order[name] = by_name[name]
            elif name not in started:
                started.add(name)
                stack.append((name, True))
                stack.extend((need, False) for need in sorted(_needs(by_name[name], providers), reverse=True))
    return list(order.values())


def _unpack(archive: Path, prefix: Path) -> None:
    prefix.mkdir(parents=True)
    argv = [command_path("dpkg-deb"), "--extract", str(archive), str(prefix)]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)


def _query_name(name: str) -> str:
    """A name that queries can hold: `libstdc++6` becomes `libstdcpp6`."""
    return name.replace("+", "p").replace(".", "-")


def _file_version(version: str) -> str:
    return version.replace(":", "_")


def _toml_block(package: DebianPackage, prefix: Path, depends: Sequence[str]) -> str:
    # A JSON string of printable characters is also a TOML basic string.
    entries = {
        "name": _query_name(package.name),
        "version": _file_version(package.version),
        "prefix": str(prefix),
        "depends": [_query_name(name) for name in depends],
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    return "\n".join(["[[package]]", *lines, ""])
