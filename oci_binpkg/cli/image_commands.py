"""From words to values to operations: the commands that look into images and use them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oci_binpkg.cli import render
from oci_binpkg.cli.running import observed, pairs
from oci_binpkg.cli.terminal import container_streams
from oci_binpkg.config.settings import load_settings
from oci_binpkg.errors import UsageError
from oci_binpkg.ops.inspect import inspect_cache, inspect_image


def inspect(cache_text: str, *, json: bool, check: bool | None = None) -> int:
    """Show a cache or one image of it as a tree; return the exit code, 14 if anything in a signed cache is unsigned."""
    settings = load_settings()
    with observed(settings, json) as wiring:
        location = wiring.location(cache_text)
        cache = wiring.images_at(location, check)
        if not location.reference:
            info = inspect_cache(cache, wiring.observer)
            if json:
                render.print_json(info.to_json())
            else:
                render.print_cache(info)
            return info.exit_code
        images = inspect_image(cache, location.reference)
    if json:
        render.print_json([each.to_json() for each in images])
    else:
        for each in images:
            render.print_image(each)
    return 0


def load(image_name: str, engine: str, *, json: bool, check: bool | None = None) -> int:
    """Load an image into an engine and print its name there."""
    settings = load_settings()
    with observed(settings, json) as wiring:
        loaded = wiring.load(image_name, engine, check)
    if json:
        render.print_json({"engine": loaded.engine, "name": loaded.name, "id": loaded.image_id})
    else:
        render.print_lines([f"{loaded.name}  {loaded.image_id}"])
    return 0


def run(
    image_name: str,
    command: Sequence[str],
    engine: str,
    network: str,
    ulimits: Sequence[str],
    *,
    check: bool | None = None,
) -> int:
    """Run a command in an image; return the command's exit code."""
    settings = load_settings()
    limits = {key: _number(value, f"--ulimit {key}") for key, value in pairs(ulimits, "--ulimit")}
    stdout, stderr = container_streams()
    with observed(settings, quiet=True) as wiring:
        return wiring.run(
            image_name,
            command,
            engine=engine,
            check=check,
            network=network,
            limits=limits,
            stdout=stdout,
            stderr=stderr,
        )


def _number(text: str, flag: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise UsageError(f"{flag}={text[:40]!r}: a number is expected")
    return int(text)
