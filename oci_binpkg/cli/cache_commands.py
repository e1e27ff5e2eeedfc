"""From words to values to operations: the commands about caches as a whole."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Iterable, Sequence

from oci_binpkg.cli import render
from oci_binpkg.cli.hints import words
from oci_binpkg.cli.running import installs_at, observed, parse_queries
from oci_binpkg.cli.terminal import flush_results, tell
from oci_binpkg.client import TrustFlags
from oci_binpkg.config.settings import load_settings
from oci_binpkg.disk import Batch, batch, disk_errors, make_folder, replace_file
from oci_binpkg.errors import UsageError
from oci_binpkg.model.query import Query, select
from oci_binpkg.model.spec import Spec, SpecGraph
from oci_binpkg.model.spec_document import spec_document


def copy(
    source: str, target: str, queries: Sequence[str], *, json: bool, verify: bool | None, key: str, unsigned: bool
) -> int:
    """Copy packages between caches; return the exit code."""
    from oci_binpkg.ops.copy import copy_cache

    settings = load_settings()
    parsed = parse_queries(queries)
    with observed(settings, json) as wiring:
        wiring.index_is_settled(target, TrustFlags(key=key))
        target_cache = wiring.target(target, TrustFlags(None, key, unsigned))
        report = copy_cache(wiring.cache(source, TrustFlags(verify)), target_cache, parsed, observer=wiring.observer)
    if json:
        render.print_json(report.to_json())
    else:
        render.print_lines([f"copied  {tag}" for tag in report.copied])
        render.print_lines([f"failed  {tag}  {error.message}" for tag, error in report.failed])
        flush_results()
        counts = f"{len(report.copied)} copied, {len(report.skipped)} there already, {len(report.failed)} failed"
        hints = dict.fromkeys(words(error.hint) for _, error in report.failed if error.hint)
        tell(f"{report.target}: {counts}", *hints)
    return report.exit_code


def check(
    queries: Sequence[str],
    caches: Sequence[str],
    store: str,
    output: str,
    *,
    thorough: bool,
    json: bool,
    verify: bool | None,
) -> int:
    """Tell what caches lack; return 1 if they lack anything."""
    from oci_binpkg.ops.check import check as check_packages

    settings = load_settings()
    parsed = parse_queries(queries)
    if not caches:
        raise UsageError("no cache named", hint="use --on CACHE")
    with observed(settings, json) as wiring:
        installs = installs_at(settings, store)
        installed = [r.spec for r in installs.records() if not r.spec.is_external and r.is_present]
        specs = _chosen(parsed, installed, installs.graph)
        answers = [
            check_packages(wiring.cache(text, TrustFlags(verify)), text, specs, thorough=thorough) for text in caches
        ]
    document = [answer.to_json() for answer in answers]
    if output:
        with disk_errors(output, "written"):
            make_folder(os.path.dirname(output))
        replace_file(output, (jsonlib.dumps(document, indent=2) + "\n").encode())
    if json:
        render.print_json(document)
    else:
        render.print_lines(
            [f"{answer.cache}  {spec.short}  {reason}" for answer in answers for spec, reason in answer.lacking]
        )
    return 1 if any(answer.lacking for answer in answers) else 0


def save_specs(
    queries: Sequence[str], store: str, cache_text: str, destination: str, *, json: bool, check: bool | None = None
) -> int:
    """Write spec documents and print exact queries."""
    settings = load_settings()
    parsed = parse_queries(queries)
    if store and cache_text:
        raise UsageError("--store and --from exclude each other", hint="ask one place at a time")
    with observed(settings, json) as wiring:
        if cache_text:
            from oci_binpkg.ops.find import documents

            chosen: Iterable[tuple[Spec, SpecGraph]] = documents(
                wiring.cache(cache_text, TrustFlags(check)), parsed, wiring.observer
            )
        else:
            installs = installs_at(settings, store)
            specs = _chosen(parsed, [r.spec for r in installs.records() if not r.spec.is_external], installs.graph)
            chosen = ((spec, installs.graph) for spec in specs)
        with batch() as files:
            rows = [_save(files, spec, graph, destination) for spec, graph in chosen]
    if json:
        render.print_json([{"query": query, "file": path} for query, path in rows])
    else:
        render.print_table(rows)
    return 0


def _save(files: Batch, spec: Spec, graph: SpecGraph, destination: str) -> tuple[str, str]:
    path = os.path.join(destination, f"{spec.name}-{spec.version}-{spec.hash}.spec.json".replace("/", "_"))
    with disk_errors(path, "written"):
        make_folder(os.path.dirname(path))
    files.replace(path, jsonlib.dumps(spec_document(spec, graph), separators=(",", ":")).encode())
    return f"{spec.name}@={spec.version}/{spec.hash}", path


def _chosen(queries: Sequence[Query], specs: Sequence[Spec], graph: SpecGraph) -> list[Spec]:
    if not queries:
        return list(specs)
    return list(dict.fromkeys(spec for query in queries for spec in select(query, specs, graph)))
