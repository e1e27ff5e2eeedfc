"""From words to values to operations: the commands that push packages and images."""

from __future__ import annotations

import json as jsonlib
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from oci_binpkg.cli import render
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.render import size_text
from oci_binpkg.cli.running import installs_at, observed, pairs, parse_queries
from oci_binpkg.cli.terminal import flush_results, tell
from oci_binpkg.client import TrustFlags, Wiring
from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.events import Warned
from oci_binpkg.model.image import Runtime
from oci_binpkg.model.reference import check_tag
from oci_binpkg.model.spec import Spec
from oci_binpkg.ops.contents import counted_there
from oci_binpkg.ops.push import PushOptions
from oci_binpkg.ops.push import push as push_packages
from oci_binpkg.ops.push_report import PackageResult, PushOutcome, PushReport
from oci_binpkg.ops.selection import Only, select
from oci_binpkg.ops.stack import no_base


@dataclass(frozen=True, slots=True)
class PushFlags:
    """The flags that `push` and `image` share, as written."""

    store: str
    base_image: str
    tag: str
    only: str
    force: bool
    update_index: bool
    compression: str
    jobs: int
    dry_run: bool
    json: bool
    trust: TrustFlags = field(default_factory=TrustFlags)
    skip_present_in: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RuntimeFlags:
    """How a container of the image starts, as written."""

    entrypoint: str
    cmd: str
    env: Sequence[str]
    label: Sequence[str]
    user: str
    workdir: str

    def parse(self) -> Runtime:
        """Return the values. Raises `UsageError` naming the flag."""
        texts = {"--entrypoint": [self.entrypoint], "--cmd": [self.cmd], "--env": self.env, "--label": self.label}
        for flag, given in {**texts, "--user": [self.user], "--workdir": [self.workdir]}.items():
            if any("\ud800" <= character <= "\udfff" for text in given for character in text):
                raise UsageError(f"{flag}: a text that is not UTF-8", hint="image configurations are JSON: write UTF-8")
        return Runtime(
            _words(self.entrypoint, "--entrypoint"),
            _words(self.cmd, "--cmd"),
            tuple(pairs(self.env, "--env")),
            dict(pairs(self.label, "--label")),
            self.user,
            self.workdir,
        )


def push(cache_text: str, queries: Sequence[str], flags: PushFlags) -> int:
    """Push packages; return the exit code: 1 if any failed."""
    settings = load_settings()
    only = _only(flags.only)
    tag = check_tag(flags.tag) if flags.tag else ""
    parsed = parse_queries(queries)
    with observed(settings, flags.json) as wiring:
        installs = installs_at(settings, flags.store)
        if flags.update_index:
            wiring.index_is_settled(cache_text, flags.trust)
        cache = wiring.images(cache_text, flags.trust) if tag else wiring.target(cache_text, flags.trust)
        packer = wiring.packer(installs, flags.compression)
        base = wiring.base_images(flags.base_image) if flags.base_image else no_base
        selection = select(installs, parsed, only)
        wanted = [record.spec for record in selection.wanted]
        elsewhere = frozenset().union(*(_hashes_of(wiring, text, wanted) for text in flags.skip_present_in))
        options = PushOptions(
            flags.force, flags.update_index, flags.dry_run, tag, wiring.jobs(flags.jobs), elsewhere=elsewhere
        )
        report = push_packages(installs, selection, cache, packer, base=base, options=options, observer=wiring.observer)
    return _finish(report, json=flags.json)


def _hashes_of(wiring: Wiring, cache_text: str, specs: Sequence[Spec]) -> Collection[str]:
    """Return the hashes of the packages that a cache has, of `specs` at least."""
    cache = wiring.cache(cache_text)
    hashes = cache.hashes()
    if not hashes:
        wiring.observer(Warned(f"{cache.name} holds no packages: it is empty or does not exist"))
    return counted_there(cache, specs, hashes, wiring.observer).keys()


