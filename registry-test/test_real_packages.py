"""Real software in real numbers: pushed, pushed again, killed and pushed, within bounds of memory and requests."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import binpkg
from tests.support.real.components import RealParts, cache_directory
from tests.support.real.debian_packages import Corpus, CorpusError, build_corpus
from tests.support.real.registry import RealRegistry, RegistryOptions

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PACKAGES = 200
KILLS = 12
MEBIBYTE = 1024 * 1024
MEMORY_LIMIT = 200 * MEBIBYTE
# A small process of its own starts the command: the peak of a child counts its parent's size at the time of the fork.
MEASURE = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


@pytest.fixture(scope="module")
def corpus(parts: RealParts, workroot: Path) -> Corpus:
    parts.require("debian-packages")
    try:
        return build_corpus(PACKAGES, cache=cache_directory() / "packages", directory=workroot / "corpus")
    except CorpusError as error:
        parts.give_up("debian-packages", str(error))


@pytest.fixture
def registry(start_registry: Callable[[RegistryOptions], RealRegistry]) -> Iterator[RealRegistry]:
    started = start_registry(RegistryOptions())
    yield started
    started.stop()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "oci_binpkg", *(str(argument) for argument in arguments)]


def peak_memory(*arguments: object) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a command; return how it ended and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command(*arguments)], capture_output=True, text=True, check=False
    )
    *err, kilobytes = done.stderr.rstrip("\n").split("\n")
    done.stderr = "\n".join(err)
    return done, int(kilobytes) * 1024


def confirmed_uploads(registry: RealRegistry) -> Counter[str]:
    """How often each blob's upload was confirmed."""
    puts = (line for line in registry.requests() if line.method == "PUT" and "/blobs/uploads/" in line.path)
    return Counter(re.findall(r"digest=sha256%3A([0-9a-f]{64})", line.path)[0] for line in puts if line.status == 201)


def test_200_packages_are_pushed_and_pushing_again_asks_next_to_nothing(corpus: Corpus, registry: RealRegistry) -> None:
    cache = f"oci://{registry.host}/debian"
    first, memory = peak_memory("push", cache, "--store", corpus.directory, "--update-index", "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert Counter(package["outcome"] for package in report["packages"]) == {"pushed": PACKAGES}
    assert memory < MEMORY_LIMIT, f"{memory / MEBIBYTE:.0f} MiB"
    assert max(confirmed_uploads(registry).values()) == 1
    assert len(binpkg("find", "--from", cache).lines) == PACKAGES

    registry.forget_requests()
    again = binpkg("push", cache, "--store", corpus.directory)
    assert again.code == 0, again.err
    assert f"0 pushed, {PACKAGES} skipped" in again.err
    requests = registry.requests()
    assert len(requests) <= 25, requests  # five packages are looked at with all their parts
    assert len({line.path for line in requests if "/manifests/" in line.path}) <= 5
    assert {line.method for line in requests if "/blobs/" in line.path} <= {"HEAD"}

    registry.forget_requests()
    indexed = binpkg("push", cache, "--store", corpus.directory, "--update-index")
    assert indexed.code == 0, indexed.err
    requests = registry.requests()
    assert len(requests) <= 25, requests  # five packages are looked at with all their parts
    assert "/v2/debian/manifests/index.spack" in {line.path for line in requests}


def test_a_push_that_is_killed_again_and_again_finishes_without_sending_anything_twice(
    corpus: Corpus, registry: RealRegistry, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    push = command("push", f"oci://{registry.host}/killed", "--store", corpus.directory, "--update-index")
    for _ in range(KILLS):
        running = subprocess.Popen(push, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moments.uniform(0.5, 1.6))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = subprocess.run(push, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert len(binpkg("find", "--from", f"oci://{registry.host}/killed").lines) == PACKAGES
    uploads = confirmed_uploads(registry)
    assert [digest for digest, count in uploads.items() if count > 1] == []
    assert len(uploads) >= 2 * PACKAGES


def test_a_prefix_of_two_gigabytes_is_pushed_in_little_memory(registry: RealRegistry, tmp_path: Path) -> None:
    prefix = tmp_path / "apps" / "large-1.0"
    prefix.mkdir(parents=True)
    noise = random.Random(1).randbytes(MEBIBYTE)
    with open(prefix / "data.bin", "wb") as file:
        for number in range(1024):
            file.write(number.to_bytes(8, "big") + noise[8:])
            file.write(bytes(MEBIBYTE))
    (tmp_path / "apps" / "packages.toml").write_text(
        '[[package]]\nname = "large"\nversion = "1.0"\nprefix = "large-1.0"\n'
        'arch = { platform = "linux", os = "debian12", target = "x86_64" }\n'
    )
    cache = f"oci://{registry.host}/large"
    done, memory = peak_memory("push", cache, "--store", tmp_path / "apps", "--json")
    assert done.returncode == 0, done.stderr
    (package,) = json.loads(done.stdout)["packages"]
    assert package["size"] > 1000 * MEBIBYTE
    assert memory < MEMORY_LIMIT, f"{memory / MEBIBYTE:.0f} MiB"
    print(f"peak memory {memory / MEBIBYTE:.0f} MiB")
    os.unlink(prefix / "data.bin")
