"""Real programs and libraries of seven architectures: moved, moved back, read by other people's tools, and run."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from oci_binpkg.relocate.elf import relocate_elf, remaining_in_elf
from oci_binpkg.relocate.prefixes import PrefixMap
from tests.support import elf_corpus, golden
from tests.support.elf_corpus import ARCHITECTURES, CorpusError, Sample, native_architecture
from tests.support.real.components import RealParts, cache_directory, command_path

pytestmark = pytest.mark.real

OLD = "/opt/planted/tree"
SHORTER, SAME, LONGER = "/srv/t", "/srv/planted/tree", "/srv/much/longer/planted/tree/of/some/depth"
SMALLEST_CORPUS = 60


@pytest.fixture(scope="session")
def corpus(parts: RealParts, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    parts.require("debian-packages", "patchelf", "binutils")
    directory = tmp_path_factory.mktemp("corpus")
    try:
        samples = elf_corpus.elf_corpus(cache_directory() / "elf", directory / "debian")
    except CorpusError as error:
        parts.give_up("debian-packages", str(error))
    # Debian's are stripped; Spack's are not
    store = golden.unpack_store(directory)
    return samples + [Sample("amd64", path) for path in sorted(store.rglob("*")) if is_elf(path)]


def is_elf(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF"


@pytest.fixture
def of(request: pytest.FixtureRequest, corpus: list[Sample]) -> list[Sample]:
    """The samples of one architecture."""
    return [sample for sample in corpus if sample.architecture == request.param]


each_architecture = pytest.mark.parametrize("of", ARCHITECTURES, indirect=True)


def tool(name: str, *arguments: str | Path) -> str:
    argv = [command_path(name), *map(str, arguments)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return done.stdout.rstrip("\n")


def complaints(path: Path) -> str:
    """What readelf warns of when it reads headers, dynamic section, symbols and versions."""
    argv = [command_path("readelf"), "-hlSdVsW", str(path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stderr.replace(str(path), "")


def dynamic_symbols(path: Path) -> list[str]:
    """What others see of a library: names and versions, without the addresses of sections that may move."""
    lines = tool("readelf", "--dyn-syms", "-W", path).splitlines()
    return [re.sub(r"^\s*\d+: \S+", "", line) for line in lines]


def relocated(data: bytes, old: str, new: str) -> bytes:
    mapping = PrefixMap.of({old: new})
    edited = relocate_elf(data, mapping)
    assert not edited.stale
    result = edited.apply(data)
    assert list(remaining_in_elf(result, mapping)) == []
    return result


def has_dynamic_section(path: Path) -> bool:
    return "There is no dynamic section" not in tool("readelf", "-d", path)


def plant(sample: Sample, directory: Path, *, force_rpath: bool) -> Path | None:
    """A copy with a search path of ours, made by patchelf; None for what has no dynamic section."""
    if not has_dynamic_section(sample.path):
        return None
    copy = directory / sample.path.name
    shutil.copyfile(sample.path, copy)
    kind = ["--force-rpath"] if force_rpath else []
    tool("patchelf", *kind, "--set-rpath", f"{OLD}/lib:$ORIGIN/../lib:{OLD}:/usr/lib", copy)
    return copy


def test_the_corpus_is_wide_enough(corpus: list[Sample]) -> None:
    headers = [tool("readelf", "-h", sample.path) for sample in corpus]

    assert len(corpus) >= SMALLEST_CORPUS
    assert {sample.architecture for sample in corpus} == set(ARCHITECTURES)
    for wanted in (
        "ELF32",
        "ELF64",
        "big endian",
        "little endian",
        "(Executable file)",
        "Position-Independent",
        "Shared",
    ):
        assert any(wanted in header for header in headers), wanted
    assert any(not has_dynamic_section(sample.path) for sample in corpus)
    assert any(".symtab" in tool("readelf", "-SW", sample.path) for sample in corpus)


@each_architecture
def test_there_and_back_with_constants_of_all_kinds(of: list[Sample]) -> None:
    """/usr and /lib stand in most programs, in constants and as the interpreter."""
    there = PrefixMap.of({"/usr": "/xqz", "/lib": "/xib"})
    back = PrefixMap.of({"/xqz": "/usr", "/xib": "/lib"})
    changed = 0
    for sample in of:
        data = sample.path.read_bytes()
        edited = relocate_elf(data, there)
        moved = edited.apply(data)
        assert len(moved) == len(data), sample
        assert list(remaining_in_elf(moved, there)) == [], sample
        assert relocate_elf(moved, back).apply(moved) == data, sample
        changed += bool(edited)
    assert changed > len(of) // 2


@each_architecture
@pytest.mark.parametrize("force_rpath", [True, False], ids=["rpath", "runpath"])
@pytest.mark.parametrize("new", [SHORTER, SAME, LONGER], ids=["shorter", "same", "longer"])
def test_search_paths(of: list[Sample], force_rpath: bool, new: str, tmp_path: Path) -> None:
    planted = 0
    for sample in of:
        original = plant(sample, tmp_path, force_rpath=force_rpath)
        if original is None:
            continue
        planted += 1
        data = original.read_bytes()
        moved = tmp_path / "moved"
        moved.write_bytes(relocated(data, OLD, new))

        expected = f"{new}/lib:$ORIGIN/../lib:{new}:/usr/lib"
        assert tool("patchelf", "--print-rpath", moved) == expected, sample
        tag = "RPATH" if force_rpath else "RUNPATH"
        assert re.search(rf"\({tag}\) .*\[{re.escape(expected)}\]", tool("readelf", "-dW", moved)), sample
        assert tool("patchelf", "--print-needed", moved) == tool("patchelf", "--print-needed", original), sample
        assert dynamic_symbols(moved) == dynamic_symbols(original), sample
        assert complaints(moved) == complaints(original), sample
        assert OLD.encode() not in moved.read_bytes(), sample
        assert relocated(moved.read_bytes(), new, OLD)[: len(data)] == data or new == LONGER, sample
        assert new == LONGER or moved.stat().st_size == len(data), sample
    assert planted > len(of) // 2


@each_architecture
def test_the_interpreter_grows(of: list[Sample], tmp_path: Path) -> None:
    grown = 0
    for sample in of:
        headers = tool("readelf", "-lW", sample.path)
        found = re.search(r"Requesting program interpreter: (/lib\S*/)(\S+)\]", headers)
        if not found:
            continue
        data = sample.path.read_bytes()
        moved = tmp_path / "moved"
        moved.write_bytes(relocate_elf(data, PrefixMap.of({found[1].rstrip("/"): LONGER})).apply(data))

        assert tool("patchelf", "--print-interpreter", moved) == f"{LONGER}/{found[2]}", sample
        assert f"interpreter: {LONGER}/{found[2]}]" in tool("readelf", "-lW", moved), sample
        assert complaints(moved) == complaints(sample.path), sample
        assert dynamic_symbols(moved) == dynamic_symbols(sample.path), sample
        grown += 1
    assert grown


def without_spare_header(data: bytes) -> bytes:
    """The program as older compilers would have made it: nothing says the note's content twice (64-bit, little-endian)."""
    changed = bytearray(data)
    (start,) = struct.unpack_from("<Q", changed, 32)
    (count,) = struct.unpack_from("<H", changed, 56)
    for at in range(start, start + 56 * count, 56):
        if struct.unpack_from("<I", changed, at)[0] == 0x6474E553:  # PT_GNU_PROPERTY
            struct.pack_into("<I", changed, at, 0x60001234)
    return bytes(changed)


