"""What a package has to be: constraints on one package and, through it, on its dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from oci_binpkg.model.arch import Arch
from oci_binpkg.model.spec import Dependency, Spec, SpecGraph
from oci_binpkg.model.version import VersionSet

_ANY: Final = "*"
_LANGUAGES: Final = frozenset({"c", "cxx", "fortran"})
# What the compilers of Spack before 1.0 are called as packages.
_COMPILER_PACKAGES: Final = {
    "clang": "llvm",
    "oneapi": "intel-oneapi-compilers",
    "intel": "intel-oneapi-compilers-classic",
    "rocmcc": "llvm-amdgpu",
    "arm": "acfl",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A variant or flag list and what it has to hold: `True`, `False`, or texts; `exact` means these and no others."""

    name: str
    value: bool | tuple[str, ...]
    exact: bool = False

    def matches(self, parameters: Mapping[str, object]) -> bool:
        """Return whether a package's parameters have the value."""
        if self.name not in parameters:
            return False
        actual = parameters[self.name]
        if self.value == (_ANY,):
            return True
        if isinstance(self.value, bool) or isinstance(actual, bool):
            wanted = self.value if isinstance(self.value, bool) else ",".join(self.value).lower()
            return isinstance(actual, bool) and wanted in (actual, str(actual).lower())
        held = [str(each) for each in actual] if isinstance(actual, list) else [str(actual)]
        if self.exact and len(held) != len(self.value):
            return False
        if self.name == "patches":
            return all(any(each.startswith(wanted) for each in held) for wanted in self.value)
        return set(self.value) <= set(held) or [",".join(self.value)] == held


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a package has to be. All parts that are given must hold; without any, everything matches.

    `platform`, `os` and `target` each name one or more allowed values; `direct` and `transitive` describe dependencies.
    """

    name: str = ""
    namespace: str = ""
    versions: VersionSet | None = None
    hash: str = ""
    settings: tuple[Setting, ...] = ()
    platform: tuple[str, ...] = ()
    os: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    direct: tuple[Needed, ...] = ()
    transitive: tuple[Needed, ...] = ()

    def matches(self, spec: Spec, graph: SpecGraph) -> bool:
        """Return whether `spec` is such a package; its dependencies are looked up in `graph`."""
        return self.name in ("", _ANY, spec.name) and self.matches_but_name(spec, graph)

    def matches_but_name(self, spec: Spec, graph: SpecGraph) -> bool:
        """Like `matches`, for a package that goes by another name: one that provides a virtual package."""
        return (
            spec.hash.startswith(self.hash)
            and self.namespace in ("", spec.namespace)
            and (self.versions is None or spec.version in self.versions)
            and self._matches_arch(spec.arch)
            and all(setting.matches(spec.parameters) for setting in self.settings)
            and all(needed.is_direct_in(spec, graph) for needed in self.direct)
            and all(needed.is_below(spec, graph) for needed in self.transitive)
        )

    @property
    def is_bare(self) -> bool:
        """Whether only name and hash are given, which a dependency can be compared with even if its node is absent."""
        return self == Constraint(name=self.name, hash=self.hash)

    def _matches_arch(self, arch: Arch) -> bool:
        return (
            (not self.platform or arch.platform in self.platform)
            and (not self.os or arch.os in self.os)
            and (not self.target or any(_is_target(arch, wanted) for wanted in self.target))
        )


@dataclass(frozen=True, slots=True)
class Needed:
    """A required dependency, and the virtual packages it has to provide there."""

    constraint: Constraint
    virtuals: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that its package may have if it goes by its own; none if any will do."""
        name = self.constraint.name
        if name in ("", _ANY):
            return ()
        return (name, _COMPILER_PACKAGES[name]) if name in _COMPILER_PACKAGES else (name,)

    def is_direct_in(self, spec: Spec, graph: SpecGraph) -> bool:
        """Return whether `spec` has it as a dependency of any type, or as its compiler."""
        return self.is_compiler_of(spec) or any(self._is(edge, graph) for edge in spec.dependencies)

    def is_below(self, spec: Spec, graph: SpecGraph) -> bool:
        """Return whether `spec` or anything below it has it as a dependency."""
        return any(self._is(edge, graph) for each in graph.breadth_first(spec, None) for edge in each.dependencies)

    def _is(self, edge: Dependency, graph: SpecGraph) -> bool:
        constraint = self.constraint
        named = not self.names or edge.name in self.names or constraint.name in edge.virtuals
        if not named or not set(self.virtuals) <= set(edge.virtuals):
            return False
        child = graph.get(edge.hash)
        if child is None:
            return constraint.is_bare and edge.hash.startswith(constraint.hash)
        return constraint.matches_but_name(child, graph)

    def is_compiler_of(self, spec: Spec) -> bool:
        """Return whether it is the compiler of a package of Spack before 1.0: one for all languages, and no package."""
        if spec.compiler is None or not set(self.virtuals) <= _LANGUAGES:
            return False
        name, version = spec.compiler
        constraint = self.constraint
        if constraint != Constraint(name=constraint.name, versions=constraint.versions):
            return False
        return constraint.name in (name, _COMPILER_PACKAGES.get(name)) and (
            constraint.versions is None or version in constraint.versions
        )


def _is_target(arch: Arch, wanted: str) -> bool:
    """`x86_64:` is everything of that family, or everything that has the target among its parents."""
    low, colon, _ = wanted.partition(":")
    if arch.target == low or not colon:
        return arch.target == low
    family = Arch("", "", low).go_architecture
    return low in arch.parents or (low in ("x86_64", "aarch64", "ppc64le") and arch.go_architecture == family)
