"""Commands that are killed, and what must be true of a cache, a tree and a layer cache at every moment.

Nothing here uses the readers of the package under test: digests are computed anew over what is there.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.command_line import unmeasured_environment

REPOSITORY = Path(__file__).parents[1]
REF_NAME = "org.opencontainers.image.ref.name"
TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json")
PACKAGES = 12
LOOKS = 50


@dataclass(frozen=True)
class Run:
    """How a command ended. `killed`: the signal found it running; `seconds` is how long it ran."""

    code: int
    seconds: float
    killed: bool
    text: str


class Killer:
    """Runs commands in forked children (see `kill_server.py`)."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process = process
        self._output = output
        self.environment: dict[str, str] = {}

    def run(
        self,
        *arguments: object,
        after: float | None = None,
        kind: signal.Signals = signal.SIGKILL,
        at: int | None = None,
        places: Path | None = None,
    ) -> Run:
        """Run a command; send it a signal `after` so many seconds, if it still runs then.

        `places` is a file for the places that its main thread comes to; `at` interrupts it at one of these.
        """
        asked = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {name: os.environ[name] for name in os.environ if name.startswith("XDG_")}
            | {"HOME": os.environ["HOME"]}
            | self.environment,
            "after": after,
            "signal": int(kind),
            "output": str(self._output),
            "at": at,
            "places": str(places or ""),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        ended = json.loads(self._process.stdout.readline())
        text = self._output.read_text(errors="replace")
        assert not ended["stuck"], f"it does not end:\n{text[-2000:]}"
        return Run(ended["code"], ended["seconds"], ended["killed"], text)

    def undisturbed(self, *arguments: object) -> Run:
        """Run a command to its end, which must be a good one."""
        done = self.run(*arguments)
        assert done.code == 0, done.text
        return done


@contextmanager
def killer(directory: Path) -> Iterator[Killer]:
    """A `Killer` for the length of a block."""
    environment = {**unmeasured_environment(), "PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, str(Path(__file__).parent / "tools" / "kill_server.py")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield Killer(process, directory / "output.txt")
        finally:
            assert process.stdin
            process.stdin.close()


@dataclass
class Moments:
    """When to kill and how, from a seed: SIGKILL, and SIGINT every third time, over the length of a run."""

    seed: int
    kills: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def next(self, whole: float) -> tuple[float, signal.Signals]:
        return self._random.uniform(0, whole), self._random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))


def make_tree(root: Path, *, count: int = PACKAGES, filler: int = 40_000) -> Path:
    """Make small packages in prefixes of their own; each but the first needs the one before, or the first."""
    noise = random.Random(1)
    text = '[defaults]\narch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    for number in range(count):
        prefix = root / f"part{number}-1.0"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "share/empty").mkdir(parents=True)
        (prefix / "bin/run").write_text(f"#!/bin/sh\nexec {prefix}/bin/other {number}\n")
        (prefix / "bin/run").chmod(0o755)
        (prefix / "bin/other").symlink_to(f"{prefix}/bin/run")
        (prefix / "share/noise").write_bytes(noise.randbytes(filler))
        (prefix / "share/text").write_text(f"part {number} of {count} in {prefix}\n" * 400)
        needs = [f"part{number - 1 if number % 3 else 0}"] if number else []
        text += f'[[package]]\nname = "part{number}"\nversion = "1.0"\nprefix = "{prefix.name}"\ndepends = {needs}\n'
    (root / "packages.toml").write_text(text)
    return root


@dataclass(frozen=True)
class State:
    """What a cache shows: each package's manifest by its hash, and the index's entries of packages it has."""

    packages: dict[str, str]
    index: dict[str, Any]


def state_of(cache: str) -> State:
    """Read a cache and compute every digest of what it shows. Raises AssertionError for anything that is not whole."""
    if cache.startswith("oci-layout:"):
        return layout_state(Path(cache.removeprefix("oci-layout:")))
    if cache.startswith("file://"):
        return mirror_state(Path(cache.removeprefix("file://")))
    return registry_state(cache)


def oci_state(tags: dict[str, str], blobs: Any) -> State:
    """`blobs(digest, is_manifest)` gives the bytes."""
    packages, index, seen = {}, {}, set()
    for tag, digest in tags.items():
        manifest = json.loads(checked(blobs(digest, True), digest))
        contents = {}
        for part in (manifest["config"], *manifest["layers"]):
            if part["digest"] not in seen:
                contents[part["digest"]] = checked(blobs(part["digest"], False), part["digest"], part["size"])
                seen.add(part["digest"])
        if tag == "index.spack":
            index = listed(contents[manifest["layers"][-1]["digest"]])
        else:
            packages[tag.removesuffix(".spack").rpartition("-")[2]] = digest
    assert index.keys() <= packages.keys(), "the index lists what is not there"
    return State(packages, index)


