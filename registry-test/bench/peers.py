"""The tools we compare ourselves with: what each has to run to push a corpus, and to bring it back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from corpora import Corpus
from measuring import Command, Line, Sample, timed
from workbench import Place, fresh_place, settle

from tests.support.real.components import command_path
from tests.support.real.engines import DockerEngine
from tests.support.real.process import clean_environment, short_directory

MOST_LAYERS: Final = 120
"""Docker and Podman refuse images of 127 layers or more."""
SAMPLE: Final = 20
DAEMONS: Final = "memory: client and daemons"
ONE_LAYER: Final = "FROM scratch\nCOPY prefixes /prefixes\n"


def on_storage(tool: str, folder: Path, *words: str) -> Command:
    """Return a command of buildah or podman on a storage of its own, in a folder."""
    return [command_path(tool), "--root", str(folder / "storage"), "--runroot", str(folder / "run"), *words]


def _push(place: Place, tool: str, image: str, codec: str) -> Command:
    chosen = ("--compression-format", "zstd") if codec == "zstd" else ()
    target = f"docker://{place.registry.host}/{image}:latest"
    return on_storage(tool, place.folder, "push", "--tls-verify=false", *chosen, image, target)


def buildah_one_layer(corpus: Corpus, codec: str) -> Line:
    """All packages in one layer: add, commit, push."""

    def run() -> Sample:
        with fresh_place() as place:
            commands = _buildah_image(place, corpus.root / "prefixes", "all", codec)
            return place.sent(place.measured(commands, place.env))

    return Line("buildah", "buildah, one layer", "peer", run)


def _buildah_image(place: Place, source: Path, name: str, codec: str) -> list[Command]:
    return [
        on_storage("buildah", place.folder, "from", "--name", f"work-{name}", "scratch"),
        on_storage("buildah", place.folder, "add", "--quiet", f"work-{name}", str(source), "/prefixes"),
        on_storage("buildah", place.folder, "commit", "--quiet", f"work-{name}", name),
        _push(place, "buildah", name, codec),
    ]


def buildah_layers(corpus: Corpus, codec: str) -> Line:
    """One layer for each package, in as many images as that takes."""

    def run() -> Sample:
        with fresh_place() as place:
            commands: list[Command] = []
            for number, part in enumerate(_parts(corpus.prefixes)):
                name, file = f"part{number}", _dockerfile(place.folder / f"Dockerfile{number}", part)
                where = ("--file", str(file), "--tag", name, str(corpus.root))
                commands += [
                    on_storage("buildah", place.folder, "build", "--layers", "--no-cache", "--quiet", *where),
                    _push(place, "buildah", name, codec),
                ]
            return place.sent(place.measured(commands, place.env))

    images = len(_parts(corpus.prefixes))
    note = f"a layer for each package, in {images} images: engines take fewer than 127 layers"
    return Line("buildah-layers", "buildah, one layer per package", "peer", run, note)


def buildah_images(corpus: Corpus, codec: str) -> Line:
    """An image for each package, of a sample; the figures are multiplied."""
    step = len(corpus.prefixes) // SAMPLE

    def run() -> Sample:
        with fresh_place() as place:
            commands: list[Command] = []
            for number, prefix in enumerate(corpus.prefixes[::step]):
                commands += _buildah_image(place, prefix, f"part{number}", codec)
            return place.sent(place.measured(commands, place.env))

    note = f"extrapolated from {SAMPLE} of {len(corpus.prefixes):,} packages, each an image: no image can have so many layers"
    return Line("buildah-images", "buildah, one image per package", "peer", run, note, extrapolated=step)


def podman_build(corpus: Corpus) -> Line:
    """`podman build` of a Dockerfile with one COPY, and its push."""

    def run() -> Sample:
        with fresh_place() as place:
            file = _one_copy(place)
            where = ("--file", str(file), "--tag", "all", str(corpus.root))
            build = on_storage("podman", place.folder, "build", "--no-cache", "--quiet", *where)
            commands = [build, _push(place, "podman", "all", "gzip")]
            return place.sent(place.measured(commands, place.env))

    note = "podman builds and pushes with buildah's libraries: with zstd and with more layers it is as buildah"
    return Line("podman", "podman build, push (one layer)", "peer", run, note)


def docker_build(corpus: Corpus, docker: DockerEngine) -> Line:
    """`docker build` of a Dockerfile with one COPY, and its push."""

    def run() -> Sample:
        with fresh_place() as place:
            return _docker(place, docker, corpus, [_one_copy(place)])

    return Line("docker", "docker build, push (one layer)", "peer", run, DAEMONS)


def docker_layers(corpus: Corpus, docker: DockerEngine) -> Line:
    """`docker build` with a COPY for each package, in as many images as that takes."""
    parts = _parts(corpus.prefixes)

    def run() -> Sample:
        with fresh_place() as place:
            files = [_dockerfile(place.folder / f"Dockerfile{n}", part) for n, part in enumerate(parts)]
            return _docker(place, docker, corpus, files)

    return Line("docker-layers", "docker build, push, one layer per package", "peer", run, f"{len(parts)} images")


def _docker(place: Place, docker: DockerEngine, corpus: Corpus, files: Sequence[Path]) -> Sample:
    images = [f"{place.registry.host}/part{number}" for number in range(len(files))]
    commands: list[Command] = []
    for file, image in zip(files, images, strict=True):
        where = ("--file", str(file), "--tag", image, str(corpus.root))
        commands += [
            docker.command("build", "--no-cache", "--quiet", *where),
            docker.command("push", "--quiet", image),
        ]
    sample = place.sent(place.measured(commands, docker.environment, docker))
    docker.client("image", "rm", "--force", *images)
    return sample


def tar_and_pigz(corpus: Corpus) -> Line:
    """The files through tar and pigz, thrown away: no digest, no image, no registry."""

    def run() -> Sample:
        settle()
        with short_directory() as folder:
            tar, pigz = command_path("tar"), command_path("pigz")
            script = '"$0" --create --file=- --directory="$1" prefixes | "$2" > /dev/null'
            command = ["/bin/bash", "-c", script, tar, str(corpus.root), pigz]
            return timed([command], env=clean_environment(folder))

    return Line("pigz", "tar | pigz > /dev/null", "limit", run, "gzip 6 of zlib, all cores; nothing is sent")


def docker_pull(place: Place, docker: DockerEngine) -> Line:
    """`docker pull` of an image that is there; the image is removed afterwards."""

    def run() -> Sample:
        image = f"{place.registry.host}/all"
        sample = place.measured([docker.command("pull", "--quiet", image)], docker.environment, docker)
        docker.client("image", "rm", "--force", image)
        return sample

    return Line("docker", "docker pull", "peer", run, f"{DAEMONS}, without the short-lived processes that unpack")


def podman_pull(theirs: Place) -> Line:
    """`podman pull` into an empty storage."""

    def run() -> Sample:
        with short_directory() as folder:
            image = f"docker://{theirs.registry.host}/all"
            pull = on_storage("podman", folder, "pull", "--quiet", "--tls-verify=false", image)
            return theirs.measured([pull], clean_environment(folder))

    return Line("podman", "podman pull", "peer", run)


def skopeo_and_tar(theirs: Place, layer: Path) -> Line:
    """`skopeo copy` to a directory and `tar` of the one layer."""

    def run() -> Sample:
        with short_directory() as folder:
            copied, out = folder / "copied", folder / "out"
            out.mkdir()
            source = f"docker://{theirs.registry.host}/all"
            commands: list[Command] = [
                [command_path("skopeo"), "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{copied}"],
                [command_path("tar"), "--extract", f"--file={copied / layer.parent.name}", f"--directory={out}"],
            ]
            return theirs.measured(commands, clean_environment(folder))

    return Line("skopeo", "skopeo copy, tar", "peer", run, "nothing is recorded or relocated")


def publish_with_buildah(place: Place, corpus: Corpus) -> None:
    """Push the image that peers pull: all packages in one layer, the form that costs them least."""
    place.measured(_buildah_image(place, corpus.root / "prefixes", "all", "gzip"), place.env)


def _one_copy(place: Place) -> Path:
    file = place.folder / "Dockerfile"
    file.write_text(ONE_LAYER)
    return file


def _dockerfile(file: Path, prefixes: Sequence[Path]) -> Path:
    copies = (json.dumps([f"prefixes/{each.name}", f"/prefixes/{each.name}"]) for each in prefixes)
    file.write_text("".join(["FROM scratch\n", *(f"COPY {copy}\n" for copy in copies)]))
    return file


def _parts(prefixes: Sequence[Path]) -> list[Sequence[Path]]:
    return [prefixes[start : start + MOST_LAYERS] for start in range(0, len(prefixes), MOST_LAYERS)]
