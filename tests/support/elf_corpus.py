"""Real programs and libraries of several architectures: Debian's, without telling dpkg about foreign architectures.

apt is given a state of its own for those, so nothing of the machine changes. Only the packages are kept between runs; the
lists they were found in, 50 MB, are fetched once and removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.real.components import command_path

ARCHITECTURES = ("amd64", "arm64", "armhf", "i386", "mips64el", "ppc64el", "s390x")
PACKAGES = (
    "bzip2",
    "dash",
    "hello",
    "libacl1",
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "musl",
    "patchelf",
    "zlib1g",
)
NATIVE = ("libc-bin", "python3.11-minimal", "sash")
"""Packages of which one architecture is enough: programs at fixed addresses, linked statically and not."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class CorpusError(RuntimeError):
    """The packages cannot be had here."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One ELF file."""

    architecture: str
    path: Path

    @property
    def name(self) -> str:
        """`s390x:bin/dash`"""
        return f"{self.architecture}:{self.path.name}"


def native_architecture() -> str:
    """The architecture of this machine in Debian's words."""
    argv = [command_path("dpkg"), "--print-architecture"]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def elf_corpus(cache: Path, directory: Path) -> list[Sample]:
    """All ELF files of the packages, unpacked below `directory`. Raises `CorpusError` where they cannot be had."""
    samples = []
    for architecture, archives in _download(cache).items():
        (directory / architecture).mkdir(parents=True)
        for archive in archives:
            argv = [command_path("dpkg-deb"), "--extract", str(archive), str(directory / architecture)]
            subprocess.run(argv, check=True, capture_output=True, timeout=300)
        seen = set()
        for path in sorted((directory / architecture).rglob("*")):
            if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
                samples += [] if path.stat().st_ino in seen else [Sample(architecture, path)]
                seen.add(path.stat().st_ino)
    return samples


def foreign_root(cache: Path, directory: Path, architecture: str, packages: Sequence[str]) -> Path:
    """Packages of another architecture, unpacked over each other as a root. Raises `CorpusError` without them."""
    kept = cache / architecture
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "root.lock").open("w") as lock, tempfile.TemporaryDirectory() as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if len(_kept(cache, architecture)) < len(packages):
            options = _private_apt(Path(name), [architecture])
            _apt([*options, "update"])
            _fetch(kept, [f"{package}:{architecture}" for package in packages], options)
    for archive in _kept(cache, architecture):
        argv = [command_path("dpkg-deb"), "--extract", str(archive), str(directory)]
        subprocess.run(argv, check=True, capture_output=True, timeout=300)
    return directory


def _download(cache: Path) -> dict[str, list[Path]]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "elf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        native = native_architecture()
        wanted = {name: (*PACKAGES, *(NATIVE if name == native else ())) for name in ARCHITECTURES}
        missing = [name for name, packages in wanted.items() if len(_kept(cache, name)) < len(packages)]
        if native in missing:
            _fetch(cache / native, wanted[native], [])
        if foreign := [name for name in missing if name != native]:
            _fetch_foreign(cache, foreign)
        return {name: _kept(cache, name) for name in wanted}


def _kept(cache: Path, architecture: str) -> list[Path]:
    return sorted((cache / architecture).glob("*.deb"))


def _fetch_foreign(cache: Path, architectures: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        options = _private_apt(Path(name), architectures)
        _apt([*options, "update"])
        for architecture in architectures:
            _fetch(cache / architecture, [f"{package}:{architecture}" for package in PACKAGES], options)


def _fetch(directory: Path, packages: Sequence[str], options: Sequence[str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _apt([*options, "download", *packages], directory)


def _private_apt(state: Path, architectures: Sequence[str]) -> list[str]:
    """Options for an apt that knows the distribution's own packages only, and nothing of this machine's."""
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    signed = f" signed-by={_KEYRING}" if _KEYRING.exists() else ""
    sources = state / "sources.list"
    sources.write_text(f"deb [arch={','.join(architectures)}{signed}] {_mirror()} main\n", encoding="utf-8")
    os.chmod(state, 0o755)  # apt's own user reads there
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Acquire::Languages": "none",
        "APT::Architecture": architectures[0],
    }
    listed = [f"APT::Architectures::={architecture}" for architecture in architectures]
    return [part for setting in [*(f"{k}={v}" for k, v in settings.items()), *listed] for part in ("-o", setting)]


def _mirror() -> str:
    """`URL SUITE` of the distribution itself, without its updates, as this machine is configured."""
    form = "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    for line in _apt(["indextargets", "--format", form]).splitlines():
        kind, origin, label, codename, release, component, address = line.split("|")
        if (kind, origin, label, component) == ("Packages", "Debian", "Debian", "main") and codename == release:
            return f"{address} {release}"
    message = "apt knows no Debian mirror here (or was never updated)"
    raise CorpusError(message)


def _apt(arguments: Sequence[str], directory: Path | None = None) -> str:
    argv = [command_path("apt-get"), *arguments]
    done = subprocess.run(
        argv, cwd=directory, check=False, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        message = f"apt-get {arguments[-1]} failed: {done.stderr.strip()[-500:]}"
        raise CorpusError(message)
    return done.stdout
