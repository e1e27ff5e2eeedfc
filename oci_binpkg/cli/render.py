"""Results on stdout: tables and trees for people, one JSON document for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oci_binpkg.cli.terminal import print_json_text, print_lines

if TYPE_CHECKING:
    from oci_binpkg import CacheInfo, CatalogMatch, FoundPackage, ImageInfo, Shown

__all__ = [
    "print_cache",
    "print_found",
    "print_image",
    "print_json",
    "print_json_list",
    "print_lines",
    "print_long",
    "print_matches",
    "print_shown",
    "print_table",
    "size_text",
]
_UNITS = ("kB", "MB", "GB", "TB")


def size_text(count: int) -> str:
    """Return bytes for people: `999 B`, `12.3 MB` (powers of ten, as container tools count)."""
    if count < 1000:  # noqa: PLR2004
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95 or unit == _UNITS[-1]:  # noqa: PLR2004
            break
    return f"{value:.1f} {unit}"


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document, which holds nothing that drives a terminal."""
    print_json_text([json.dumps(document, indent=2, ensure_ascii=False) + "\n"])


def print_json_list(items: Iterable[Mapping[str, Any]]) -> None:
    """Print a list of any length as one JSON document, an item at a time, as `print_json` does."""
    print_json_text(_json_list(items))


def _json_list(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    before = "[\n  "
    for item in items:
        # a line feed within a text is escaped: those that there are stand between members
        yield before + json.dumps(item, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        before = ",\n  "
    yield "[]\n" if before.startswith("[") else "\n]\n"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns; what is piped elsewhere looks the same, so that scripts see what people see."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))] if rows else []
    print_lines(
        ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows],
    )


def print_found(found: Sequence[FoundPackage]) -> None:
    """Print packages, one a line: hash, name and version, state, the rest of the spec."""
    # a table without having all of it
    hashes = max((len(f.spec.hash[:7]) for f in found), default=0)
    names = max((len(f.spec.name) + 1 + len(f.spec.version) for f in found), default=0)
    states = max((len(f.state) for f in found), default=0)
    print_lines(
        f"{f.spec.hash[:7]:{hashes}}  {f'{f.spec.name}@{f.spec.version}':{names}}  {f.state:{states}}"
        f"  {f.spec.describe()}".rstrip()
        for f in found
    )


def print_matches(found: Sequence[CatalogMatch]) -> None:
    """Print packages of several caches, one a line: hash, name and version, caches, the rest of the spec."""
    rows = [
        (
            f"{each.spec.name}@{each.spec.version}",
            ",".join(each.caches) + (" (deprecated)" * each.is_deprecated),
            each.spec,
        )
        for each in found
    ]
    names = max((len(name) for name, _, _ in rows), default=0)
    caches = max((len(held) for _, held, _ in rows), default=0)
    print_lines(f"{spec.hash[:7]}  {name:{names}}  {held:{caches}}  {spec.describe()}" for name, held, spec in rows)


def print_long(found: Sequence[FoundPackage]) -> None:
    """Print packages of a tree with what was verified of them, under a header."""
    rows = [("hash", "package", "state", "signed by", "signed on", "spec hash", "from")]
    for each in found:
        known = each.verification
        row = (each.spec.hash[:7], f"{each.spec.name}@{each.spec.version}", each.state)
        if known is None:
            rows.append((*row, "-", "-", "-", "this tree"))
        else:
            signed_on = time.strftime("%Y-%m-%d", time.gmtime(known.signed_at)) if known.is_signed else "-"
            rows.append((*row, known.signer or known.reason, signed_on, known.node_hash or "-", known.cache or "-"))
    print_table(rows)


def print_shown(shown: Shown) -> None:
    """Print one package of a cache."""
    spec, layer = shown.spec, shown.entry.layer
    graph = shown.entry.document.graph
    rows = [
        ("package", f"{spec.name}@{spec.version}"),
        ("hash", f"{spec.hash} (unverified)" if shown.entry.is_unverified else spec.hash),
        *([("state", "deprecated: another package shall take its place")] if shown.is_deprecated else []),
        ("spec", spec.describe()),
        *([("cache", shown.cache)] if shown.cache else []),
        ("tag", shown.entry.key.tag),
        ("digest", str(shown.entry.manifest)),
        ("layer", f"{layer.blob.descriptor.digest}  {size_text(layer.blob.descriptor.size)}"),
    ]
    rows += [("diff_id", shown.diff_id)] if shown.diff_id else []
    rows += [("image", f"{len(shown.entry.stack)} layers")] if shown.entry.stack else []
    for dependency in spec.dependencies:
        known = graph.get(dependency.hash)
        version = f"@{known.version}" if known else ""
        origin = " external" if known and known.is_external else ""
        text = f"{dependency.name}{version}/{dependency.hash[:7]}  {','.join(dependency.types)}{origin}"
        rows.append(("depends", text))
    print_table(rows)


def print_image(image: ImageInfo) -> None:
    """Print an image as a tree of its layers, bottom first."""
    lines = [f"{image.name}  {image.config.platform}  {size_text(image.size)}", f"├─ digest {image.descriptor.digest}"]
    lines += [f"├─ package {image.package}"] if image.package else []
    lines += [f"├─ incomplete: lacks {image.missing}"] if image.missing else []
    started = image.started
    for key in ("Entrypoint", "Cmd", "User", "WorkingDir"):
        lines += [f"├─ {key} {started[key]}"] if started.get(key) else []
    lines += [f"├─ Env {text}" for text in image.config.env]
    lines.append(f"└─ {len(image.layers)} layers")
    for number, layer in enumerate(image.layers):
        branch = "└─" if number == len(image.layers) - 1 else "├─"
        name = layer.package or layer.descriptor.media_type
        lines.append(f"   {branch} {layer.descriptor.digest.short}  {size_text(layer.descriptor.size):>9}  {name}")
    print_lines(lines)


def print_cache(cache: CacheInfo) -> None:
    """Print a cache as a tree of its tags."""
    kinds = {"package": "packages", "image": "images", "artifacts": "artifacts", "index": "index", "damaged": "damaged"}
    lines = [f"{cache.name}  {size_text(cache.size)}"]
    groups = [(title, [tag for tag in cache.tags if tag.kind == kind]) for kind, title in kinds.items()]
    groups = [(title, tags) for title, tags in groups if tags]
    for title, tags in groups:
        last = title == groups[-1][0]
        lines.append(f"{'└─' if last else '├─'} {title} ({len(tags)})")
        for tag in tags:
            branch = f"{'   ' if last else '│  '}{'└─' if tag is tags[-1] else '├─'}"
            digest = tag.digest.short if tag.digest else "-" * 12
            layers = f"{tag.layers} layers" if tag.layers != 1 else "1 layer"
            lines.append(f"{branch} {tag.tag}  {digest}  {size_text(tag.size)}  {layers}")
    print_lines(lines)
