"""The commands of the way back: from a cache into an install tree, and what keeps a tree in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import bare, opened
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.options import (
    AcceptPresentOption,
    AllowMissingOption,
    AllowStaleOption,
    ArchOption,
    CheckOption,
    FromCaches,
    ImageArgument,
    JobsOption,
    JsonOption,
    NeededQueries,
    OneQuery,
    PackagesYamlOption,
    PinNewestOption,
    QueriesArgument,
    StoreOption,
    StrictOption,
    UpstreamsOption,
)
from oci_binpkg.cli.terminal import flush_results, print_paths, tell
from oci_binpkg.errors import ContentError

if TYPE_CHECKING:
    from oci_binpkg import InstallReport, Obstacle, Verified

_OUTCOMES: Final[Mapping[str, str]] = {
    "installed": "installed",
    "present": "there already",
    "missing": "left out",
    "failed": "failed",
    "planned": "would be installed",
}
"""How the closing line of an install counts each outcome, in this order."""


def install(
    queries: NeededQueries,
    *,
    from_cache: FromCaches = None,
    store: StoreOption = "",
    upstream: UpstreamsOption = None,
    packages_yaml: PackagesYamlOption = "",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="replace the packages named; set aside what is in the way")
    ] = False,
    allow_missing: AllowMissingOption = False,
    allow_stale: AllowStaleOption = None,
    arch: ArchOption = "",
    jobs: JobsOption = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be installed, write nothing")] = False,
    check_signature: CheckOption = None,
    accept_present: AcceptPresentOption = False,
    pin_newest: PinNewestOption = False,
    strict: StrictOption = False,
    json: JsonOption = False,
) -> int:
    """Install packages from a cache, relocated.

    The packages that they link to or run are installed with them. Every byte is verified, and every path is changed to
    the new place. Of several builds of a package, the best one for this machine is taken; a build for another
    architecture is refused without --arch. In the end programs, libraries and scripts are checked for what they need,
    and what does not run is reported.

    \b
    Examples:
      oci-binpkg install greet@2.0 --from oci://registry.example/apps --store ~/apps
      oci-binpkg install /6fytamq --from oci-layout:cache --from oci://registry.example/apps --store ~/apps
    """
    with opened(json) as client:
        report = client.install(
            from_cache or (),
            queries,
            root=store,
            upstream=upstream or (),
            packages_yaml=packages_yaml or None,
            force=force,
            allow_missing=allow_missing,
            allow_stale=allow_stale or (),
            arch=arch,
            jobs=jobs,
            dry_run=dry_run,
            check_signature=check_signature,
            accept_present=accept_present,
            pin_newest=pin_newest,
        )
    return _shown(report, strict=strict, json=json)


def install_image(
    image_name: ImageArgument,
    *,
    store: StoreOption = "",
    packages_yaml: PackagesYamlOption = "",
    allow_missing: AllowMissingOption = False,
    allow_stale: AllowStaleOption = None,
    jobs: JobsOption = 0,
    check_signature: CheckOption = None,
    accept_present: AcceptPresentOption = False,
    strict: StrictOption = False,
    json: JsonOption = False,
) -> int:
    """Install all packages of an image.

    The image may hold several packages; its layers must be packages of the same cache.

    \b
    Example:
      oci-binpkg install-image oci://registry.example/apps:both --store ~/apps
    """
    with opened(json) as client:
        report = client.install_image(
            image_name,
            root=store,
            packages_yaml=packages_yaml or None,
            allow_missing=allow_missing,
            allow_stale=allow_stale or (),
            jobs=jobs,
            check_signature=check_signature,
            accept_present=accept_present,
        )
    return _shown(report, strict=strict, json=json)


def uninstall(
    queries: NeededQueries,
    *,
    store: StoreOption = "",
    dependents: Annotated[
        bool, typer.Option("--dependents/--no-dependents", help="also remove the packages that need them")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Remove packages from a tree.

    \b
    Example:
      oci-binpkg uninstall greet@2.0 --store ~/apps
    """
    with opened(json) as client:
        removed = client.uninstall(store, queries, dependents=dependents)
    if json:
        render.print_json([{"name": spec.name, "version": spec.version, "hash": spec.hash} for spec in removed])
    else:
        render.print_lines([f"removed  {spec.short}" for spec in removed])
    return 0


