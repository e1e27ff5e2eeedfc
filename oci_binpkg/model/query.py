"""Queries: which of many packages is meant. The language is the part of Spack's that describes what is installed.

    greet@1.2:1.4 +shared ~docs api=v2 cflags="-O2 -g" os=debian12 target=x86_64 %gcc@12 ^zlib@1.3 /6fyt

`%` describes a direct dependency, for packages of Spack before 1.0 also the compiler; `^` any dependency. What stands
behind `%` or `^` is about that dependency. Names of virtual packages (`^mpi`, `%c=gcc`) stand for what provides them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from oci_binpkg.errors import AmbiguousQueryError, Hint, NoMatchError, Step
from oci_binpkg.model.constraint import Constraint
from oci_binpkg.model.query_syntax import parse_constraint
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.version import Version

_Item = TypeVar("_Item")
_SHOWN: Final = 12
_SHORTEST_PIN: Final = 7


@dataclass(frozen=True, slots=True)
class Query:
    """A query as written, and what it asks for."""

    text: str
    constraint: Constraint

    @classmethod
    def parse(cls, text: str) -> Query:
        """Parse a query about one package. Raises `QueryError` showing the place and what was expected there."""
        return cls(text.strip(), parse_constraint(text))

    def matches(self, spec: Spec, graph: SpecGraph) -> bool:
        """Return whether `spec` is such a package; its dependencies are looked up in `graph`."""
        return self.constraint.matches(spec, graph)

    def __str__(self) -> str:
        return self.text


def select(query: Query, candidates: Iterable[Spec], graph: SpecGraph) -> list[Spec]:
    """Return the candidates that match, each once, by name, version and hash."""
    found = dict.fromkeys(spec for spec in candidates if query.matches(spec, graph))
    return ordered(found, lambda spec: spec)


def one(
    query: Query, candidates: Iterable[Spec], graph: SpecGraph, names: Callable[[], Collection[str]] | None = None
) -> Spec:
    """Return the only candidate that matches.

    `names` gets the names of all packages there are, where only those that may match are candidates. Raises
    `NoMatchError` with what is there under that name or a near one, `AmbiguousQueryError` with the candidates, how they
    differ, and how to write each of them.
    """
    known = list(candidates)
    found = select(query, known, graph)
    if not found:
        raise _no_match(query, known, sorted(names() if names else {spec.name for spec in known}))
    if len(found) > 1:
        raise _ambiguous(query, found, graph)
    return found[0]


def ordered(items: Iterable[_Item], spec_of: Callable[[_Item], Spec]) -> list[_Item]:
    """Return items in the order in which packages are listed: by name, version (1.2 before 1.10) and hash."""
    pairs = [(spec_of(item), item) for item in items]
    versions = {text: Version.parse(text) for text in {spec.version for spec, _ in pairs}}
    pairs.sort(key=lambda pair: (pair[0].name, versions[pair[0].version], pair[0].hash))
    return [item for _, item in pairs]


def _no_match(query: Query, known: Sequence[Spec], names: Sequence[str]) -> NoMatchError:
    name = query.constraint.name
    same_name = ordered({spec for spec in known if spec.name == name}, lambda spec: spec)
    if same_name:
        return NoMatchError(f"no {name} here matches {query.text!r}", hint=f"there is {_listed(same_name)}")
    if not names:
        return NoMatchError(f"nothing matches {query.text!r}: there are no packages here")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [each for each in names if name and each not in near and (name in each or each in name)][:3]
    return NoMatchError(
        f"no package here matches {query.text!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else Hint(Step.LIST_PACKAGES),
    )


def _listed(specs: Sequence[Spec]) -> str:
    more = f" and {len(specs) - _SHOWN} more" if len(specs) > _SHOWN else ""
    return ", ".join(spec.short for spec in specs[:_SHOWN]) + more


def _ambiguous(query: Query, found: Sequence[Spec], graph: SpecGraph) -> AmbiguousQueryError:
    facts = [_facts(spec, graph) for spec in found]
    shared = set.intersection(*(set(each) for each in facts))
    length = _pin_length(found)
    lines = [
        " ".join(
            [f"/{spec.hash[:length]}", f"{spec.name}@{spec.version}", *(fact for fact in each if fact not in shared)]
        )
        for spec, each in zip(found, facts, strict=True)
    ]
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return AmbiguousQueryError(
        f"{query.text!r} matches {len(found)} packages:",
        details=lines[:_SHOWN] + more,
        hint=f"name the one you mean by its hash, as in {found[-1].name}/{found[-1].hash[:length]}",
    )


def _facts(spec: Spec, graph: SpecGraph) -> list[str]:
    """Return what distinguishes a package from others of its name, in the query language."""
    switches = [f"{'+' if value else '~'}{name}" for name, value in spec.variants() if isinstance(value, bool)]
    values = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in spec.variants()
        if not isinstance(value, bool)
    ]
    arch = [f"os={spec.arch.os}", f"target={spec.arch.target}"]
    compiler = [f"%{spec.compiler[0]}@{spec.compiler[1]}"] if spec.compiler else []
    below = [f"^{child.name}@{child.version}" for child in graph.children(spec)]
    return [*switches, *values, *arch, *compiler, *below]


def _pin_length(specs: Sequence[Spec]) -> int:
    """Return how many characters of their hashes distinguish the packages, seven at least."""
    longest = max(len(spec.hash) for spec in specs)
    return next(
        (n for n in range(_SHORTEST_PIN, longest) if len({spec.hash[:n] for spec in specs}) == len(specs)), longest
    )
