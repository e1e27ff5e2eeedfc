"""What is measured inside a process: the limits, and steps that are no command of their own.

    python tasks.py NAME ARGUMENTS...

Prints one line of JSON: seconds (of the step itself, without what it has to prepare), peak in MiB, and seconds of parts.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CORES = os.cpu_count() or 1
ADDED = 10
Seconds = dict[str, float]


def clock(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def compress(root: str, codec_text: str) -> Seconds:
    """Compress the tars of all prefixes in memory, many side by side, one with all cores; then read the files once."""
    from oci_binpkg.archive.codec import Codec

    codec = Codec.parse(codec_text)
    prefixes = sorted(Path(root, "prefixes").iterdir())
    tars = sorted((tar_of(prefix) for prefix in prefixes), key=len, reverse=True)
    workers = min(CORES, len(tars))

    def one(tar: bytes) -> None:
        view = memoryview(tar)
        with codec.compressor(lambda _: None, threads=CORES // workers) as compressor:
            for start in range(0, len(view), 1 << 20):
                compressor.write(view[start : start + (1 << 20)])  # type: ignore[arg-type]

    def everything() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, tars))

    packing = clock(everything)
    tars.clear()
    reading = clock(lambda: read_with_tar(root))
    return {"compression": packing, "reading with GNU tar": reading}


def tar_of(prefix: Path) -> bytes:
    argv = ["tar", "--create", "--file=-", f"--directory={prefix.parent}", prefix.name]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout


def read_with_tar(root: str) -> None:
    argv = ["tar", "--create", "--file=-", f"--directory={root}", "prefixes"]
    # written to a pipe: GNU tar does not read the files when its output is /dev/null
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        while reading.stdout.read(1 << 20):
            pass


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a tar the content of a member is, and what is to be made of it."""

    path: Path
    kind: str
    start: int
    size: int
    target: str
    mode: int


def unpack(target: str, *blobs: str) -> Seconds:
    """Decompress layers in memory, then write their members, each step with all cores and nothing else."""
    from oci_binpkg.archive.codec import decompressor

    layers = sorted((Path(blob).read_bytes() for blob in blobs), key=len, reverse=True)
    tars: list[bytes] = []

    def decompress() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            tars.extend(pool.map(lambda layer: decompressor(io.BytesIO(layer), "a layer").read(), layers))

    decompressing = clock(decompress)
    work = [(tar, places_of(tar, Path(target))) for tar in tars]
    writing = clock(lambda: write(work))
    return {"decompression": decompressing, "writing": writing}


def places_of(tar: bytes, target: Path) -> list[Place]:
    kinds = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard link"}
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        return [
            Place(
                target / each.name.lstrip("/"),
                kinds.get(each.type, "file"),
                each.offset_data,
                each.size,
                str(target / each.linkname.lstrip("/")) if each.islnk() else each.linkname,
                each.mode,
            )
            for each in members
        ]


def write(work: Sequence[tuple[bytes, list[Place]]]) -> None:
    everything = [(tar, place) for tar, places in work for place in places]
    for folder in {place.path if place.kind == "directory" else place.path.parent for _, place in everything}:
        folder.mkdir(parents=True, exist_ok=True)
    files = [each for each in everything if each[1].kind in {"file", "link"}]

    def share(number: int) -> None:
        for tar, place in files[number::CORES]:
            write_one(tar, place)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(share, range(CORES)))
    for _, place in everything:
        if place.kind == "hard link":
            os.link(place.target, place.path)


def write_one(tar: bytes, place: Place) -> None:
    if place.kind == "link":
        os.symlink(place.target, place.path)
        return
    descriptor = os.open(place.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place.mode)
    with memoryview(tar)[place.start : place.start + place.size] as content:
        os.write(descriptor, content)
    os.close(descriptor)


def load_json(path: str) -> Seconds:
    """Let the standard library parse an index."""
    data = Path(path).read_bytes()
    return {"json.loads": clock(lambda: json.loads(data))}


def parse_and_write(path: str, target: str) -> Seconds:
    """Parse an index and write it."""
    from tests.support.opened_index import open_index

    data = Path(path).read_bytes()
    return {"parse and write": clock(lambda: Path(target).write_bytes(open_index(data, "index").to_bytes()))}


def publish_new(url: str, name: str, turn: str) -> Seconds:
    """Push ten packages that the index does not know."""
    from tests.support.mirrors import made_up

    with opened(url, name) as cache:
        for number in range(ADDED):
            cache.publish(made_up(f"new-{turn}-{number}"))
    return {}


@contextmanager
def opened(url: str, name: str) -> Iterator[Any]:
    """Give a cache that knows nothing yet, like a new process."""
    from oci_binpkg.cache.oci import OciCache
    from oci_binpkg.model.reference import Repository
    from oci_binpkg.store.registry.repository import RegistryStore
    from oci_binpkg.transport.registry_client import RegistryHttpClient

    with RegistryHttpClient(url) as client:
        repository = Repository("http", url.partition("://")[2], name)
        yield OciCache(RegistryStore(client, repository), pause=lambda _turn: None)


TASKS: dict[str, Callable[..., Seconds]] = {
    "compress": compress,
    "unpack": unpack,
    "load-json": load_json,
    "parse-and-write": parse_and_write,
    "publish-new": publish_new,
}


def main() -> None:
    name, *arguments = sys.argv[1:]
    parts = TASKS[name](*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": sum(parts.values()), "peak": peak, "parts": parts}))


if __name__ == "__main__":
    main()
