"""How long the way back takes, side by side: `docker pull` of an image, and installing the packages of the same layers.

    python registry-test/bench/install.py [--packages 60 | --largest 8] [--rounds 5]

Both get the same layers from the same registry on this machine, in turn; relocation to another root is included in
ours. Prints the medians, their ratio and our peak memory.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.real.base_images import busybox_image
from tests.support.real.components import cache_directory
from tests.support.real.debian_packages import Corpus, build_corpus
from tests.support.real.engines import DockerEngine, docker_engine
from tests.support.real.registry import RealRegistry, real_registry

BINPKG = [sys.executable, "-m", "oci_binpkg"]
MEASURE = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)


def timed(*command: str) -> tuple[float, int]:
    """Run a command; return seconds and peak memory in KiB."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - started, int(done.stdout)


def pull(docker: DockerEngine, image: str) -> float:
    started = time.perf_counter()
    docker.pull(image)
    seconds = time.perf_counter() - started
    docker.client("image", "rm", "--force", image)
    return seconds


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def keep_largest(corpus: Corpus, count: int) -> None:
    """Cut a corpus down to its largest packages, without dependencies between them."""
    head, *blocks = corpus.packages_toml.read_text().split("[[package]]\n")
    tables = tomllib.loads(corpus.packages_toml.read_text())["package"]
    sizes = [size_of(Path(table["prefix"])) for table in tables]
    largest = sorted(range(len(blocks)), key=lambda number: -sizes[number])[:count]
    for number, table in enumerate(tables):
        if number not in largest:
            shutil.rmtree(table["prefix"])
    kept = [re.sub(r"(?m)^depends = .*$", "depends = []", blocks[number]) for number in largest]
    corpus.packages_toml.write_text("[[package]]\n".join([head, *kept]))


def compare(
    registry: RealRegistry, docker: DockerEngine, directory: Path, *, packages: int, largest: int, rounds: int
) -> None:
    corpus = build_corpus(packages, cache=cache_directory() / "packages", directory=directory / "corpus")
    if largest:
        keep_largest(corpus, largest)
        packages = largest
    base = busybox_image(directory / "base")
    cache = f"oci://{registry.host}/bench"
    with_base = ["--base-image", f"oci-layout:{base.layout}:{base.tag}"]
    push = [*BINPKG, "push", cache, "--store", str(corpus.directory), "--update-index", "--tag", "all", *with_base]
    subprocess.run(push, check=True, capture_output=True)
    size = size_of(corpus.directory / "prefixes")
    pulls, installs, peaks = [], [], []
    for _ in range(rounds):
        pulls.append(pull(docker, f"{registry.host}/bench:all"))
        root = directory / "root"
        seconds, peak = timed(*BINPKG, "install-image", f"{cache}:all", "--store", str(root))
        installs.append(seconds)
        peaks.append(peak)
        shutil.rmtree(root)
    ours, theirs = statistics.median(installs), statistics.median(pulls)
    print(f"{packages} packages, {size / 1e6:.0f} MB of files, {rounds} rounds, medians")
    print(f"docker pull            {theirs:6.2f} s   (min {min(pulls):.2f}, max {max(pulls):.2f})")
    print(f"oci-binpkg install     {ours:6.2f} s   (min {min(installs):.2f}, max {max(installs):.2f})")
    print(f"ratio                  {theirs / ours:6.2f} x; our peak memory {max(peaks) / 1024:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--packages", type=int, default=60)
    parser.add_argument("--largest", type=int, default=0, help="only the so many largest of 200 packages")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as folder, docker_engine() as docker:
        directory = Path(folder)
        with real_registry(directory / "registry") as registry:
            count = 200 if options.largest else options.packages
            compare(registry, docker, directory, packages=count, largest=options.largest, rounds=options.rounds)


if __name__ == "__main__":
    main()
