"""The machine that programs are to run on: its system, its processor, and what that processor can do at least."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_LEVELS: Final = (
    frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
"""What levels 2, 3 and 4 of x86-64 add, in Linux's words (psABI 1.0, table 3.1; LZCNT is called abm)."""

_ELF_MACHINES: Final = {
    2: "sparc",
    3: "i386",
    4: "m68k",
    8: "mips",
    15: "parisc",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    40: "arm",
    42: "sh",
    43: "sparc64",
    50: "ia64",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
    0x9026: "alpha",
}
_BY_BITS: Final = {("s390", 64): "s390x", ("riscv", 64): "riscv64", ("loongarch", 64): "loongarch64"}
_ORDERED: Final = frozenset({("ppc64", True), ("mips", True)})
_ALSO: Final = {"x86_64": frozenset({"i386"}), "aarch64": frozenset({"arm"}), "ppc64": frozenset({"ppc"})}
_SAME: Final = {"amd64": "x86_64", "arm64": "aarch64", "i486": "i386", "i586": "i386", "i686": "i386", "x86": "i386"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A system (`linux`, `darwin`) and an architecture in Linux's words; `level` of x86-64, 0 where not known."""

    system: str
    architecture: str
    level: int = 0

    def runs(self, architecture: str) -> bool:
        """Return whether the processor executes programs of another architecture; its own it does."""
        return architecture == self.architecture or architecture in _ALSO.get(self.architecture, ())

    @property
    def library_folders(self) -> tuple[str, ...]:
        """The subdirectories of `glibc-hwcaps` that count here, the best first."""
        if self.architecture != "x86_64":
            return ()
        return tuple(f"x86-64-v{level}" for level in range(self.level, 1, -1))

    def __str__(self) -> str:
        return f"{self.system} on {self.architecture}" + (f" (level {self.level})" if self.level else "")


def elf_architecture(machine: int, bits: int, *, little_endian: bool) -> str:
    """Return the name of an ELF file's architecture; "" for a processor that runs no programs of a system."""
    name = _ELF_MACHINES.get(machine, "")
    name = _BY_BITS.get((name, bits), name)
    if name == "x86_64" and bits != 64:  # noqa: PLR2004 - the ABI of 32-bit pointers, which few kernels have
        return "x32"
    if name == "mips" and bits == 64:  # noqa: PLR2004
        name = "mips64"
    little = (name.removesuffix("64") if name == "mips64" else name, little_endian) in _ORDERED
    return f"{name}{'el' if name.startswith('mips') else 'le'}" if little else name


def x86_64_level(flags: frozenset[str]) -> int:
    """Return the level of x86-64 of a processor by the flags that Linux lists, 1 to 4."""
    level = 1
    for number, wanted in enumerate(_LEVELS, start=2):
        if not wanted <= flags:
            break
        level = number
    return level


def this_machine() -> Machine:
    """Return the machine that this process runs on; the level is read from /proc/cpuinfo."""
    name = platform.machine().lower()
    architecture = _SAME.get(name, name)
    return Machine(platform.system().lower(), architecture, _level_here() if architecture == "x86_64" else 0)


def _level_here() -> int:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("flags"):
                return x86_64_level(frozenset(line.partition(":")[2].split()))
    return 0
