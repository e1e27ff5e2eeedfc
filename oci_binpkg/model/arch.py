"""Architectures: what Spack calls platform, operating system and target, and the name that images have for it.

Source of the target names: archspec. Images use the names of Go's GOARCH (OCI image-spec 1.1, config.md).
"""

from __future__ import annotations

import platform as host
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from oci_binpkg.errors import ContentError
from oci_binpkg.model.content import Platform
from oci_binpkg.model.documents import all_text, list_of, text_of
from oci_binpkg.model.identifiers import check_name

_GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64", "x86": "386"}
"""The families of archspec that images call otherwise."""
_OTHERS: Final = (
    ("amd64", r"amd64|x86_64_v[0-9]+"),
    ("arm64", r"arm64"),
    ("386", r"i[3-6]86"),
    ("riscv64", r"riscv64gc|rv64gc"),
    ("arm", r"arm|armhf|armel|armv[5-7]\w*|armv8l"),
    ("loong64", r"loongarch64|loong64|la[0-9]{3}"),
    ("mips64le", r"mips64el|mips64le|mips64r6el"),
    ("mips64", r"mips64|mips64r6"),
    ("mipsle", r"mipsel|mipsle"),
    ("s390x", r"z1[0-9]|zec12"),
)
"""What kernels, systems and newer Spacks say, and archspec does not know."""
_ARM_LEVEL: Final = re.compile(r"armv([5-7])\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Arch:
    """Platform (`linux`), operating system (`debian12`) and target (`x86_64`, `zen4`); `parents` are the target's."""

    platform: str
    os: str
    target: str
    parents: tuple[str, ...] = ()

    @property
    def go_architecture(self) -> str:
        """The architecture as image manifests name it: `amd64`, `arm64`, others by their own name.

        A target that is not known is what its parents are, if they are known.
        """
        return next(filter(None, map(_go_name, (self.target, *self.parents))), self.target)

    @property
    def go_variant(self) -> str:
        """The variant as image manifests name it: `v5`, `v6` or `v7` of 32-bit ARM if the target says so, else ""."""
        if self.go_architecture != "arm":
            return ""
        levels = (_ARM_LEVEL.fullmatch(name) for name in (self.target, *self.parents))
        return next((f"v{found[1]}" for found in levels if found), "")

    def __str__(self) -> str:
        return f"{self.platform}-{self.os}-{self.target}"


@lru_cache(maxsize=1024)
def _go_name(target: str) -> str:
    """Return the architecture of a target as images name it, "" for one that nobody knows."""
    if target in _GO_NAMES:
        return _GO_NAMES[target]
    for name, pattern in _OTHERS:
        if re.fullmatch(pattern, target, re.ASCII):
            return name
    from archspec.cpu import TARGETS  # noqa: PLC0415 - it takes some 30 ms, and most targets are families

    known = TARGETS.get(target)
    return "" if known is None else str(_GO_NAMES.get(known.family.name, known.family.name))


def parse_arch(arch: object, what: str) -> Arch:
    """Parse a node's `arch`: an object, or text `platform-os-target` in the oldest files. Raises `ContentError`."""
    if isinstance(arch, str):
        platform, _, rest = arch.partition("-")
        system, _, target = rest.rpartition("-")
        return _checked(Arch(platform, system, target), what)
    if not isinstance(arch, dict):
        raise ContentError(f"{what}: an object is expected")
    target, parents = _target(arch.get("target"), f"{what}.target")
    return _checked(Arch(text_of(arch, "platform", what), text_of(arch, "platform_os", what), target, parents), what)


def _checked(arch: Arch, what: str) -> Arch:
    """Return an architecture whose words can be parts of a path."""
    check_name(arch.platform, f"{what}.platform")
    check_name(arch.os, f"{what}.platform_os")
    check_name(arch.target, f"{what}.target")
    for parent in arch.parents:
        check_name(parent, f"{what}.target.parents")
    return arch


def _target(target: object, what: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(target, dict):
        parents = all_text(list_of(target, "parents", what, optional=True), f"{what}.parents")
        return text_of(target, "name", what), parents
    if not isinstance(target, str):
        raise ContentError(f"{what}: text or an object is expected")
    return target, ()


def this_platform() -> Platform:
    """Return the platform of containers on this machine (engines run Linux containers, also on a Mac)."""
    arch = Arch("linux", "", host.machine().lower())
    return Platform("linux", arch.go_architecture, arch.go_variant)
