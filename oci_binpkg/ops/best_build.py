"""Which of several builds of a package is the best one for a machine.

Source of the processors and of what each can do: archspec, by which Spack names its targets.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from oci_binpkg.errors import Hint, PlatformError, Step
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.spec import Spec

if TYPE_CHECKING:
    from archspec.cpu import Microarchitecture

ANY_ARCH: Final = "any"
_OS_RELEASE: Final = "/etc/os-release"
_MAJOR_ONLY: Final = frozenset({"almalinux", "amzn", "centos", "debian", "ol", "rhel", "rocky", "sles"})
"""Systems that Spack names by the first number of their version."""
_NAMES: Final = {"amzn": "amazonlinux"}


def operating_system(path: str = _OS_RELEASE) -> str:
    """Return this machine's system as Spack names it (`debian12`, `ubuntu22.04`), "" where nothing says."""
    found: dict[str, str] = {}
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.strip().partition("=")
            found[key] = value.strip("\"'")
    name, version = found.get("ID", ""), found.get("VERSION_ID", "")
    version = version.partition(".")[0] if name in _MAJOR_ONLY else version
    return f"{_NAMES.get(name, name)}{version}"


def this_arch() -> Arch:
    """Return the platform, system and processor of this machine, by the names that Spack has for them."""
    from archspec.cpu import host  # noqa: PLC0415 - it takes some 30 ms, and only installs ask

    return Arch(platform.system().lower(), operating_system(), host().name)


@dataclass(frozen=True, slots=True)
class Choice:
    """The build that was taken of several, and why."""

    spec: Spec
    of: int
    why: str

    def __str__(self) -> str:
        arch = f"{self.spec.arch.os}-{self.spec.arch.target}"
        return f"{self.spec.short} ({arch}) is taken of {self.of} builds: {self.why}"


@dataclass
class Builds:
    """Chooses among builds for a machine. `asked` is another architecture that is meant, "any" for all of them."""

    machine: Arch
    asked: str = ""

    @cached_property
    def _wanted(self) -> Arch:
        return replace(self.machine, target=self.asked, os="") if self.asked else self.machine

    def fits(self, arch: Arch) -> bool:
        """Return whether a build is for the machine's platform and family of processors."""
        if self.asked == ANY_ARCH:
            return True
        wanted = self._wanted
        system = "linux" if arch.platform == "cray" else arch.platform
        return system == wanted.platform and _family(arch) == _family(wanted)

    def runs(self, arch: Arch) -> bool:
        """Return whether the processor can do all that the build's target can; unknown targets are believed."""
        built, here = _known(arch.target), _known(self._wanted.target)
        return built is None or here is None or built <= here

    def check(self, specs: Sequence[Spec]) -> None:
        """Raise `PlatformError` for the first package that is for another architecture."""
        for spec in specs:
            if not self.fits(spec.arch):
                raise PlatformError(
                    f"{spec.short} is for {spec.arch.platform} on {spec.arch.target}; "
                    f"this machine is {self._wanted.platform} on {self._wanted.target}",
                    hint=Hint(Step.ASK_FOR_ARCH, arch=spec.arch.target),
                )

    def best(self, found: Sequence[Spec]) -> tuple[Sequence[Spec], Choice | None]:
        """Return those that may be meant: one, with the reason, if they are builds of the same package.

        Raises `PlatformError` if all are for other architectures.
        """
        fitting = [spec for spec in found if self.fits(spec.arch)]
        if not fitting:
            self.check(found)
        if len(fitting) == 1 < len(found):
            return fitting, Choice(fitting[0], len(found), f"it alone is for {self._wanted.platform} on this processor")
        first = fitting[0]
        if any(not _same_but_arch(first, other) for other in fitting[1:]):
            return fitting, None
        ranks = {spec.hash: self._rank(spec.arch) for spec in fitting}
        top = max(ranks.values())
        best = [spec for spec in fitting if ranks[spec.hash] == top]
        if len(best) > 1:
            return best, None
        return best, Choice(best[0], len(found), self._why(best[0].arch))

    def _rank(self, arch: Arch) -> tuple[bool, bool, int]:
        """Return what counts, first things first: it runs, on this system, and uses most of the processor."""
        known = _known(arch.target)
        level = len(known.ancestors) if known is not None else 0
        runs = self.runs(arch)
        # of builds that ask for too much, the one that asks for least
        return runs, arch.os == self.machine.os, level if runs else -level

    def _why(self, arch: Arch) -> str:
        target = f"{arch.target} is the best of them for {self._wanted.target}"
        if not self.runs(arch):
            return f"none is for a processor as old as {self._wanted.target}"
        return target if not self.machine.os or arch.os != self.machine.os else f"{target}, on {arch.os}"


def _known(target: str) -> Microarchitecture | None:
    from archspec.cpu import TARGETS  # noqa: PLC0415 - as above

    found: Microarchitecture | None = TARGETS.get(target)
    return found


def _family(arch: Arch) -> str:
    """Return the family of a target in the words of images; that of its parents for one that nobody knows."""
    return arch.go_architecture


def _same_but_arch(one: Spec, other: Spec) -> bool:
    mine, theirs = ((each.name, each.version, each.namespace, dict(each.parameters)) for each in (one, other))
    return mine == theirs
