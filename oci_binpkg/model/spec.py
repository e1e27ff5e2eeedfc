"""Specs: what an installed package is, as Spack's spec files and databases describe it.

Nodes are kept as they were read and written unchanged, because a package's hash is over
them and because newer writers add members we do not know.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from oci_binpkg.errors import ContentError
from oci_binpkg.model.arch import Arch
from oci_binpkg.model.content import Platform
from oci_binpkg.model.spec_hash import HashState, judge_hash
from oci_binpkg.model.version import Version

__all__ = [
    "Arch",
    "Dependency",
    "Spec",
    "SpecGraph",
]

NEWEST_FORMAT: Final = 5
RUNTIME: Final = ("link", "run")
FLAGS: Final = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")
_BARE_VALUE: Final = re.compile(r"[a-zA-Z0-9,/_.\-\[\]]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dependency:
    """An edge: where it leads, what it is for (`build`, `link`, `run`, `test`), the virtual packages it provides."""

    name: str
    hash: str
    types: tuple[str, ...]
    virtuals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """One installed package. Equal to another if the hash is.

    `compiler` is the compiler's name and version where it is an attribute (formats 1 to 4); `external_path` is empty
    unless the package is external; `build_spec` is name and hash of what a spliced package was built as; `node` is the
    node as read.
    """

    name: str
    version: str
    hash: str
    arch: Arch
    namespace: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dependencies: tuple[Dependency, ...] = ()
    compiler: tuple[str, str] | None = None
    external_path: str = ""
    build_spec: tuple[str, str] | None = None
    node: Mapping[str, Any] = field(default_factory=dict, repr=False)
    format_version: int = NEWEST_FORMAT

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Spec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def is_external(self) -> bool:
        """Whether the package was there before and is not part of the install tree."""
        return bool(self.node.get("external")) or bool(self.external_path)

    @property
    def short(self) -> str:
        """The shortest text that says which package is meant: `greet@2.0/6fytamq`."""
        return f"{self.name}@{self.version}/{self.hash[:7]}"

    @property
    def hash_state(self) -> HashState:
        """Whether the hash is that of the node. Computed anew each time: some 30 microseconds."""
        return judge_hash(self.node, self.format_version)

    def dependencies_of(self, types: Iterable[str]) -> tuple[Dependency, ...]:
        """Return the dependencies that are for at least one of `types`."""
        wanted = set(types)
        return tuple(dependency for dependency in self.dependencies if wanted.intersection(dependency.types))

    def describe(self) -> str:
        """Return Spack's long form: version, flags, variants, then platform, os and target."""
        compiler = f"%{self.compiler[0]}@={self.compiler[1]}" if self.compiler else ""
        flags = "".join(f" {name}={_quoted(' '.join(texts))}" for name, texts in self._flags())
        switches = "".join(
            f"{'+' if value else '~'}{name}" for name, value in self.variants() if isinstance(value, bool)
        )
        gap = " " if flags and switches else ""
        values = [_assignment(name, value) for name, value in self.variants() if not isinstance(value, bool)]
        arch = [f"platform={self.arch.platform}", f"os={self.arch.os}", f"target={self.arch.target}"]
        version = Version.parse(self.version).exact_text
        return " ".join([f"{self.name}@{version}{compiler}{flags}{gap}{switches}", *values, *arch])

    def agrees_with(self, other: Spec) -> bool:
        """Whether both say the same of the package, be it in different formats: name, variants, dependencies, place."""
        return (
            self.hash == other.hash
            and self.describe() == other.describe()
            and self.is_external == other.is_external
            and {(edge.name, edge.hash) for edge in self.dependencies}
            == {(edge.name, edge.hash) for edge in other.dependencies}
        )

    def variants(self) -> list[tuple[str, Any]]:
        """Return the parameters that are variants, not compiler flags, by name."""
        return sorted((name, value) for name, value in self.parameters.items() if name not in FLAGS)

    def _flags(self) -> list[tuple[str, list[str]]]:
        return [(name, texts) for name in FLAGS if (texts := [str(flag) for flag in self.parameters.get(name) or ()])]


def _assignment(name: str, value: object) -> str:
    if not isinstance(value, list):
        return f"{name}={_quoted(str(value))}"
    texts = [str(each)[:7] if name == "patches" else str(each) for each in value]
    return f"{name}:={_quoted(','.join(texts))}"


def _quoted(text: str) -> str:
    if _BARE_VALUE.fullmatch(text):
        return text
    return f"'{text}'" if "'" not in text else '"{}"'.format(text.replace('"', '\\"'))


