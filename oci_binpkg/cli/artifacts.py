"""The commands about files that are attached to packages and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened, pairs
from oci_binpkg.cli.options import CacheArgument, CheckOption, JsonOption, KeyOption, UnsignedOption
from oci_binpkg.cli.terminal import print_paths

if TYPE_CHECKING:
    from oci_binpkg import AttachedArtifact

Subject = Annotated[str, typer.Argument(metavar="QUERY|TAG", help="a package, a tag, or a digest (sha256:...)")]
OfType = Annotated[str, typer.Option("--type", metavar="TYPE", help="only artifacts of this type")]


def attach(
    cache: CacheArgument,
    subject: Subject,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="what to attach")],
    *,
    artifact_type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="what it is: a media type, as application/spdx+json")
    ],
    annotation: Annotated[
        list[str] | None, typer.Option("--annotation", metavar="K=V", help="add an annotation (repeatable)")
    ] = None,
    key: KeyOption = "",
    unsigned: UnsignedOption = False,
    json: JsonOption = False,
) -> int:
    """Attach files to a package or an image.

    The files become one artifact beside it, which other tools find and pull, too (oras, cosign, Trivy). Registries and
    image layouts keep artifacts; mirrors do not. With --key the artifact is signed.

    \b
    Examples:
      oci-binpkg attach oci://registry.example/apps greet@2.0 greet.spdx.json --type application/spdx+json
      oci-binpkg attach oci-layout:cache both report.txt log.txt --type text/plain --annotation job=42
    """
    with opened(json) as client:
        attached = client.attach(
            cache,
            subject,
            files,
            artifact_type=artifact_type,
            annotation=dict(pairs(annotation or (), "--annotation")),
            key=key,
            unsigned=unsigned,
        )
    if json:
        render.print_json(attached.to_json())
    else:
        _print([attached])
    return 0


def list_artifacts(
    cache: CacheArgument,
    subject: Subject,
    *,
    artifact_type: OfType = "",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """List the artifacts of a package or an image.

    Artifacts of other tools are listed, too; signatures are not.

    \b
    Example:
      oci-binpkg artifacts list oci://registry.example/apps greet@2.0
    """
    with opened(json) as client:
        found = client.artifacts_list(cache, subject, artifact_type=artifact_type, check_signature=check_signature)
    if json:
        render.print_json_list(each.to_json() for each in found)
    else:
        _print(found)
    return 0


def get(
    cache: CacheArgument,
    subject: Subject,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="folder for the files")] = ".",
    *,
    artifact_type: OfType = "",
    digest: Annotated[str, typer.Option("--digest", metavar="DIGEST", help="the artifact with this digest")] = "",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """Fetch the files of an artifact.

    Type and digest must mean exactly one artifact. Every byte is verified.

    \b
    Example:
      oci-binpkg artifacts get oci://registry.example/apps greet@2.0 files --type application/spdx+json
    """
    with opened(json) as client:
        paths = client.artifacts_get(
            cache,
            subject,
            destination,
            artifact_type=artifact_type,
            digest=digest,
            check_signature=check_signature,
        )
    if json:
        render.print_json([{"file": path} for path in paths])
    else:
        print_paths(paths)
    return 0


def _print(found: list[AttachedArtifact]) -> None:
    """Print artifacts, each with its files below it."""
    for each in found:
        render.print_lines([f"{each.digest}  {each.artifact_type or '-'}  {render.size_text(each.size)}"])
        render.print_lines([f"    {name}  {digest}" for name, digest in each.files.items()])
        render.print_lines([f"    {name}={value}" for name, value in each.annotations.items()])