RUNS = {
    "hello": (["--greeting=moved"], "moved\n"),
    "dash": (["-c", "echo $((6 * 7))"], "42\n"),
    "patchelf": (["--version"], "patchelf"),
    "bunzip2": (["--help"], ""),
    "python3.11": (["-c", "print(6 * 7)"], "42\n"),
}


@pytest.mark.parametrize("spare", [True, False], ids=["spare header", "moved headers"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the headers are changed by hand for x86_64")
def test_programs_run_with_a_longer_interpreter_and_search_path(
    corpus: list[Sample], spare: bool, tmp_path: Path
) -> None:
    """A copy of this machine's loader at a long path proves that the new interpreter is the one that is used."""
    assert native_architecture() == "amd64"
    place = tmp_path / "a-directory-with-a-name-that-is-long" / "lib64"
    place.mkdir(parents=True)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", place)
    ran = set()
    for sample in corpus:
        if sample.architecture != "amd64" or sample.path.name not in RUNS:
            continue
        original = plant(sample, tmp_path, force_rpath=False)
        assert original is not None
        data = original.read_bytes() if spare else without_spare_header(original.read_bytes())
        moved = tmp_path / "moved"
        moved.write_bytes(relocate_elf(data, PrefixMap.of({"/lib64": str(place), OLD: LONGER})).apply(data))
        moved.chmod(0o755)

        arguments, expected = RUNS[sample.path.name]
        done = subprocess.run([moved, *arguments], check=False, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout[: len(expected)]) == (0, expected), (sample, done)
        listed = subprocess.run(
            [moved], env={"LD_TRACE_LOADED_OBJECTS": "1"}, check=True, capture_output=True, text=True
        )
        assert str(place) in listed.stdout, sample
        ran.add(sample.path.name)
    assert ran == set(RUNS)


EMULATORS = {
    "amd64": "qemu-x86_64",
    "arm64": "qemu-aarch64",
    "armhf": "qemu-arm",
    "i386": "qemu-i386",
    "mips64el": "qemu-mips64el",
    "ppc64el": "qemu-ppc64le",
    "s390x": "qemu-s390x",
}


@each_architecture
def test_foreign_loaders_find_libraries_by_a_longer_path(of: list[Sample], parts: RealParts, tmp_path: Path) -> None:
    """musl's loader, emulated, lists what a library needs; one is only to be found by the path that grew."""
    parts.require("qemu-user")
    by_name = {sample.path.name: sample for sample in of}
    place = tmp_path / "a-directory-with-a-name-that-is-long" / "lib"
    place.mkdir(parents=True)
    shutil.copy(by_name["libffi.so.8.1.2"].path, place / "libffi.so.8")
    library = plant(by_name["libz.so.1.2.13"], tmp_path, force_rpath=False)
    assert library is not None
    tool("patchelf", "--add-needed", "libffi.so.8", library)
    moved = tmp_path / "moved.so"
    moved.write_bytes(relocated(library.read_bytes(), OLD, str(place.parent)))

    def listed(path: Path) -> str:
        argv = [command_path(EMULATORS[of[0].architecture]), str(by_name["libc.so"].path), "--list", str(path)]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60).stdout

    assert "libffi.so.8 =>" not in listed(library)
    assert f"libffi.so.8 => {place}/libffi.so.8" in listed(moved)