class SpecGraph(Mapping[str, Spec]):
    """Specs by hash, with the orders in which they are walked. Dependencies may lead to nodes that are not there.

    Such a dependency is left out of every walk; `missing` names it.
    """

    __slots__ = ("_specs",)

    def __init__(self, specs: Iterable[Spec] = ()) -> None:
        self._specs: Mapping[str, Spec] = {spec.hash: spec for spec in specs}

    @classmethod
    def over(cls, specs: Mapping[str, Spec]) -> SpecGraph:
        """Return a graph that looks up specs by hash when it needs them: for more than fit into memory."""
        graph = cls()
        graph._specs = specs
        return graph

    def __getitem__(self, key: str) -> Spec:
        return self._specs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __or__(self, other: SpecGraph) -> SpecGraph:
        """Return the union; where both have a hash, this graph's node."""
        return SpecGraph([*other.values(), *self.values()])

    def children(self, spec: Spec, types: Iterable[str] | None = None) -> list[Spec]:
        """Return the direct dependencies that are present, in the node's own order; `types=None` is all types."""
        edges = spec.dependencies if types is None else spec.dependencies_of(types)
        return [self._specs[edge.hash] for edge in edges if edge.hash in self._specs]

    def missing(
        self, roots: Iterable[Spec] | None = None, types: Iterable[str] | None = None
    ) -> tuple[tuple[Spec, Dependency], ...]:
        """Return dependencies whose node is absent, with their dependents: below `roots`, or in the whole graph."""
        wanted = None if types is None else tuple(types)
        specs = self.values() if roots is None else self._reachable(roots, wanted)
        return tuple(
            (spec, edge)
            for spec in specs
            for edge in (spec.dependencies if wanted is None else spec.dependencies_of(wanted))
            if edge.hash not in self._specs
        )

    def closure(
        self, roots: Iterable[Spec], types: Iterable[str] | None = RUNTIME, externals: bool = False
    ) -> tuple[Spec, ...]:
        """Return `roots` and all they need, dependencies before dependents, roots last; `types=None` is all types.

        The order is the reverse of Spack's topological order, which is breadth first as far as it can be: from the
        roots on, edges by name, a node when the last edge into it has been seen. It is the layer order of Spack's
        images. Raises `ContentError` for a cycle.
        """
        wanted = None if types is None else tuple(types)
        starts = list(dict.fromkeys(self._specs.get(root.hash, root) for root in roots))
        edges = {spec.hash: self._by_name(spec, wanted) for spec in self._reachable(starts, wanted)}
        incoming = Counter(child.hash for children in edges.values() for child in children)
        incoming.update(start.hash for start in starts)
        order: list[Spec] = []
        queue: deque[list[Spec]] = deque([starts])
        while queue:
            for child in queue.popleft():
                incoming[child.hash] -= 1
                if not incoming[child.hash]:
                    order.append(child)
                    queue.append(edges[child.hash])
        if len(order) < len(edges):
            self._refuse_cycle(edges, {spec.hash for spec in order})
        return tuple(spec for spec in reversed(order) if externals or not spec.is_external)

    def breadth_first(self, root: Spec, types: Iterable[str] | None, include_root: bool = True) -> tuple[Spec, ...]:
        """Return what `root` needs, nearest first, in each node's own dependency order, externals included."""
        found = tuple(self._reachable([root], None if types is None else tuple(types)))
        return found if include_root else found[1:]

    def relocation_order(self, spec: Spec) -> tuple[Spec, ...]:
        """Return the packages whose prefixes can stand in the files of `spec`, in the order of `hash_to_prefix`.

        The package itself, what it links to (transitively, breadth first), what it runs (directly); no externals.
        """
        specs = (*self.breadth_first(spec, ("link",)), *self.children(spec, ("run",)))
        return tuple(each for each in dict.fromkeys(specs) if not each.is_external)

    def reachable(self, roots: Iterable[Spec], types: Iterable[str] | None = RUNTIME) -> tuple[Spec, ...]:
        """Return `roots` and all they need, externals left out, nearest first; circles do no harm here."""
        found = self._reachable(roots, None if types is None else tuple(types))
        return tuple(spec for spec in found if not spec.is_external)

    def document_order(self, root: Spec) -> tuple[Spec, ...]:
        """Return the nodes of a spec document: depth first in pre-order, a build spec first, then edges by name."""
        found: dict[str, Spec] = {}
        stack = [root]
        while stack:
            spec = stack.pop()
            if spec.hash not in found:
                found[spec.hash] = spec
                built_as = self._specs.get(spec.build_spec[1]) if spec.build_spec else None
                stack += [*reversed(self._by_name(spec, None)), *([built_as] if built_as else [])]
        return tuple(found.values())

    def _by_name(self, spec: Spec, types: Sequence[str] | None) -> list[Spec]:
        return sorted(self.children(spec, types), key=lambda child: child.name)

    def _reachable(self, roots: Iterable[Spec], types: Sequence[str] | None) -> Iterable[Spec]:
        found = {root.hash: root for root in roots}
        queue = deque(found.values())
        while queue:
            for child in self.children(queue.popleft(), types):
                if child.hash not in found:
                    found[child.hash] = child
                    queue.append(child)
        return found.values()

    def _refuse_cycle(self, edges: Mapping[str, Sequence[Spec]], done: set[str]) -> None:
        """Raise `ContentError` showing one cycle. Every node that is left over has a predecessor that is left over."""
        parents = {child.hash: parent for parent, children in edges.items() if parent not in done for child in children}
        key = next(key for key in edges if key not in done)
        walk: dict[str, None] = {}
        while key not in walk:
            walk[key] = None
            key = parents[key]
        keys = list(walk)
        cycle = [key, *reversed(keys[keys.index(key) :])]
        names = " -> ".join(self._specs[each].short for each in cycle[:20])
        raise ContentError(f"packages depend on each other in a circle: {names}")


def platform_of(spec: Spec) -> Platform:
    """Return the container platform of a package."""
    system = "linux" if spec.arch.platform in ("linux", "cray", "") else spec.arch.platform
    return Platform(system, spec.arch.go_architecture, spec.arch.go_variant)
