"""Takes behaviours out, one by one, in a copy of the tree, and runs the tests that must notice: `make mutations`.

A mutation is a file, a text in it, what is put in its place, and the tests of which at least one must fail. The same
tests must pass first, with nothing taken out: a test that fails anyway notices nothing. A survivor means that a fault of
the table in README.md is not held by its test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("docs", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
COPIED = ("oci_binpkg", "tests", "registry-test", "fixtures", "pyproject.toml", *DOCUMENTS)


@dataclass(frozen=True)
class Mutation:
    """`fault` says which behaviour goes; `tests` is an expression for pytest's -k within `where`."""

    fault: str
    file: str
    old: str
    new: str
    tests: str
    where: str = "registry-test"


MUTATIONS = (
    Mutation(
        "F01: a cut connection is tried again",
        "oci_binpkg/transport/retry.py",
        "return not outcome.failure.lasting",
        "return False",
        "F01",
    ),
    Mutation(
        "F07: what cannot change is not asked again",
        "oci_binpkg/transport/retry.py",
        "RETRIED_STATUSES: Final = frozenset({408,",
        "RETRIED_STATUSES: Final = frozenset({400, 404, 405, 408,",
        "F07",
    ),
    Mutation(
        "F08: Retry-After stops all workers",
        "oci_binpkg/transport/registry_client.py",
        "gate.pause(delay)",
        "pass",
        "F08",
    ),
    Mutation(
        "F16: bytes of another digest are refused",
        "oci_binpkg/store/registry/download.py",
        "if hasher.hexdigest() != digest.hex:",
        "if False:",
        "F16",
    ),
    Mutation(
        "F18: a part that is not the one asked for is not spliced in",
        "oci_binpkg/store/registry/download.py",
        "return not multipart and match is not None and [int(n) for n in match.groups()] == [first, last, last + 1]",
        "return True",
        "F18",
    ),
    Mutation(
        "F21: the login stays behind where the origin changes",
        "oci_binpkg/transport/registry_client.py",
        'authorization = ""\n            credentials',
        "pass\n            credentials",
        "F21",
    ),
    Mutation(
        "F30: a token that is over is replaced by one request for all",
        "oci_binpkg/transport/auth.py",
        "if token is None or token.value == rejected or not",
        "if token is None or rejected or not",
        "F30",
    ),
    Mutation(
        "F35: a blob whose answer was lost is looked for before it is sent again",
        "oci_binpkg/store/registry/upload.py",
        "            if self._is_seen(descriptor, where_blind=False):\n                return True\n",
        "",
        "F35",
    ),
    Mutation(
        "F41: uploads go to no origin that is not allowed",
        "oci_binpkg/store/registry/api.py",
        "if origin is None or (origin != origin_of(self.api) and str(origin) not in self.settings.upload_origins):",
        "if origin is None:",
        "F41",
    ),
    Mutation(
        "F46: fewer requests at once where the registry is overloaded",
        "oci_binpkg/transport/gate.py",
        "self._limit = max(1, self._limit // 2)",
        "pass",
        "F46 and storm",
    ),
    Mutation(
        "bad layer: `..` in a name is refused",
        "oci_binpkg/archive/tar_reader.py",
        "            if part in _NOT_COMPONENTS:",
        "            if False:",
        "",
        "tests/unit/archive/test_extract_names.py",
    ),
    Mutation(
        "bad layer: what grows too much is refused",
        "oci_binpkg/archive/tar_input.py",
        "        if self.size > limits.ratio_from and self.size > limits.ratio * self._compressed.count:",
        "        if False:",
        "",
        "tests/unit/archive/test_extract_damage.py",
    ),
    Mutation(
        "trust: load, run and base images read signed manifests alone",
        "oci_binpkg/cache/open.py",
        "        if not trust.verifier.required:\n            return store\n",
        "        if True:\n            return store\n",
        "no_command and layout-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: install-image, inspect and copy read signed manifests alone",
        "oci_binpkg/cache/oci.py",
        "self._read: Store = self._signed or store",
        "self._read: Store = store",
        "no_command and layout-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: an unsigned package does not count as there",
        "oci_binpkg/ops/contents.py",
        "    if not cache.proves_listing:\n        return listed\n",
        "    if True:\n        return listed\n",
        "no_command and layout-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: find tells what is signed",
        "oci_binpkg/ops/contents.py",
        "    if not cache.proves_listing or _is_signed(cache):",
        "    if True:",
        "no_command and mirror-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: save-specs writes what is signed",
        "oci_binpkg/ops/find.py",
        "    if not cache.verifies:\n        return [(spec, known.graph) for spec in chosen]",
        "    if True:\n        return [(spec, known.graph) for spec in chosen]",
        "no_command and mirror-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: search believes signed indices alone",
        "oci_binpkg/cache_opener.py",
        "AskedTrust(index=self.rule(text).require and self.rule(text).explicit)",
        "AskedTrust()",
        "no_command and registry-name",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: the rule of a name holds for the address",
        "oci_binpkg/config/trust_policy.py",
        "(cache.signed and cache.origin_file == path and address in _addresses(cache))",
        "False",
        "no_command and layout-address",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: scopes decide",
        "oci_binpkg/config/trust_policy.py",
        "found = [scope for scope in self.scopes if scope.holds(address)]",
        "found: list[Scope] = []",
        "no_command and registry-scope",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "trust: a key counts where it is named",
        "oci_binpkg/signing/judge.py",
        "return found & named if named is not None else found - reserved",
        "return found",
        "key_that_is_trusted_for_one",
        "tests/cli/test_trust_policy.py",
    ),
    Mutation(
        "trust: no flag takes back what the section asks for",
        "oci_binpkg/cache_opener.py",
        "if declined and rule.firm:",
        "if False:",
        "takes_back and show",
        "tests/cli/test_trust_policy.py",
    ),
    Mutation(
        "trust: an image is not under the signature of another tag",
        "oci_binpkg/cache/oci.py",
        "site.check(signed, tag or signed.statement.tag, what)",
        "site.check(signed, signed.statement.tag, what)",
        "signed_package_under_the_tag",
        "tests/cli/test_trust_policy.py",
    ),
    Mutation(
        "trust: the image of --tag is signed",
        "oci_binpkg/cache/oci.py",
        "        self.publish_manifest(image.manifest, tag)\n",
        "        self._store.tag(image.manifest, tag)\n",
        "engine_runs",
        "tests/cli/test_trust_policy.py",
    ),
    Mutation(
        "trust: a command that is left out of the walk is noticed",
        "tests/cli/test_trust_everywhere.py",
        '    "load": load,\n',
        "",
        "every_command",
        "tests/cli/test_trust_everywhere.py",
    ),
    Mutation(
        "A: platforms are parts of paths",
        "oci_binpkg/model/arch.py",
        'check_name(arch.platform, f"{what}.platform")',
        "pass",
        "leave_its_room",
        "tests/unit/model/test_identifiers.py",
    ),
    Mutation(
        "A: a damaged record spoils itself alone",
        "oci_binpkg/ops/contents.py",
        "return index.reporting(DamageReport(cache.name, observer))",
        "return index",
        "go_on_and_say_which",
        "tests/cli/test_damaged_packages.py",
    ),
    Mutation(
        "D: a node has the hash that it claims",
        "oci_binpkg/model/spec_document.py",
        "if spec.hash_state is HashState.WRONG:",
        "if False:",
        "hash_of_another",
        "tests/cli/test_damaged_packages.py",
    ),
    Mutation(
        "D: a package decides over its index",
        "oci_binpkg/ops/sources.py",
        "if not found.entry.document.root.agrees_with(spec):",
        "if False:",
        "does_not_decide or asked_for",
        "tests/cli/test_what_decides.py",
    ),
    Mutation(
        "D: externals of others are not installed here",
        "oci_binpkg/installs/database.py",
        '"path": None if node.is_external else prefix_for(node),\n            "installed": False,',
        '"path": node.external_path or prefix_for(node),\n            "installed": node.is_external,',
        "external",
        "tests/cli/test_what_decides.py",
    ),
    Mutation(
        "E: the tar decides where a package is",
        "oci_binpkg/archive/extract.py",
        '.confirmed(f"/{prefix}", document)',
        "",
        "disagrees or path_of_an_image",
        "tests/cli/test_what_decides.py",
    ),
    Mutation(
        "cost: values are counted before they are made",
        "oci_binpkg/model/documents.py",
        "MOST_VALUES: Final = 500_000",
        "MOST_VALUES: Final = 500_000_000",
        "lists and show or million and texts",
        "tests/cli/test_cost.py",
    ),
    Mutation(
        "cost: mentions are paid for by the layer",
        "oci_binpkg/relocate/budget.py",
        "MENTIONS: Final = 300_000",
        "MENTIONS: Final = 300_000_000",
        "text and mentions and not UTF",
        "tests/cli/test_cost.py",
    ),
    Mutation(
        "cost: long texts are relocated in windows",
        "oci_binpkg/relocate/text.py",
        "WINDOW: Final = 1024 * 1024",
        "WINDOW: Final = 1024 * 1024 * 1024",
        "without and line and ends",
        "tests/cli/test_cost.py",
    ),
    Mutation(
        "cost: dotted keys of TOML are bounded",
        "oci_binpkg/model/toml_documents.py",
        "MOST_DOTS: Final = 500",
        "MOST_DOTS: Final = 500_000_000",
        "dotted and find",
        "tests/cli/test_cost.py",
    ),
    Mutation(
        "cost: the lines of a head have one deadline",
        "oci_binpkg/transport/framing.py",
        "self._frame_ends = None if allowed is None else self._time.clock() + allowed",
        "self._frame_ends = None",
        "deadline",
        "tests/unit/transport/test_framing.py",
    ),
    Mutation(
        "cost: a frame has a size",
        "oci_binpkg/transport/framing.py",
        "MAX_FRAME: Final = 512 * 1024",
        "MAX_FRAME: Final = 512 * 1024 * 1024",
        "without_end",
        "tests/unit/transport/test_framing.py",
    ),
    Mutation(
        "cost: many prefixes are looked for by a few beginnings",
        "oci_binpkg/relocate/prefix_set.py",
        "_FEW: Final = 32",
        "_FEW: Final = 32_000_000",
        "hundred_thousand",
        "tests/unit/relocate/test_prefixes.py",
    ),
    Mutation(
        "cancellation: nobody waits for a server that does not answer",
        "oci_binpkg/transport/registry_client.py",
        "for session in tuple(self._all):",
        "for session in ():",
        "does_not_answer",
        "tests/unit/test_cancellation.py",
    ),
    Mutation(
        "cancellation: an exception of the observer stops the operation",
        "oci_binpkg/operation.py",
        "                self.failure = self.failure or error\n",
        "                pass\n",
        "exception_of_the_observer",
        "tests/unit/test_cancellation.py",
    ),
    Mutation(
        "cancellation: threads are waited for",
        "oci_binpkg/ops/schedule.py",
        "            senders.shutdown(cancel_futures=True)",
        "            senders.shutdown(wait=False, cancel_futures=True)",
        "exception_of_the_observer and registry",
        "tests/unit/test_cancellation.py",
    ),
    Mutation(
        "cancellation: Ctrl-C cancels what the command does",
        "oci_binpkg/cli/interrupts.py",
        "            self.cancel.cancel()\n",
        "            pass\n",
        "interrupted_push or first_interrupt",
        "tests/cli/test_interrupts.py",
    ),
    Mutation(
        "growth: room is left for the headers of the next tool",
        "oci_binpkg/relocate/elf_vacate.py",
        "vacate(image, without, 1 + notes + edits)",
        "vacate(image, without)",
        "room_for",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: only padding moves",
        "oci_binpkg/relocate/elf_vacate.py",
        "return found if _is_empty_between(image, start, end, found) else None",
        "return found",
        "somebodys",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: notes keep their content where they move",
        "oci_binpkg/relocate/elf_growth.py",
        "            segment.p_offset += by\n",
        "            pass\n",
        "can_move",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: the old place is wiped",
        "oci_binpkg/relocate/elf_growth.py",
        "kept = [Patch(vacated.start, bytes(vacated.end - vacated.start))]",
        "kept: list[Patch] = []",
        "can_move",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: edits of what moves are made in its new place",
        "oci_binpkg/relocate/elf_growth.py",
        "            content.data[at : at + len(patch.data)] = patch.data\n",
        "            pass\n",
        "new_place",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: section headers follow what moves",
        "oci_binpkg/relocate/elf_growth.py",
        "            moved.sections[number] = place, section.sh_size\n",
        "            pass\n",
        "can_move",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "growth: the dynamic section follows what moves",
        "oci_binpkg/relocate/elf_growth.py",
        "            moved.entries[entry] = entry.value + by_address\n",
        "            pass\n",
        "can_move",
        "tests/unit/relocate/test_elf_rewrite.py",
    ),
    Mutation(
        "runs: an interpreter that is not there",
        "oci_binpkg/runs/examine.py",
        '        if status is None:\n            reason = f"its interpreter',
        '        if False:\n            reason = f"its interpreter',
        "interpreter",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: an interpreter of another class",
        "oci_binpkg/runs/examine.py",
        "elif known is not None and known.architecture != facts.architecture:",
        "elif False:",
        "interpreter",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: versions are looked up in the library",
        "oci_binpkg/runs/loader.py",
        "if defined and need.version not in defined)",
        "if False)",
        "version",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: weak versions may be absent",
        "oci_binpkg/runs/loader.py",
        "if need.file == name and not need.weak)",
        "if need.file == name)",
        "weak",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: a library for another machine is passed over",
        "oci_binpkg/runs/loader.py",
        "        if facts.architecture != self.main.facts.architecture:\n            return",
        "        if False:\n            return",
        "another_machine",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: a library for a later processor is not loaded",
        "oci_binpkg/runs/loader.py",
        "if facts.level > self.libraries.machine.level > 0:",
        "if False:",
        "later_processor",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: RPATH is that of the whole chain",
        "oci_binpkg/runs/loader.py",
        "            for each in by.chain:\n                yield from self._paths(each.facts.rpath, each)\n        yield",
        "            yield from self._paths(by.facts.rpath, by)\n        yield",
        "chain",
        "tests/unit/runs/test_loader.py",
    ),
    Mutation(
        "runs: RUNPATH hides RPATH",
        "oci_binpkg/runs/loader.py",
        "        if by.facts.runpath is None:\n            for each",
        "        if True:\n            for each",
        "no_rpath",
        "tests/unit/runs/test_loader.py",
    ),
    Mutation(
        "runs: no default directories where a file says so",
        "oci_binpkg/runs/loader.py",
        "        if by.facts.no_default:\n",
        "        if False:\n",
        "default",
        "tests/unit/runs",
    ),
    Mutation(
        "runs: links that lead nowhere",
        "oci_binpkg/runs/examine.py",
        "        if self.view.status(path) is not None:\n            return\n        target",
        "        if True:\n            return\n        target",
        "nowhere",
        "tests/unit/runs/test_examine_files.py",
    ),
    Mutation(
        "runs: scripts without their interpreter",
        "oci_binpkg/runs/examine.py",
        "        found = self.scripts.obstacle(path, head)\n",
        "        found = None\n",
        "script",
        "tests/unit/runs/test_examine_files.py",
    ),
    Mutation(
        "runs: compiled Python of another time",
        "oci_binpkg/runs/bytecode.py",
        "if (time, size) == (status.mtime & 0xFFFFFFFF, status.size & 0xFFFFFFFF):",
        "if True:",
        "another",
        "tests/unit/runs/test_examine_files.py",
    ),
    Mutation(
        "runs: an interpreter that does not load libraries",
        "oci_binpkg/runs/examine.py",
        "        elif isinstance(known, str):\n",
        "        elif False:\n",
        "no_loader",
        "tests/unit/runs/test_examine_programs.py",
    ),
    Mutation(
        "runs: a file for another machine",
        "oci_binpkg/runs/examine.py",
        'if here.system != "linux" or not here.runs(facts.architecture):',
        "if False:",
        "another_machine",
        "tests/unit/runs/test_examine_programs.py",
    ),
)


