"""From words to values to operations: the commands of the way back, from a cache into an install tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oci_binpkg.cli import render
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.running import observed, parse_queries
from oci_binpkg.cli.terminal import flush_results, tell
from oci_binpkg.client import TrustFlags, Wiring
from oci_binpkg.config.settings import Settings, load_settings
from oci_binpkg.errors import ContentError, UsageError
from oci_binpkg.file_lock import Patience
from oci_binpkg.installs.open import open_installs
from oci_binpkg.installs.protocol import has_packages_file
from oci_binpkg.installs.spack import SpackInstalls
from oci_binpkg.ops.install import Installed, InstallOptions, InstallReport, install_resolved
from oci_binpkg.ops.install import install as install_packages
from oci_binpkg.ops.sources import Sources


@dataclass(frozen=True, slots=True)
class InstallFlags:
    """The flags of the install commands, as written."""

    store: str
    force: bool
    allow_missing: bool
    allow_stale: bool
    jobs: int
    dry_run: bool
    json: bool
    check: bool | None = None
    accept_present: bool = False
    pin_newest: bool = False

    def options(self, wiring: Wiring) -> InstallOptions:
        """Return the values."""
        jobs = wiring.jobs(self.jobs)
        return InstallOptions(
            *(self.force, self.allow_missing, self.allow_stale, self.dry_run, jobs),
            layers=wiring.layer_cache,
            accept_present=self.accept_present,
            pin_newest=self.pin_newest,
            signers=wiring.signers,
        )


def install(queries: Sequence[str], caches: Sequence[str], flags: InstallFlags) -> int:
    """Install packages; return the exit code."""
    settings = load_settings()
    parsed = parse_queries(queries)
    with observed(settings, flags.json) as wiring:
        installs = _tree(settings, flags.store, wiring.patience)
        wiring.installing_into(installs)
        sources = Sources([wiring.cache(cache, TrustFlags(flags.check)) for cache in caches], wiring.observer)
        report = install_packages(installs, sources, parsed, flags.options(wiring), wiring.observer)
    return _finish(report, json=flags.json)


def install_image(image: str, flags: InstallFlags) -> int:
    """Install the packages of an image; return the exit code."""
    settings = load_settings()
    with observed(settings, flags.json) as wiring:
        location = wiring.location(image)
        if not location.reference:
            raise UsageError(
                f"{image} names no image: a tag is missing", hint=f"`oci-binpkg inspect {image}` lists them"
            )
        installs = _tree(settings, flags.store, wiring.patience)
        wiring.installing_into(installs)
        sources = Sources([wiring.images_at(location, flags.check)], wiring.observer)
        resolution = sources.resolve_image(location.reference)
        options = flags.options(wiring)
        report = install_resolved(installs, sources, resolution, options, wiring.observer)
    return _finish(report, json=flags.json)


def uninstall(queries: Sequence[str], store: str, *, dependents: bool, json: bool) -> int:
    """Remove packages; return the exit code."""
    from oci_binpkg.ops.upkeep import uninstall as uninstall_packages

    settings = load_settings()
    parsed = parse_queries(queries)
    with observed(settings, json) as wiring:
        tree = _tree(settings, store, wiring.patience, create=False)
        removed = uninstall_packages(tree, parsed, dependents=dependents)
    if json:
        render.print_json([{"name": spec.name, "version": spec.version, "hash": spec.hash} for spec in removed])
    else:
        render.print_lines([f"removed  {spec.short}" for spec in removed])
    return 0


def verify_store(store: str, queries: Sequence[str], *, json: bool) -> int:
    """Compare files with records; return the exit code: that of damaged content if anything differs."""
    from oci_binpkg.ops.upkeep import verify_store as verify_packages

    verified = verify_packages(open_installs(store), parse_queries(queries))
    if json:
        render.print_json([each.to_json() for each in verified])
    else:
        for each in verified:
            state = "good" if each.is_good else "cannot be verified" if each.unverifiable else "differs"
            render.print_lines([f"{state}  {each.spec.short}{f'  {each.unverifiable}' if each.unverifiable else ''}"])
            render.print_lines([f"    {each.verification.describe()}"] if each.verification else [])
            render.print_lines([f"    {finding.path} {finding.problem}" for finding in each.findings])
    return 0 if all(each.is_good for each in verified) else ContentError.exit_code


def download(query: str, caches: Sequence[str], destination: str, *, json: bool, check: bool | None = None) -> int:
    """Fetch a package's spec and archive."""
    from oci_binpkg.ops.download import download as download_packages

    settings = load_settings()
    parsed = parse_queries([query])
    with observed(settings, json) as wiring:
        sources = Sources([wiring.cache(cache, TrustFlags(check)) for cache in caches], wiring.observer)
        fetched = download_packages(sources, parsed, destination)
    if json:
        render.print_json(
            [{"hash": f.spec.hash, "cache": f.cache, "spec": f.document, "archive": f.archive} for f in fetched]
        )
    else:
        render.print_lines([path for each in fetched for path in (each.document, each.archive)])
    return 0


def _finish(report: InstallReport, *, json: bool) -> int:
    if json:
        render.print_json(report.to_json())
    else:
        _print_install(report)
        flush_results()
        tell(_install_summary(report))
    return report.exit_code


def _print_install(report: InstallReport) -> None:
    """Print what became of each package, with everything that somebody should look at."""
    for result in report.packages:
        if result.outcome is Installed.PRESENT:
            continue
        note = result.error.message if result.error else result.prefix or "; ".join(result.passed_over)
        origin = f"  from {result.cache}" if result.cache else ""
        render.print_lines([f"{result.outcome.value}  {result.spec.short}{origin}  {note}"])
        if result.cache:
            render.print_lines([f"    passed over: {reason}" for reason in result.passed_over])
        if result.error and result.error.hint:
            render.print_lines([f"    {words(result.error.hint)}"])
        render.print_lines([f"    {remark}" for remark in result.remarks])


def _install_summary(report: InstallReport) -> str:
    """Return the closing line of an install."""
    counts = {outcome: len(report.by(outcome)) for outcome in Installed}
    words = {Installed.PLANNED: "would be installed", Installed.PRESENT: "there already", Installed.MISSING: "left out"}
    texts = [f"{count} {words.get(outcome, outcome.value)}" for outcome, count in counts.items() if count]
    return f"{report.root}: {', '.join(texts)}"


def _tree(settings: Settings, store: str, patience: Patience, *, create: bool = True) -> SpackInstalls:
    path = store or settings.store
    if not path:
        raise UsageError("no install tree named", hint="use --store DIR, or set store in the configuration")
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise UsageError(f"{path}: a path that is not UTF-8", hint="name another folder: a tree's records are JSON")
    if has_packages_file(path):
        raise UsageError(
            f"{path} is described by a packages.toml, which is written by hand",
            hint="install into another folder: a tree of its own is made there",
        )
    return SpackInstalls(path, spack_prefix=settings.spack_prefix, patience=patience, create=create)
