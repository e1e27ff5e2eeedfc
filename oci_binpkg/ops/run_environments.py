"""What the packages of a tree add to the environment of what uses them, beside their folders.

Looked for in this order: what the tree itself says (`environment` in a `packages.toml`), a module file, the recipe that
the prefix keeps, what came along from the cache that a package was installed from, Spack itself. What a package of a
cache says decides over nothing but itself; variables that others rely on are left out, with a warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from threading import Lock

from oci_binpkg.errors import ContentError
from oci_binpkg.events import Observer, Warned, ignore
from oci_binpkg.installs.module_files import file_inside, module_files, read_module
from oci_binpkg.installs.protocol import InstallRecord, InstallTree, has_packages_file
from oci_binpkg.installs.recipes import NotPlainError, read_recipe
from oci_binpkg.installs.verifications import Verifications
from oci_binpkg.model.run_environment import RunEnvironment, accepted, parse_environment, with_placeholders
from oci_binpkg.ops.spack_load import AskedSpack, SpackEnvironments


class RunEnvironments:
    """The run environments of the packages of one tree; with `spack`, Spack is asked for those that nothing else knows.

    Values name prefixes by placeholders.
    """

    def __init__(self, installs: InstallTree, *, spack: AskedSpack | None = None, observer: Observer = ignore) -> None:
        self._installs = installs
        self._observer = observer
        known_to_spack = spack is not None and not has_packages_file(installs.root)
        self._spack = SpackEnvironments(spack, self._closure, observer) if spack and known_to_spack else None
        self._lock = Lock()
        self._known: dict[str, RunEnvironment] = {}

    def of(self, records: Iterable[InstallRecord]) -> Mapping[str, RunEnvironment]:
        """Return the environment of each package by hash. All are looked for at once: Spack is slow to start."""
        wanted = {record.spec.hash: record for record in records}
        with self._lock:
            self._look(wanted)
        return {package_hash: self._known[package_hash] for package_hash in wanted}

    def _look(self, wanted: Mapping[str, InstallRecord]) -> None:
        unknown = []
        for package_hash, record in wanted.items():
            if package_hash not in self._known:
                found = self._found(record)
                if found is None:
                    unknown.append(record)
                else:
                    self._known[package_hash] = found
        there = [record for record in unknown if record.is_present]
        asked = self._spack.ask(there) if self._spack and there else {}
        for record in unknown:
            self._known[record.spec.hash] = self._believed(record, asked.get(record.spec.hash, ()))

    def beside_layer(self, record: InstallRecord) -> RunEnvironment:
        """Return the environment of a package where its layer does not say the same: the recipe is in the layer."""
        known = self.of([record])[record.spec.hash]
        try:
            return () if read_recipe(record.prefix, record.spec) == known else known
        except NotPlainError:
            return known

    def _found(self, record: InstallRecord) -> RunEnvironment | None:
        if record.environment:
            return record.environment
        generated = self._module_files.get(record.spec.hash)
        found = self._module(generated, record) if generated else None
        if found is not None:
            return found  # made by the Spack of this machine, from its own configuration
        inside = file_inside(record.prefix, record.spec)
        for each in (self._module(inside, record) if inside else None, self._recipe(record), self._recorded(record)):
            if each is not None:
                return self._believed(record, each)
        return None

    def _module(self, path: str, record: InstallRecord) -> RunEnvironment | None:
        found = read_module(path)
        if found is None:
            return None
        others = {each.spec.hash: each.prefix for each in self._closure(record)}
        return tuple(with_placeholders(found, record.prefix, others))

    def _recipe(self, record: InstallRecord) -> RunEnvironment | None:
        try:
            return read_recipe(record.prefix, record.spec)
        except NotPlainError:
            if self._spack is None and self._recorded(record) is None:
                self._observer(
                    Warned(f"{record.spec.short}: only Spack knows what its recipe sets; images lack these variables")
                )
            return None

    def _recorded(self, record: InstallRecord) -> RunEnvironment | None:
        """Return what came along with a package from a cache."""
        line = self._verifications.of(record)
        if line is None or not line.environment:
            return None
        try:
            return parse_environment(json.loads(line.environment), f"the environment of {record.spec.short}")
        except (ValueError, RecursionError, ContentError):
            return None

    def _believed(self, record: InstallRecord, found: RunEnvironment) -> RunEnvironment:
        # what lies in another tree may have come from a cache, too
        if self._verifications.of(record) is None and record.prefix.startswith(f"{self._installs.root}/"):
            return found
        kept, refused = accepted(found)
        if refused:
            names = ", ".join(refused[:5])
            self._observer(
                Warned(f"{record.spec.short} came from a cache and does not decide over {names}: left out of images")
            )
        return kept

    def _closure(self, record: InstallRecord) -> list[InstallRecord]:
        found = (self._installs.record(spec.hash) for spec in self._installs.graph.closure([record.spec]))
        return [each for each in found if each is not None and each.is_present]

    @cached_property
    def _module_files(self) -> Mapping[str, str]:
        return module_files(self._installs.spack_prefix)

    @cached_property
    def _verifications(self) -> Verifications:
        return Verifications(self._installs.root)
