"""The commands that push packages and images."""

from __future__ import annotations

import json as jsonlib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened, pairs
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.options import (
    AnnotationOption,
    BaseOption,
    CacheArgument,
    CompressionOption,
    DryRunOption,
    JobsOption,
    JsonOption,
    KeyOption,
    MaxLayersOption,
    PublishKeyOption,
    PycOption,
    QueriesArgument,
    SkipPresentOption,
    SpackOption,
    StoreOption,
    StrictLayersOption,
    UnsignedOption,
    UpstreamsOption,
)
from oci_binpkg.cli.render import size_text
from oci_binpkg.cli.terminal import flush_results, tell
from oci_binpkg.errors import UsageError

if TYPE_CHECKING:
    from oci_binpkg import PackageResult, PushReport

_WHICH = ("", "package", "dependencies")


def push(
    cache: CacheArgument,
    queries: QueriesArgument = None,
    *,
    store: StoreOption = "",
    upstream: UpstreamsOption = None,
    base_image: BaseOption = "",
    max_layers: MaxLayersOption = 0,
    strict_layers: StrictLayersOption = False,
    tag: Annotated[str, typer.Option("--tag", metavar="TAG", help="also tag one image of all packages named")] = "",
    only: Annotated[str, typer.Option("--only", metavar="WHICH", help="package or dependencies")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="push again what is there already")] = False,
    update_index: Annotated[bool, typer.Option("--update-index", help="enter them in the cache's index")] = False,
    skip_present_in: SkipPresentOption = None,
    compression: CompressionOption = "",
    pyc: PycOption = None,
    spack: SpackOption = True,
    jobs: JobsOption = 0,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    publish_key: PublishKeyOption = True,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Push packages and what they need to a cache.

    Without a QUERY, everything that was installed explicitly is pushed. Packages that the cache has are skipped.

    \b
    Examples:
      oci-binpkg push oci://registry.example/apps --store /opt/spack/opt --update-index
      oci-binpkg push oci-layout:cache greet@2.0 --store ~/spack/opt --base-image debian:12
    """
    with opened(json) as client:
        if only not in _WHICH:
            raise UsageError(f"--only {only!r}: package or dependencies is expected")
        report = client.push(
            cache,
            store,
            queries or (),
            upstream=upstream or (),
            base_image=base_image,
            max_layers=max_layers,
            strict_layers=strict_layers,
            tag=tag,
            only=only,
            force=force,
            update_index=update_index,
            skip_present_in=skip_present_in or (),
            compression=compression,
            pyc=pyc,
            spack=spack,
            jobs=jobs,
            key=key,
            unsigned=unsigned,
            publish_key=publish_key,
            dry_run=dry_run,
        )
    return _shown(report, json=json)


def image(
    cache: CacheArgument,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="its packages; what they need comes along")],
    *,
    tag: Annotated[str, typer.Option("--tag", metavar="TAG", help="the tag of the image")],
    store: StoreOption = "",
    upstream: UpstreamsOption = None,
    base_image: BaseOption = "",
    max_layers: MaxLayersOption = 0,
    strict_layers: StrictLayersOption = False,
    entrypoint: Annotated[str, typer.Option(metavar="CMD", help="words as in a shell, or a JSON list")] = "",
    cmd: Annotated[str, typer.Option(metavar="CMD", help="words as in a shell, or a JSON list")] = "",
    env: Annotated[list[str] | None, typer.Option(metavar="K=V", help="set a variable (repeatable)")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="set a label (repeatable)")] = None,
    annotation: AnnotationOption = None,
    user: Annotated[str, typer.Option(metavar="U", help="user[:group] the container runs as")] = "",
    workdir: Annotated[str, typer.Option(metavar="D", help="folder the container starts in")] = "",
    compression: CompressionOption = "",
    pyc: PycOption = None,
    spack: SpackOption = True,
    jobs: JobsOption = 0,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> int:
    """Push one image of several packages.

    \b
    Examples:
      oci-binpkg image oci://registry.example/apps greet@2.0 greet@2.1 --store /opt/spack/opt --tag both
      oci-binpkg image oci-layout:cache python --store ~/spack/opt --tag py --base-image debian:12 --entrypoint python3
    """
    with opened(json) as client:
        _check_text({"--entrypoint": [entrypoint], "--cmd": [cmd], "--user": [user], "--workdir": [workdir]})
        _check_text({"--env": env or [], "--label": label or [], "--annotation": annotation or []})
        report = client.image(
            *(cache, store, queries),
            tag=tag,
            upstream=upstream or (),
            base_image=base_image,
            max_layers=max_layers,
            strict_layers=strict_layers,
            entrypoint=_words(entrypoint, "--entrypoint"),
            cmd=_words(cmd, "--cmd"),
            env=tuple(pairs(env or (), "--env")),
            label=dict(pairs(label or (), "--label")),
            annotation=dict(pairs(annotation or (), "--annotation")),
            user=user,
            workdir=workdir,
            compression=compression,
            pyc=pyc,
            spack=spack,
            jobs=jobs,
            key=key,
            unsigned=unsigned,
            dry_run=dry_run,
        )
    return _shown(report, json=json)


def _shown(report: PushReport, *, json: bool) -> int:
    if json:
        render.print_json(report.to_json())
    else:
        _print_push(report)
        flush_results()
        tell(_push_summary(report), *_hints(report))
    return report.exit_code


def _print_push(report: PushReport) -> None:
    """Print what became of each package (stdout)."""
    render.print_table([_pushed(result) for result in report.packages if result.outcome != "skipped"])
    if image := report.image:
        mark = f"  (incomplete: lacks {', '.join(image.missing)})" if image.missing else ""
        render.print_lines(
            [f"tagged  {image.tag}  {image.digest}  {image.layers} layers, {size_text(image.size)}{mark}"]
        )


def _push_summary(report: PushReport) -> str:
    """Return the closing line: what was pushed, skipped and failed, what moved and what was saved."""
    count = Counter[str](result.outcome for result in report.packages)
    parts = [f"{count['pushed']} pushed", f"{count['skipped']} skipped (already there)"]
    if count["planned"]:
        parts = [f"{count['planned']} would be pushed", f"{count['skipped']} are there already"]
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    parts += [f"{count['elsewhere']} left out (elsewhere)"] if count["elsewhere"] else []
    parts += [f"{count['gone']} left out (prefix gone)"] if count["gone"] else []
    text = f"{report.cache}: {', '.join(parts)}"
    if count["pushed"]:
        reused = sum(result.reused for result in report.packages if result.outcome == "pushed")
        text += f"; {size_text(report.bytes_sent)} sent, {size_text(report.bytes_saved)} were there already"
        text += f", {reused} not compressed again" if reused else ""
    return text + ("; index updated" if report.index_written else "")


def _hints(report: PushReport) -> list[str]:
    """Return what to do next about the failures, each once."""
    errors = [result.error for result in report.packages if result.outcome == "failed" and result.error]
    return list(dict.fromkeys(words(error.hint) for error in errors if error.hint))


def _pushed(result: PackageResult) -> tuple[str, str, str, str]:
    note = result.error.message if result.error else ""
    if result.missing:
        note = f"incomplete: lacks {', '.join(result.missing)}"
    size = size_text(result.size) if result.size else ""
    return result.outcome.value, result.tag or result.spec.short, size, note or str(result.digest or "")


def _check_text(given: Mapping[str, Iterable[str]]) -> None:
    """Raise `UsageError` naming the flag for what an image configuration cannot hold: bytes that are not UTF-8."""
    for flag, texts in given.items():
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            raise UsageError(f"{flag}: a text that is not UTF-8", hint="image configurations are JSON: write UTF-8")


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
