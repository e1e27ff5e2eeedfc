"""Queries: which of many packages is meant. The language is the part of Spack's that describes what is installed.

    greet@1.2:1.4 +shared ~docs api=v2 cflags="-O2 -g" os=debian12 target=x86_64 %gcc@12 ^zlib@1.3 /6fyt

`%` describes a direct dependency, for packages of Spack before 1.0 also the compiler; `^` any dependency. What stands
behind `%` or `^` is about that dependency. Names of virtual packages (`^mpi`, `%c=gcc`) stand for what provides them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Never, TypeVar

from oci_binpkg.errors import AmbiguousQueryError, Hint, NoMatchError, QueryError, Step
from oci_binpkg.model.constraint import Constraint, Needed, Setting
from oci_binpkg.model.spec import FLAGS, Spec, SpecGraph
from oci_binpkg.model.version import Version, VersionSet

_ANY: Final = "*"
_WORD: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_NAME: Final = re.compile(rf"(?>\*|{_WORD}(?:\.{_WORD})*)(?!:?=)", re.ASCII)
_BARE_VERSION: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_RANGE: Final = rf"(?:=?{_BARE_VERSION})?:(?:{_BARE_VERSION}(?!\s*=))?|=?{_BARE_VERSION}"
_GIT: Final = rf"(?:git\.[A-Za-z0-9_][A-Za-z0-9_./-]*|[a-fA-F0-9]{{40}})(?:={_BARE_VERSION})?"
_VERSIONS: Final = re.compile(rf"(?:{_GIT}|{_RANGE})(?:\s*,\s*(?:{_GIT}|{_RANGE}))*", re.ASCII)
_SWITCH: Final = re.compile(r"(?P<sign>\+\+?|~~?|--?)\s*(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)", re.ASCII)
_KEY: Final = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?P<exact>:?)==?", re.ASCII)
_VALUE: Final = re.compile(
    r"""(?P<bare>[A-Za-z0-9_\-+*.,:=~/\\]+)|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'""", re.ASCII
)
_HASH: Final = re.compile(r"[a-z2-7]{1,32}(?![A-Za-z0-9_])", re.ASCII)
_PROVIDES: Final = re.compile(rf"(?P<virtuals>{_WORD}(?:,{_WORD})*)=(?={_WORD})", re.ASCII)

MAX_QUERY: Final = 2048
"""A query of this length names every variant of the largest packages; errors quote it as a whole."""


def parse_constraint(text: str) -> Constraint:
    """Parse a query about one package. Raises `QueryError` showing the place and what was expected there."""
    if len(text) > MAX_QUERY:
        raise QueryError(
            f"cannot read this package query: {text[:60]!r}... has {len(text)} characters",
            hint=f"a query has at most {MAX_QUERY} characters",
        )
    return _Parser(text).parse()