def layout_state(path: Path) -> State:
    if not (path / "oci-layout").exists():
        return State({}, {})
    blobs = path / "blobs/sha256"
    whole_files(blobs)
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    tags = {entry["annotations"][REF_NAME]: entry["digest"] for entry in entries}
    return oci_state(tags, lambda digest, _: (blobs / digest.removeprefix("sha256:")).read_bytes())


def registry_state(cache: str) -> State:
    host, _, name = cache.removeprefix("oci://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)

    def get(path: str) -> tuple[int, bytes, str]:
        connection.request("GET", f"/v2/{name}/{path}", headers={"Accept": ", ".join(TYPES)})
        with connection.getresponse() as answer:
            return answer.status, answer.read(), answer.headers.get("Docker-Content-Digest", "")

    def blob(digest: str, manifest: bool) -> bytes:
        status, data, _ = get(f"{'manifests' if manifest else 'blobs'}/{digest}")
        assert status == 200, f"{digest} is missing: {status}"
        return data

    try:
        # the registry may be at work on what a program sent that was killed a moment ago: it lists a tag first
        for _ in range(LOOKS):
            status, data, _ = get("tags/list?n=1000")
            names = (json.loads(data)["tags"] or []) if status == 200 else []
            tags = {tag: get(f"manifests/{tag}")[2] for tag in names}
            if all(tags.values()):
                break
            time.sleep(0.1)
        return oci_state(tags, blob)
    finally:
        connection.close()


def mirror_state(path: Path) -> State:
    blobs = path / "blobs/sha256"
    whole_files(blobs)
    packages, index = {}, {}
    for file in visible(path / "v3/manifests"):
        records = json.loads(file.read_bytes())["data"]
        for record in records:
            data = (blobs / record["checksum"][:2] / record["checksum"]).read_bytes()
            checked(data, f"sha256:{record['checksum']}", record["contentLength"])
        if file.name == "index.manifest.json":
            index = listed(data)
        else:
            hashed = file.name.removesuffix(".spec.manifest.json").rpartition("-")[2]
            packages[hashed] = hashlib.sha256(file.read_bytes()).hexdigest()
    assert index.keys() <= packages.keys(), "the index lists what is not there"
    return State(packages, index)


def checked(data: bytes, digest: str, size: int | None = None) -> bytes:
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    assert size in (None, len(data))
    return data


def listed(data: bytes) -> dict[str, Any]:
    """The packages that an index says are in the cache."""
    document = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return {key: each["spec"] for key, each in document["database"]["installs"].items() if each["in_buildcache"]}


def visible(directory: Path) -> list[Path]:
    """Files below a directory that do not have a hidden name."""
    return [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")]


def whole_files(directory: Path) -> None:
    """Every file under its final name has the bytes of that name."""
    for path in visible(directory):
        if path.name != "index.json":
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, path


def whole_layer_cache(root: Path) -> int:
    """Blobs have the bytes of their names, records can be read and say what the blobs are. Return the number of both."""
    whole_files(root / "blobs")
    records = visible(root / "records")
    for path in records:
        record = json.loads(path.read_bytes())
        blob = root / "blobs/sha256" / record["digest"][7:9] / record["digest"][7:]
        assert record["key"] == path.stem
        assert not blob.exists() or blob.stat().st_size == record["size"]
    return len(records)


def snapshot(prefix: Path) -> dict[str, Any]:
    """Everything below a prefix: links, modes and content; of what records the moment of the install only the name."""
    found: dict[str, Any] = {}
    for path in prefix.rglob("*"):
        name, status = str(path.relative_to(prefix)), path.lstat()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir() or name.startswith(".spack/"):
            found[name] = stat.S_IMODE(status.st_mode)
        else:
            found[name] = (stat.S_IMODE(status.st_mode), hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def prefixes(root: Path) -> dict[str, dict[str, Any]]:
    """Every prefix below a tree under a final name, by that name."""
    places = [path for path in root.glob("linux-*/*") if not path.name.startswith(".")]
    return {path.name: snapshot(path) for path in places}


def recorded(root: Path) -> set[str]:
    """Names of the prefixes that the tree's database has as installed."""
    database = root / ".spack-db/index.json"
    if not database.exists():
        return set()
    installs = json.loads(database.read_bytes())["database"]["installs"].values()
    return {Path(each["path"]).name for each in installs if each["installed"]}


def forget(*paths: Path) -> None:
    for path in paths:
        if path.is_symlink():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