def verify_store(
    store: Annotated[str, typer.Argument(metavar="DIR", help="the install tree")],
    queries: QueriesArgument = None,
    *,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="check as well whether it runs on this machine; nothing is executed")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Compare the files of a tree with its records.

    Exits with 10 if a file differs from what was recorded when its package was installed, or with --run if a file does
    not run here: interpreters, libraries with their versions, scripts and links are looked for as the system does.

    \b
    Examples:
      oci-binpkg verify-store ~/apps greet
      oci-binpkg verify-store ~/apps --run
    """
    verified = bare().verify_store(store, queries or (), run=run)
    if json:
        render.print_json([each.to_json() for each in verified])
    else:
        for each in verified:
            state = _state(each)
            render.print_lines([f"{state}  {each.spec.short}{f'  {each.unverifiable}' if each.unverifiable else ''}"])
            render.print_lines([f"    {each.verification.describe()}"] if each.verification else [])
            render.print_lines([f"    {finding.path} {finding.problem}" for finding in each.findings])
            _print_obstacles(each.obstacles or (), "    ")
    return 0 if all(each.is_good for each in verified) else ContentError.exit_code


def download(
    query: OneQuery,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="folder for the files")] = ".",
    *,
    from_cache: FromCaches = None,
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """Fetch a package's spec and archive.

    \b
    Example:
      oci-binpkg download greet@2.0 --from oci://registry.example/apps files
    """
    with opened(json) as client:
        fetched = client.download(from_cache or (), query, destination, check_signature=check_signature)
    if json:
        render.print_json(
            [
                {
                    "hash": f.spec.hash,
                    "cache": f.cache,
                    "spec": f.document,
                    "archive": f.archive,
                    "passed_over": list(f.passed_over),
                }
                for f in fetched
            ]
        )
    else:
        print_paths(path for each in fetched for path in (each.document, each.archive))
        flush_results()
        for each in fetched:
            for reason in each.passed_over:
                tell(f"passed over: {reason}")
    return 0


def _state(verified: Verified) -> str:
    """Return the word for how a package was found."""
    if verified.is_good:
        return "good"
    if verified.unverifiable:
        return "cannot be verified"
    return "differs" if verified.findings else "does not run"


def _shown(report: InstallReport, *, strict: bool, json: bool) -> int:
    if json:
        render.print_json(report.to_json())
    else:
        _print_install(report)
        flush_results()
        for choice in report.choices:
            tell(choice)
        tell(_install_summary(report))
    return report.exit_code or int(strict and not report.runs)


def _print_install(report: InstallReport) -> None:
    """Print what became of each package, with everything that somebody should look at."""
    for result in report.packages:
        if result.outcome == "present":
            continue
        note = result.error.message if result.error else result.prefix or "; ".join(result.passed_over)
        origin = f"  from {result.cache}" if result.cache else ""
        render.print_lines([f"{result.outcome.value}  {result.spec.short}{origin}  {note}"])
        if result.cache:
            render.print_lines([f"    passed over: {reason}" for reason in result.passed_over])
        if result.error and result.error.hint:
            render.print_lines([f"    {words(result.error.hint)}"])
        render.print_lines([f"    {remark}" for remark in result.counted])
    if report.verdict is not None:
        _print_obstacles(report.verdict.obstacles)


def _print_obstacles(obstacles: Sequence[Obstacle], indent: str = "") -> None:
    """Print what does not run, each with its reason, and how many remarks of each kind there are."""
    render.print_lines([f"{indent}does not run  {each.describe()}" for each in obstacles if each.stops])
    remarks = Counter(each.counted for each in obstacles if not each.stops)
    render.print_lines([f"{indent}remarked  {kind}: {count}" for kind, count in sorted(remarks.items())])


def _install_summary(report: InstallReport) -> str:
    """Return the closing line of an install."""
    counts = Counter[str](result.outcome for result in report.packages)
    texts = [f"{counts[outcome]} {words}" for outcome, words in _OUTCOMES.items() if counts[outcome]]
    if report.verdict is not None and not report.runs:
        texts.append(f"obstacles to running it: {len(report.verdict.stopping)}")
    elif report.verdict is not None and not any(result.error for result in report.packages):
        texts.append("all of it runs here")
    return f"{report.root}: {', '.join(texts)}"
