"""The jobs: what is done, with what, and by whom. Lines of a job are run in turn, in the order they have here."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import peers
from indices import fill, package_hash, package_name, publish, without_one
from measuring import BENCH, Line, Sample, task, timed
from workbench import OURS, Place, Workbench, fresh_place, layers_in, our_environment, settle, task_line

from tests.support.real.components import command_path
from tests.support.real.engines import docker_engine
from tests.support.real.process import clean_environment, short_directory

INDICES: Final = (1_000, 10_000, 100_000)
Lines = Callable[[Workbench, ExitStack], list[Line]]
"""Prepares what all rounds share - it is closed with the stack - and returns what is to be measured."""


@dataclass(frozen=True, slots=True)
class Job:
    """`corpus` is a letter: a, b, c are corpora, d the indices, and - is none."""

    key: str
    corpus: str
    title: str
    lines: Lines
    note: str = ""


def ours(title: str, run: Callable[[], Sample], *, key: str = "ours", note: str = "") -> Line:
    """Return a line of our own command."""
    return Line(key, title, "ours", run, note)


def cold_push(bench: Workbench, stack: ExitStack, *, letter: str, codec: str) -> list[Line]:
    """Push everything into an empty registry with empty caches, beside every peer that can."""
    corpus = bench.corpus(letter)

    def run() -> Sample:
        with fresh_place() as place:
            chosen = () if codec == "gzip" else ("--compression", codec)
            push = [*OURS, "push", place.cache, "--store", str(corpus.root), "--update-index", *chosen]
            return place.sent(place.measured([push], our_environment(place.folder)))

    lines = [ours("oci-binpkg push", run), peers.buildah_one_layer(corpus, codec)]
    if codec == "gzip" and letter == "a":
        lines.append(peers.buildah_layers(corpus, codec))
    if codec == "gzip" and letter == "c":
        lines.append(peers.buildah_images(corpus, codec))
    if codec == "gzip":
        lines.append(peers.podman_build(corpus))
        docker = stack.enter_context(docker_engine())
        lines.append(peers.docker_build(corpus, docker))
        if letter == "a":
            lines.append(peers.docker_layers(corpus, docker))
        lines.append(peers.tar_and_pigz(corpus))
    title = "compression in memory, and tar"
    note = "the same codec on all cores, and GNU tar reading the files into a pipe: one after the other"
    lines.append(task_line("limit", title, "limit", "compress", str(corpus.root), codec, note=note, memory=False))
    return lines


def way_back(bench: Workbench, stack: ExitStack, *, letter: str) -> list[Line]:
    """Bring everything back: ours relocated to another root, the peers' as one layer."""
    corpus = bench.corpus(letter)
    mine, theirs = stack.enter_context(fresh_place()), stack.enter_context(fresh_place())
    push = [*OURS, "push", mine.cache, "--store", str(corpus.root), "--update-index", "--tag", "all"]
    mine.measured([push], our_environment(mine.folder))
    peers.publish_with_buildah(theirs, corpus)
    docker = stack.enter_context(docker_engine())

    def run() -> Sample:
        with short_directory() as home:
            install = [*OURS, "install-image", f"{mine.cache}:all", "--store", str(home / "root")]
            return mine.measured([install], our_environment(home))

    return [
        ours("oci-binpkg install", run, note="verified, relocated to another root, recorded"),
        peers.docker_pull(theirs, docker),
        peers.podman_pull(theirs),
        peers.skopeo_and_tar(theirs, layers_in(theirs.registry)[0]),
        unpacking(mine),
    ]


def unpacking(place: Place) -> Line:
    """Decompress the layers in memory and write the files."""
    blobs = [str(path) for path in layers_in(place.registry)]

    def run() -> Sample:
        settle()
        with short_directory() as home:
            found = task("unpack", str(home / "out"), *blobs, env=our_environment(home))
        return replace(found, peak=None)

    note = "our layers on all cores: all are decompressed, then all files are written"
    return Line("limit", "decompression in memory, and writing", "limit", run, note)


def nothing_new(bench: Workbench, stack: ExitStack) -> list[Line]:
    """Ask for what is there already: a push of everything, and a check."""
    corpus = bench.corpus("c")
    place = stack.enter_context(fresh_place())
    env = our_environment(place.folder)
    push = [*OURS, "push", place.cache, "--store", str(corpus.root), "--update-index"]
    place.measured([push], env)
    check = [*OURS, "check", "--store", str(corpus.root), "--on", place.cache]
    return [
        ours("oci-binpkg push", lambda: place.measured([push], env)),
        ours("oci-binpkg check", lambda: place.measured([check], env), key="check"),
        python_line(),
    ]


