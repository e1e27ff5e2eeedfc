"""What the check at the end of an install costs: 150 Debian packages, installed with it and without it, in turn.

    python registry-test/bench/end_check.py [--rounds N] [--count N]

Prints the CPU seconds, user and system together, of the fastest install of each kind, and how much more the check is.
Ends with 1 if that is more than 15 %. What else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measuring import ROOT

from tests.support.real.components import cache_directory
from tests.support.real.debian_packages import build_corpus

MOST: Final = 0.15
_WITH: Final = "import sys; from oci_binpkg.cli.app import main; main(sys.argv[1:])"
_WITHOUT: Final = (
    "import sys; from oci_binpkg.ops import install; from oci_binpkg.runs.obstacles import Verdict; "
    "install.check_runs = lambda *_: Verdict(); from oci_binpkg.cli.app import main; main(sys.argv[1:])"
)


def cpu_of(program: str, *arguments: str) -> float:
    """Run the command in a process of its own; return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [sys.executable, "-c", program, *arguments]
    subprocess.run(
        argv, check=True, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="installs of each kind (default 5)")
    parser.add_argument("--count", type=int, default=150, help="packages (default 150)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="end-check-") as name:
        folder = Path(name)
        corpus = build_corpus(arguments.count, cache=cache_directory() / "packages", directory=folder / "old")
        cache = f"oci-layout:{folder / 'cache'}"
        cpu_of(_WITH, "push", cache, "--store", str(corpus.directory), "--compression", "fast", "--update-index")
        names = [each.replace("+", "p").replace(".", "-") for each in corpus.names]
        best = {"with": float("inf"), "without": float("inf")}
        for number in range(arguments.rounds):
            for kind, program in (("with", _WITH), ("without", _WITHOUT)):
                seconds = cpu_of(program, "install", *names, "--from", cache, "--store", str(folder / "new"))
                shutil.rmtree(folder / "new")
                best[kind] = min(best[kind], seconds)
                print(f"{number + 1}/{arguments.rounds} {kind:8} {seconds:7.2f} s of CPU", flush=True)
    more = best["with"] / best["without"] - 1
    print(f"{len(names)} packages: {best['with']:.2f} s with the check, {best['without']:.2f} s without: {more:+.1%}")
    return 1 if more > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
