"""The commands that look into images and use them."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from oci_binpkg.cli import render
from oci_binpkg.cli.context import opened, pairs
from oci_binpkg.cli.options import CACHE_HELP, CheckOption, EngineOption, ImageArgument, JsonOption
from oci_binpkg.cli.terminal import container_streams
from oci_binpkg.errors import UsageError


def inspect(
    cache: Annotated[str, typer.Argument(metavar="CACHE[:TAG]", help=f"{CACHE_HELP}; with a tag: that image")],
    *,
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """Show what a cache or an image is made of.

    Prints packages, layers and sizes as a tree. Exits with 14 if anything in a signed cache is unsigned.

    \b
    Examples:
      oci-binpkg inspect oci-layout:cache
      oci-binpkg inspect oci://registry.example/apps:both
    """
    with opened(json) as client:
        found = client.inspect(cache, check_signature=check_signature)
    if isinstance(found, list):
        if json:
            render.print_json([image.to_json() for image in found])
        else:
            for image in found:
                render.print_image(image)
        return 0
    if json:
        render.print_json(found.to_json())
    else:
        render.print_cache(found)
    return found.exit_code


def load(
    image_name: ImageArgument,
    *,
    engine: EngineOption = "",
    check_signature: CheckOption = None,
    json: JsonOption = False,
) -> int:
    """Load an image into Docker or Podman.

    The image may be in any cache; no registry is needed.

    \b
    Examples:
      oci-binpkg load oci-layout:cache:both --engine podman
      oci-binpkg load oci://registry.example/apps:both --engine docker
    """
    with opened(json) as client:
        loaded = client.load(image_name, engine=engine, check_signature=check_signature)
    if json:
        render.print_json({"engine": loaded.engine, "name": loaded.name, "id": loaded.image_id})
    else:
        render.print_lines([f"{loaded.name}  {loaded.image_id}"])
    return 0


def run(
    image_name: ImageArgument,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD", help="what to run in it")] = None,
    *,
    engine: Annotated[
        str,
        typer.Option(metavar="ENGINE", help="docker, podman, or without one: namespace, bwrap, ch-run, chroot"),
    ] = "",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="a variable (repeatable)")] = None,
    volume: Annotated[
        list[str] | None, typer.Option(metavar="DIR:PATH[:ro]", help="show a directory inside (repeatable)")
    ] = None,
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="run as this user")] = "",
    workdir: Annotated[str, typer.Option("--workdir", "-w", metavar="PATH", help="where it starts")] = "",
    entrypoint: Annotated[
        str | None, typer.Option(metavar="PROGRAM", help="in place of the image's entrypoint")
    ] = None,
    network: Annotated[str, typer.Option(metavar="MODE", help="network of the container, as for docker run")] = "",
    ulimit: Annotated[list[str] | None, typer.Option(metavar="K=N", help="limit, as nofile=1024 (repeatable)")] = None,
    check_signature: CheckOption = None,
) -> int:
    """Run a command in an image.

    Docker or Podman runs it if one answers, else this machine's kernel by itself: the layers are unpacked once, nothing
    is installed, and no root is needed. Exits with the command's own exit code.

    \b
    Examples:
      oci-binpkg run oci-layout:cache:both -- greet
      oci-binpkg run oci://registry.example/apps:both --engine podman -- greet --help
    """
    with opened(quiet=True) as client:
        limits = {name: _number(value, f"--ulimit {name}") for name, value in pairs(ulimit or (), "--ulimit")}
        stdout, stderr = container_streams()
        return client.run(
            image_name,
            command or (),
            engine=engine,
            entrypoint=entrypoint,
            env=dict(pairs(env or (), "--env")),
            volume=volume or (),
            user=user,
            workdir=workdir,
            network=network,
            ulimit=limits,
            check_signature=check_signature,
            stdout=stdout,
            stderr=stderr,
        )


def _number(text: str, flag: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise UsageError(f"{flag}={text[:40]!r}: a number is expected")
    return int(text)
