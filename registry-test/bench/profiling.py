"""Where the time of a job goes: py-spy samples the command while it works, and the samples are summed up by module.

    python registry-test/bench/profiling.py [--only JOB ...] [--folder DIR] [--output DIR]

Prints a table for each job: `self` is the time in a module's own lines and in what these call in C, `total` the time
in which the module was on the stack. Seconds are those of threads, so two busy cores count twice. The stacks
themselves, `JOB.folded`, are what flamegraph.pl and speedscope read.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from indices import package_name, publish
from measuring import ROOT
from workbench import OURS, Workbench, fresh_place, our_environment

from tests.support.real.components import cache_directory, find_command

RATE: Final = 200
"""Samples a second."""
SHOWN: Final = 14
PART: Final = 300
"""How many of the small packages are pushed."""
JOBS: Final = ("push-a", "push-c", "install-a", "find")
_FRAME: Final = re.compile(r"^(?P<function>.*) \((?P<file>[^():]+)(?::\d+)?\)$")


def recorded(words: list[str], env: dict[str, str], stacks: Path) -> Counter[tuple[str, ...]]:
    """Run our command under py-spy; return how often each stack was seen, outermost frame first."""
    sampler = [
        profiler(),
        "record",
        "--format",
        "raw",
        "--rate",
        str(RATE),
        "--nonblocking",
        "--full-filenames",
        "--output",
        str(stacks),
    ]
    done = subprocess.run(
        [*sampler, "--", *OURS, *words], check=False, capture_output=True, text=True, cwd=ROOT, env=env
    )
    if not stacks.exists():
        sys.exit(f"py-spy recorded nothing:\n{done.stderr[-2000:]}")
    found: Counter[tuple[str, ...]] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack:
            continue  # a thread that runs no Python
        found[tuple(stack.split(";"))] += int(count)
    return found


def profiler() -> str:
    """Return the path of py-spy, which the development requirements bring."""
    beside = Path(sys.executable).with_name("py-spy")
    path = str(beside) if beside.exists() else find_command("py-spy")
    if path is None:
        sys.exit("py-spy is not installed; the extra `dev` has it")
    return path


def module_of(frame: str) -> str:
    """Return a short name for where a frame is: a module of ours, or the library it belongs to."""
    match = _FRAME.match(frame)
    if match is None:
        return frame
    path = match["file"].removeprefix(f"{ROOT}/")
    inside = re.search(r"(?:^|/)oci_binpkg/(.+)$", path)
    if inside:
        return inside[1]
    library = re.search(r"site-packages/([^/]+)", path)
    return f"[{library[1]}]" if library else f"[python: {Path(path).name}]"


def table(title: str, stacks: Counter[tuple[str, ...]]) -> Iterator[str]:
    """Sum up stacks by module, those with the most time of their own first."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, count in stacks.items():
        modules = [module_of(frame) for frame in stack]
        own[modules[-1]] += count
        for module in set(modules):
            total[module] += count
    everything = sum(own.values())
    yield f"\n{title}: {everything / RATE:.1f} s of threads"
    yield f"  {'self s':>8} {'%':>5} {'total s':>8}  module"
    for module, count in own.most_common(SHOWN):
        yield f"  {count / RATE:8.2f} {100 * count / everything:5.1f} {total[module] / RATE:8.2f}  {module}"


def profile(job: str, bench: Workbench, output: Path) -> Counter[tuple[str, ...]]:
    """Run one job under the profiler."""
    stacks = output / f"{job}.folded"
    stacks.unlink(missing_ok=True)
    with ExitStack() as stack:
        place = stack.enter_context(fresh_place())
        env = our_environment(place.folder)
        if job == "find":
            index = bench.index(100_000)
            publish(place.folder / "layout", index.document.read_bytes())
            cache = f"oci-layout:{place.folder / 'layout'}"
            return recorded(["find", "--from", cache, package_name(index.count // 2)], env, stacks)
        corpus = bench.corpus(job[-1])
        queries = [prefix.name.rpartition("-")[0] for prefix in corpus.prefixes[:PART]] if job == "push-c" else []
        push = ["push", place.cache, *queries, "--store", str(corpus.root), "--update-index"]
        if job != "install-a":
            return recorded(push, env, stacks)
        place.measured([[*OURS, *push, "--tag", "all"]], env)
        (place.folder / "back").mkdir()
        back = ["install-image", f"{place.cache}:all", "--store", str(place.folder / "root")]
        return recorded(back, our_environment(place.folder / "back"), stacks)


def main() -> None:
    """Profile all jobs asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=JOBS)
    parser.add_argument("--folder", type=Path, default=cache_directory() / "bench", help="where corpora are kept")
    parser.add_argument("--output", type=Path, default=ROOT / "profile")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Workbench(options.folder.resolve())
    for job in options.only or JOBS:
        print("\n".join(table(job, profile(job, bench, options.output.resolve()))), flush=True)
    print(f"\nstacks for a flame graph: {options.output}/*.folded")


if __name__ == "__main__":
    main()
