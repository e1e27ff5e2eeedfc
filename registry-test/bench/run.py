"""Measure ourselves beside others, in turn, and write down what came out.

    python registry-test/bench/run.py [--only JOB ...] [--corpus a|b|c|d ...] [--rounds N] [--folder DIR] [--output DIR]
    python registry-test/bench/run.py --documents

Every job is done by all who can do it, one after the other, and then again, for as many rounds as asked. Results go to
`results.json`, `results.md` and `results.svg`; jobs that were not run keep the results they had, if those were made on
the same machine. --documents puts the results into the README and docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import report
from jobs import JOBS, Job
from machine import describe, missing
from measuring import BENCH, ROOT, as_json
from workbench import Workbench

from tests.support.real.components import cache_directory


def measure(job: Job, bench: Workbench, rounds: int) -> dict[str, Any]:
    """Run all lines of a job in turn; return what the report needs."""
    samples: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        lines = job.lines(bench, stack)
        for number in range(1, rounds + 1):
            for line in lines:
                sample = as_json(line.run())
                samples.setdefault(line.key, []).append(sample)
                print(f"{job.key:<14} {number}/{rounds}  {line.title:<40} {sample['seconds']:8.2f} s", flush=True)
    described = [
        {
            "key": line.key,
            "title": line.title,
            "role": line.role,
            "note": line.note,
            "factor": line.extrapolated,
            "samples": samples[line.key],
        }
        for line in lines
    ]
    return {"key": job.key, "corpus": job.corpus, "title": job.title, "rounds": rounds, "lines": described}


def corpus_facts(bench: Workbench, letter: str) -> dict[str, Any]:
    """Return what the report says about a corpus."""
    corpus, sizes = bench.corpus(letter), bench.sizes(letter)
    return {
        "title": corpus.title,
        "packages": len(corpus.prefixes),
        "files": corpus.files,
        "bytes": corpus.size,
        "tar": sizes.tar,
        "gzip6": sizes.gzip6,
    }


def kept(output: Path, machine: dict[str, str]) -> dict[str, Any]:
    """Return earlier results, if they were made here."""
    empty: dict[str, Any] = {"machine": machine, "corpora": {}, "jobs": []}
    if not (output / report.RESULTS).exists():
        return empty
    found = dict(report.read(output))
    return found if found["machine"] == machine else empty


def run(jobs: list[Job], bench: Workbench, rounds: int, output: Path) -> None:
    """Measure jobs and write the results after each, so that an interrupted run leaves what it has."""
    output.mkdir(parents=True, exist_ok=True)
    results = kept(output, describe())
    order = [job.key for job in JOBS]
    for job in jobs:
        found = measure(job, bench, rounds)
        if job.corpus in "abc":
            results["corpora"][job.corpus] = corpus_facts(bench, job.corpus)
        others = [each for each in results["jobs"] if each["key"] != job.key and each["key"] in order]
        results["jobs"] = sorted([*others, found], key=lambda each: order.index(each["key"]))
        results["date"] = dt.datetime.now(dt.UTC).date().isoformat()
        report.write(results, output)


def choose(options: argparse.Namespace) -> list[Job]:
    """Return the jobs asked for; ends the program for a name that there is not."""
    known = {job.key for job in JOBS}
    unknown = [name for name in options.only if not any(key.startswith(name) for key in known)]
    if unknown:
        sys.exit(f"no job is called {', '.join(unknown)}; there are: {', '.join(job.key for job in JOBS)}")
    return [
        job
        for job in JOBS
        if (not options.only or job.key.startswith(tuple(options.only)))
        and (not options.corpus or job.corpus in options.corpus)
    ]


def main() -> None:
    """Do what was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="JOB", help="a job, or how several begin")
    parser.add_argument("--corpus", action="append", default=[], choices=["a", "b", "c", "d"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=cache_directory() / "bench", help="where corpora are kept")
    parser.add_argument("--output", type=Path, default=BENCH / "results")
    parser.add_argument("--documents", action="store_true", help="only put the results into README and docs")
    options = parser.parse_args()
    if options.documents:
        report.into_documents(ROOT, report.read(options.output))
        return
    if missing() or os.geteuid() != 0:
        sys.exit(f"needs root and, not found here: {', '.join(missing()) or 'nothing'} (`make parts` installs them)")
    started = time.monotonic()
    jobs = choose(options)
    run(jobs, Workbench(options.folder.resolve()), options.rounds, options.output)
    results = report.read(options.output)
    measured = [each for each in results["jobs"] if each["key"] in {job.key for job in jobs}]
    print(report.markdown({**results, "jobs": measured}))
    print(f"\nmeasured in {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