def copy_of_tree(folder: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        else:
            shutil.copy2(source, folder / name)


@dataclass(frozen=True)
class Counts:
    """How a run of tests ended. `reason` says why it could not be made at all."""

    passed: int = 0
    failed: int = 0
    reason: str = ""

    @classmethod
    def of(cls, output: str) -> Counts:
        """Read pytest's last line."""
        last = output.strip().splitlines()[-1] if output.strip() else ""
        counts = {word: int(count) for count, word in re.findall(r"([0-9]+) (failed|passed|error)s?", last)}
        return cls(counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0))

    @property
    def wrong(self) -> str:
        """Why this run, of the tree as it is, proves nothing; "" if it is sound."""
        if self.reason or self.failed:
            return self.reason or f"{self.failed} of its tests fail with nothing taken out"
        return "" if self.passed else "none of its tests ran with nothing taken out"


def run_tests(folder: Path, mutation: Mutation) -> Counts:
    """Run the tests of a mutation in the tree as it stands now. Without a part they need they fail, and are not skipped."""
    command = [sys.executable, "-m", "pytest", mutation.where, "-q", "--tb=no", "-p", "no:cacheprovider", "-rN"]
    command += ["-k", mutation.tests] if mutation.tests else []
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired:
        return Counts(reason="its tests did not end")
    if done.returncode not in (0, 1, 5):
        print(done.stdout[-2000:], done.stderr[-2000:])
        return Counts(reason="its tests could not be run")
    return Counts.of(done.stdout)


def tried(folder: Path, mutation: Mutation) -> str:
    """Run a mutation's tests, apply it, run them again, take it back; return how it ended."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"cannot be applied: the text stands {text.count(mutation.old)} times in {mutation.file}"
    before = run_tests(folder, mutation)
    if before.wrong:
        return f"proves nothing: {before.wrong}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        after = run_tests(folder, mutation)
    finally:
        path.write_text(text, encoding="utf-8")
    if after.reason == "its tests did not end":
        return f"killed ({after.reason})"
    return after.reason or (f"killed: {after.failed} failures" if after.failed else "SURVIVED")


def main() -> int:
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name)
        copy_of_tree(folder)
        for mutation in MUTATIONS:
            started = time.monotonic()
            ended = tried(folder, mutation)
            survivors += not ended.startswith("killed")
            print(f"{ended:20} {mutation.fault} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} mutations killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