def image(cache_text: str, queries: Sequence[str], flags: PushFlags, runtime_flags: RuntimeFlags) -> int:
    """Push one image of several packages; return the exit code."""
    from oci_binpkg.ops.image import push_image

    settings = load_settings()
    runtime = runtime_flags.parse()
    check_tag(flags.tag)
    parsed = parse_queries(queries)
    with observed(settings, flags.json) as wiring:
        installs = installs_at(settings, flags.store)
        cache = wiring.images(cache_text, flags.trust)
        report = push_image(
            installs,
            select(installs, parsed),
            cache,
            wiring.packer(installs, flags.compression),
            flags.tag,
            base=wiring.base_images(flags.base_image) if flags.base_image else no_base,
            runtime=runtime,
            jobs=wiring.jobs(flags.jobs),
            dry_run=flags.dry_run,
            observer=wiring.observer,
        )
    return _finish(report, json=flags.json)


def _finish(report: PushReport, *, json: bool) -> int:
    if json:
        render.print_json(report.to_json())
    else:
        _print_push(report)
        flush_results()
        tell(_push_summary(report), *_hints(report))
    return report.exit_code


def _print_push(report: PushReport) -> None:
    """Print what became of each package (stdout)."""
    render.print_table([_pushed(result) for result in report.packages if result.outcome is not PushOutcome.SKIPPED])
    if image := report.image:
        mark = f"  (incomplete: lacks {', '.join(image.missing)})" if image.missing else ""
        render.print_lines(
            [f"tagged  {image.tag}  {image.digest}  {image.layers} layers, {size_text(image.size)}{mark}"]
        )


def _push_summary(report: PushReport) -> str:
    """Return the closing line: what was pushed, skipped and failed, what moved and what was saved."""
    count = {outcome: len(report.by(outcome)) for outcome in PushOutcome}
    parts = [f"{count[PushOutcome.PUSHED]} pushed", f"{count[PushOutcome.SKIPPED]} skipped (already there)"]
    if count[PushOutcome.PLANNED]:
        parts = [f"{count[PushOutcome.PLANNED]} would be pushed", f"{count[PushOutcome.SKIPPED]} are there already"]
    parts += [f"{count[PushOutcome.FAILED]} failed"] if count[PushOutcome.FAILED] else []
    parts += [f"{count[PushOutcome.ELSEWHERE]} left out (elsewhere)"] if count[PushOutcome.ELSEWHERE] else []
    parts += [f"{count[PushOutcome.GONE]} left out (prefix gone)"] if count[PushOutcome.GONE] else []
    text = f"{report.cache}: {', '.join(parts)}"
    if count[PushOutcome.PUSHED]:
        reused = sum(1 for result in report.by(PushOutcome.PUSHED) if result.reused)
        text += f"; {size_text(report.bytes_sent)} sent, {size_text(report.bytes_saved)} were there already"
        text += f", {reused} not compressed again" if reused else ""
    return text + ("; index updated" if report.index_written else "")


def _hints(report: PushReport) -> list[str]:
    """Return what to do next about the failures, each once."""
    return list(dict.fromkeys(words(r.error.hint) for r in report.by(PushOutcome.FAILED) if r.error and r.error.hint))


def _pushed(result: PackageResult) -> tuple[str, str, str, str]:
    note = result.error.message if result.error else ""
    if result.missing:
        note = f"incomplete: lacks {', '.join(result.missing)}"
    size = size_text(result.size) if result.size else ""
    return result.outcome.value, result.tag or result.spec.short, size, note or str(result.digest or "")


def _only(text: str) -> Only | None:
    if not text:
        return None
    try:
        return Only(text)
    except ValueError:
        raise UsageError(f"--only {text!r}: package or dependencies is expected") from None


def _words(text: str, flag: str) -> tuple[str, ...] | None:
    if not text:
        return None
    try:
        words = jsonlib.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from None
    if not all(isinstance(word, str) for word in words):
        raise UsageError(f"{flag} {text!r}: a list of texts is expected")
    return tuple(words)
