"""Options and arguments that several commands share, in one place so that they mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

CACHE_HELP = "oci://HOST[:PORT]/NAME, oci+http://..., oci-layout:PATH, a mirror's URL, or a configured name"
CacheArgument = Annotated[str, typer.Argument(metavar="CACHE", help=CACHE_HELP)]
ImageArgument = Annotated[str, typer.Argument(metavar="CACHE:TAG", help=f"{CACHE_HELP}, with a tag")]
QueriesArgument = Annotated[list[str] | None, typer.Argument(metavar="QUERY", help="greet@2.0, /6fyta, zlib +shared")]
StoreOption = Annotated[str, typer.Option("--store", metavar="DIR", help="install tree, Spack's or our own")]
BaseOption = Annotated[
    str, typer.Option("--base-image", metavar="REF", help="debian:12, oci://HOST/NAME:TAG or oci-layout:PATH:TAG")
]
AnnotationOption = Annotated[
    list[str] | None,
    typer.Option("--annotation", metavar="K=V", help="set an annotation of the manifest (repeatable)"),
]
MaxLayersOption = Annotated[
    int,
    typer.Option(
        "--max-layers",
        metavar="N",
        help="layers of an image at most, the base's included: 2 to 125 (100); packages beyond share some",
    ),
]
StrictLayersOption = Annotated[
    bool,
    typer.Option("--strict-layers", help="refuse a base that takes other layers than the cache has: a link, a mode"),
]
CompressionOption = Annotated[
    str,
    typer.Option(
        "--compression", metavar="CODEC", help="fast, balanced or small (gzip, runs everywhere), gzip:N, zstd[:N]"
    ),
]
PycOption = Annotated[
    bool | None,
    typer.Option("--pyc/--no-pyc", help="whether compiled Python is current in layers (yes), or as Spack packs it"),
]
SpackOption = Annotated[
    bool,
    typer.Option("--spack/--no-spack", help="whether Spack, if it is there, is asked which variables recipes set"),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", metavar="N", min=0, help="packages packed at a time (0: cores)")
]
NeededQueries = Annotated[list[str], typer.Argument(metavar="QUERY", help="greet@2.0, /6fyta, zlib +shared")]
FromCaches = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="CACHE", help=f"{CACHE_HELP}; repeat for more, best first (all configured ones)"),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="say what would be pushed, write nothing")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document for scripts")]
OneOrAllOption = Annotated[str, typer.Option("--from", metavar="CACHE", help=f"{CACHE_HELP} (all configured ones)")]
FromOption = Annotated[str, typer.Option("--from", metavar="CACHE", help=CACHE_HELP)]
EngineOption = Annotated[str, typer.Option("--engine", metavar="ENGINE", help="docker or podman (first that answers)")]
CheckOption = Annotated[
    bool | None,
    typer.Option("--check-signature/--no-check-signature", help="whether all must be signed (mirrors: yes)"),
]
AcceptPresentOption = Annotated[
    bool, typer.Option("--accept-present", help="build on installed packages that came without a signature")
]
PinNewestOption = Annotated[
    bool, typer.Option("--pin-newest", help="refuse a signed build that is older than the installed one")
]
KeyOption = Annotated[str, typer.Option("--key", metavar="KEY", help="sign with this key of yours")]
IndexKeyOption = Annotated[str, typer.Option("--key", metavar="KEY", help="sign the index with this key of yours")]
ViewsOption = Annotated[
    list[str] | None,
    typer.Option("--view", metavar="NAME", help="the index over this part of a mirror (repeatable)"),
]
PublishKeyOption = Annotated[
    bool, typer.Option("--publish-key/--no-publish-key", help="put the key on the mirror, too")
]
UnsignedOption = Annotated[bool, typer.Option("--unsigned", help="write without signing")]
SkipPresentOption = Annotated[
    list[str] | None,
    typer.Option("--skip-present-in", metavar="CACHE", help="leave out packages that this cache has (repeatable)"),
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing/--no-allow-missing", help="go on without dependencies that no cache has")
]
AllowStaleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-stale",
        metavar="PATTERN",
        help="go on where an old path cannot be replaced in files like this (repeatable; without a value: in any file)",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict/--no-strict", help="exit with 1 if something that was installed does not run here")
]
OneQuery = Annotated[str, typer.Argument(metavar="QUERY", help="must mean exactly one package")]
HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="the registry: HOST[:PORT]")]
TtlOption = Annotated[
    float | None,
    typer.Option(
        "--ttl", metavar="SECONDS", min=0, help="how long an index that was read is used without asking its cache (600)"
    ),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="ask no cache: search the indices that were read before")
]
UpstreamsOption = Annotated[
    list[str] | None,
    typer.Option("--upstream", metavar="DIR", help="a Spack tree with dependencies, as in upstreams.yaml (repeatable)"),
]
PackagesYamlOption = Annotated[
    str,
    typer.Option(
        "--packages-yaml", metavar="FILE", help="the permissions of installed files, as in Spack's packages.yaml"
    ),
]
ArchOption = Annotated[
    str, typer.Option("--arch", metavar="TARGET", help="take builds for another machine: aarch64, zen4, ... or any")
]
AllArchOption = Annotated[bool, typer.Option("--all-arch", help="also packages for other machines")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="say what is done and why, on stderr")]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="also show each request, and where an internal error happened")
]
LogFileOption = Annotated[
    str, typer.Option("--log-file", metavar="FILE", help="add all that --debug shows to this file, with times")
]
