"""Bring images from a cache into a container engine of this machine, and run them there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from oci_binpkg.errors import NotFoundError, UsageError
from oci_binpkg.ops.platforms import this_platform
from oci_binpkg.store.engine import Engine, has_image, load, run
from oci_binpkg.store.images import image_of, read_image
from oci_binpkg.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image in an engine: the engine's kind, the image's name and its id there."""

    engine: str
    name: str
    image_id: str


def load_image(engine: Engine, store: Store, reference: str) -> Loaded:
    """Load the image under a tag or digest, for this machine's platform, unless the engine has it already.

    Raises `NotFoundError` naming the tags there are.
    """
    try:
        stored = read_image(store, reference, this_platform())
    except NotFoundError as error:
        tags = sorted(store.tags())
        offered = ", ".join(tags[:8]) + (", ..." if tags[8:] else "")
        raise NotFoundError(error.message, hint=f"there is {offered}" if tags else error.hint) from None
    name = engine_name(store.name, reference)
    known = has_image(engine, name, stored.manifest.config.digest)
    return Loaded(engine.kind, name, known or load(engine, image_of(store, stored), name))


def run_image(
    engine: Engine,
    store: Store,
    reference: str,
    command: Sequence[str],
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
    network: str = "",
    limits: Mapping[str, int] | None = None,
) -> int:
    """Run a command in an image of a cache; return the command's exit code. `limits` as for `ulimit`: `nofile`, ..."""
    loaded = load_image(engine, store, reference)
    return run(engine, loaded.image_id, command, stdout=stdout, stderr=stderr, network=network, limits=limits)


def engine_name(store_name: str, reference: str) -> str:
    """Return the name an image has in an engine: as a pull would name it, or below `localhost/` for a layout."""
    if reference.startswith("sha256:"):
        reference = reference.removeprefix("sha256:")[:12]
    if not store_name.startswith("oci-layout:"):
        return f"{store_name}:{reference}"
    base = store_name.rstrip("/").rpartition("/")[2].removeprefix("oci-layout:").lower()
    words = re.findall(r"[a-z0-9]+", base)
    if not words:
        raise UsageError(f"{store_name}: an engine needs a name with letters or digits", hint="rename the folder")
    return f"localhost/{'-'.join(words)}:{reference}"