class _Parser:
    """Reads a constraint from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Constraint:
        """Read a node, then its dependencies: `^` belongs to the first node, `%` to the last one before it."""
        root = self._node("a package name, @version, +variant, key=value, ^dependency or /hash")
        if root == Constraint() and self._at == len(self._text):
            self._fail("a package name, as in zlib@1.3")
        below: list[Needed] = []
        while self._at < len(self._text):
            sigil = self._text[self._at]
            needed = self._needed()
            if sigil == "^":
                below.append(needed)
            elif below:
                below[-1] = replace(below[-1], constraint=_with_direct(below[-1].constraint, needed))
            else:
                root = _with_direct(root, needed)
        return replace(root, transitive=tuple(below))

    def _needed(self) -> Needed:
        self._at += 2 if self._text.startswith("%%", self._at) else 1
        self._skip_space()
        if self._text.startswith("[", self._at):
            self._fail("a name: properties of dependencies in [brackets] are not understood here")
        provides = _PROVIDES.match(self._text, self._at)
        if provides:
            self._at = provides.end("virtuals") + 1
        start = self._at
        node = self._node("the name of a dependency")
        if node == Constraint():
            self._at = start
            self._fail("the name of a dependency")
        return Needed(node, tuple(provides["virtuals"].split(",")) if provides else ())

    def _node(self, expected: str) -> Constraint:
        self._skip_space()
        spaced = True
        constraint = Constraint()
        if match := _NAME.match(self._text, self._at):
            namespace, _, name = match[0].rpartition(".")
            constraint = Constraint(name=name, namespace=namespace)
            self._at = match.end()
            spaced = self._skip_space()
        while self._at < len(self._text) and self._text[self._at] not in "^%":
            constraint = self._part(constraint, spaced=spaced, expected=expected)
            spaced = self._skip_space()
        return constraint

    def _part(self, constraint: Constraint, *, spaced: bool, expected: str) -> Constraint:
        """Read one part of a node. A key or a `-variant` needs a space before it, since names can hold `-`."""
        character = self._text[self._at]
        if character == "@":
            return self._version(constraint)
        if character == "/":
            return self._hash(constraint)
        if character in "+~" or (character == "-" and spaced):
            return self._switch(constraint)
        if spaced and _KEY.match(self._text, self._at):
            return self._key(constraint)
        if spaced and constraint != Constraint() and _NAME.match(self._text, self._at):
            self._fail("one package per query: put ^ before a dependency")
        more = "@version, +variant, ~variant, key=value, ^dependency or /hash"
        return self._fail(expected if constraint == Constraint() else more)

    def _version(self, constraint: Constraint) -> Constraint:
        if constraint.versions is not None:
            self._fail("only one @version: join several with a comma, as in @1.2,1.4:")
        start = self._at
        self._at += 1
        self._skip_space()
        match = _VERSIONS.match(self._text, self._at)
        if match is None:
            self._fail("a version, as in @1.2, @1.2:1.4 or @=1.2")
        try:
            versions = VersionSet.parse(match[0])
        except QueryError as error:
            self._at = start
            self._fail(f"versions that exist: {error.message}")
        self._at = match.end()
        return replace(constraint, versions=versions)

    def _hash(self, constraint: Constraint) -> Constraint:
        if constraint.hash:
            self._fail("only one /hash")
        self._at += 1
        match = _HASH.match(self._text, self._at)
        if match is None:
            self._fail("the beginning of a hash: up to 32 of a-z and 2-7")
        self._at = match.end()
        return replace(constraint, hash=match[0])

    def _switch(self, constraint: Constraint) -> Constraint:
        match = _SWITCH.match(self._text, self._at)
        if match is None:
            self._at += 1
            self._fail("the name of a variant")
        self._at = match.end()
        return self._with_setting(constraint, Setting(match["name"], match["sign"][0] == "+"), match.start())

    def _key(self, constraint: Constraint) -> Constraint:
        key = _KEY.match(self._text, self._at)
        assert key is not None
        self._at = key.end()
        match = _VALUE.match(self._text, self._at)
        if match is None:
            self._fail(f"a value for {key['name']}, in quotes if it has spaces")
        name, value = key["name"], _unquoted(match)
        start, self._at = self._at, match.end()
        if name in ("os", "platform", "target", "arch", "architecture", "namespace"):
            return self._place(constraint, name, value, start)
        values = value.split() if name in FLAGS else value.split(",")
        return self._with_setting(constraint, Setting(name, tuple(values), bool(key["exact"])), key.start())

    def _place(self, constraint: Constraint, name: str, value: str, start: int) -> Constraint:
        """Read a key that is written like a variant and means something else."""
        if name == "namespace":
            return replace(constraint, namespace=value)
        if name in ("arch", "architecture"):
            platform, _, rest = value.partition("-")
            system, _, target = rest.rpartition("-")
            if not (platform and system and target):
                self._at = start
                self._fail("platform-os-target, as in arch=linux-debian12-x86_64")
            return replace(constraint, platform=_given(platform), os=_given(system), target=_given(target))
        if name == "target" and any(":" in each[:-1] for each in value.split(",")):
            self._at = start
            self._fail("a target, or target: for all that build on it; other ranges of targets are not understood")
        names = tuple(value.split(","))
        if name == "target":
            return replace(constraint, target=names)
        return replace(constraint, os=names) if name == "os" else replace(constraint, platform=names)

    def _with_setting(self, constraint: Constraint, setting: Setting, start: int) -> Constraint:
        known = next((each for each in constraint.settings if each.name == setting.name), None)
        if (
            known is not None
            and known != setting
            and (isinstance(known.value, bool) or isinstance(setting.value, bool))
        ):
            self._at = start
            self._fail(f"{setting.name} only once: it cannot be both")
        return replace(constraint, settings=(*constraint.settings, setting))

    def _skip_space(self) -> bool:
        before = self._at
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at > before

    def _fail(self, expected: str) -> Never:
        shown = "".join(" " if character.isspace() else character for character in self._text)
        raise QueryError(
            "cannot read this package query", details=[shown, f"{' ' * self._at}^", f"expected {expected}"]
        )


def _unquoted(match: re.Match[str]) -> str:
    if match["bare"] is not None:
        return match["bare"]
    return re.sub(r"\\(.)", r"\1", match["double"] if match["double"] is not None else match["single"])


def _given(part: str) -> tuple[str, ...]:
    return () if part in (_ANY, "None") else (part,)


def _with_direct(constraint: Constraint, needed: Needed) -> Constraint:
    return replace(constraint, direct=(*constraint.direct, needed))


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


def matching(queries: Iterable[Query], candidates: Iterable[Spec], graph: SpecGraph) -> list[Spec]:
    """Return the candidates that match any of the queries, each once, query by query.

    Raises `NoMatchError` for a query that nothing matches, with what is there under that name or a near one.
    """
    known, found = list(candidates), dict[Spec, None]()
    for query in queries:
        chosen = select(query, known, graph)
        if not chosen:
            raise _no_match(query, known, sorted({spec.name for spec in known}))
        found |= dict.fromkeys(chosen)
    return list(found)


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


def no_match(queries: Sequence[Query], names: Iterable[str]) -> NoMatchError:
    """Return the error for queries none of which matches, where packages have these names, with those that are near."""
    known = sorted(set(names))
    if len(queries) == 1:
        return _no_match(queries[0], (), known)
    asked = " or ".join(repr(query.text) for query in queries)
    return NoMatchError(f"no package here matches {asked}", hint=Hint(Step.LIST_PACKAGES))


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