def merging(bench: Workbench, stack: ExitStack, *, count: int) -> list[Line]:
    """Enter ten new packages into the index of a large cache in a registry."""
    index = bench.index(count)
    place = stack.enter_context(fresh_place())
    fill(place.registry, "large", index.document.read_bytes())
    turns = iter(range(sys.maxsize))
    env = our_environment(place.folder)

    address = f"oci+http://{place.registry.host}/large"

    def run() -> Sample:
        task("publish-new", place.registry.url, "large", str(next(turns)), env=env)
        return place.measured([[*OURS, "index", "update", address]], env)

    parse = [sys.executable, str(BENCH / "tasks.py"), "parse-and-write", str(index.document), "/dev/null"]
    note = "a process that does nothing else"
    return [
        ours("oci-binpkg index update", run, note="ten packages; the tags are listed, what is new is read"),
        Line("limit", "parsing and writing the index", "limit", lambda: timed([parse], env=env), note),
    ]


def searching(bench: Workbench, stack: ExitStack, *, count: int) -> list[Line]:
    """Find packages by name and by hash among many."""
    index = bench.index(count)
    home = stack.enter_context(short_directory())
    layout, cache = home / "layout", home / "cache"
    versions = itertools.cycle([index.document.read_bytes(), without_one(index.document.read_bytes())])
    publish(layout, next(versions))
    (home / "config.toml").write_text(f'[caches.bench]\nurl = "oci-layout:{layout}"\n')
    env = {**our_environment(home), "OCI_BINPKG_CONFIG": str(home / "config.toml")}
    name = package_name(count // 2)
    queries = {
        "NAME": name,
        "/HASH": f"/{package_hash(count // 2)[:7]}",
        "^NAME": f"^{name}",
        "+VARIANT": "+unusual",
    }
    by_query = [
        ours(f"oci-binpkg find {title}", partial(command, ["find", "--all-arch", query], env), key=title)
        for title, query in queries.items()
    ]
    by_name = by_query[0].run
    unkept = partial(command, ["find", "--from", f"oci-layout:{layout}", name], env)

    def first() -> Sample:
        shutil.rmtree(cache, ignore_errors=True)
        return by_name()

    def changed() -> Sample:
        publish(layout, next(versions))
        return command(["find", "--all-arch", "--ttl", "0", name], env)

    return [
        ours("oci-binpkg find, for the first time", first, key="first", note="the index is read into the catalog"),
        ours("oci-binpkg find, one package changed", changed, key="changed"),
        *by_query,
        ours(
            "oci-binpkg find --from CACHE", unkept, key="find", note="without the catalog: the index is read each time"
        ),
        task_line("limit", "json.loads of the index", "limit", "load-json", str(index.document)),
    ]


def command(words: list[str], env: dict[str, str]) -> Sample:
    """Run our command without a registry."""
    settle()
    return timed([[*OURS, *words]], env=env)


def helping(_bench: Workbench, stack: ExitStack) -> list[Line]:
    """Answer --help."""
    home = stack.enter_context(short_directory())
    env = clean_environment(home)
    tools = ("docker", "podman", "skopeo")
    return [
        ours("oci-binpkg --help", lambda: command(["--help"], our_environment(home))),
        *(
            Line(tool, f"{tool} --help", "peer", partial(timed, [[command_path(tool), "--help"]], env=env))
            for tool in tools
        ),
        python_line(),
    ]


def python_line() -> Line:
    """Start and end the interpreter: what a command of ours cannot be faster than."""
    return Line("limit", "python -c pass", "limit", lambda: timed([[sys.executable, "-c", "pass"]], env={}))


def pushes() -> list[Job]:
    """Return the cold pushes."""
    names = {"a": "150 packages", "b": "one large package", "c": "2,000 small packages"}
    return [
        Job(f"push-{letter}-{codec}", letter, f"Push {name}, {codec}", partial(cold_push, letter=letter, codec=codec))
        for letter, name in names.items()
        for codec in ("gzip", "zstd")
    ]


JOBS: Final = (
    *pushes(),
    Job("install-a", "a", "Bring 150 packages back", partial(way_back, letter="a")),
    Job("install-b", "b", "Bring one large package back", partial(way_back, letter="b")),
    Job("again", "c", "Nothing new in 2,000 packages", nothing_new),
    *(Job(f"merge-{n}", "d", f"Add 10 packages to an index of {n:,}", partial(merging, count=n)) for n in INDICES),
    *(Job(f"find-{n}", "d", f"Find packages among {n:,}", partial(searching, count=n)) for n in INDICES),
    Job("help", "-", "Ask for help", helping),
)
