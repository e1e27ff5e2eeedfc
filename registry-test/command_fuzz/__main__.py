"""Fuzz the whole command: `python -m command_fuzz --seconds 60`, in the folder `registry-test`.

`--case SEED:NUMBER` or a file runs one recipe again; what is found is kept in `--finds`, as small as it gets.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from command_fuzz import grammar, judge, runner, verbs  # noqa: E402 - they are found by the line above

CORPUS = HERE / "corpus"


def main() -> int:
    """Return 0 if nothing was found, else 1."""
    parser = argparse.ArgumentParser(prog="command_fuzz", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="recipes to run, and nothing else")
    parser.add_argument("--case", default="", metavar="SEED:NUMBER", help="run this case again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=0, help="so many cases")
    parser.add_argument("--seconds", type=float, default=0, help="as many cases as this time allows")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--corpus", action="store_true", help="run what was found once, too")
    parser.add_argument("--finds", type=Path, default=None, help="where what is found goes")
    parser.add_argument("--show", action="store_true", help="show what the calls print")
    given = parser.parse_args()
    verbs.commands()
    if given.files or given.case:
        return again(given)
    started = time.monotonic()
    results = list(parallel(given))
    return report(results, time.monotonic() - started, given)


def again(given: argparse.Namespace) -> int:
    """Run single recipes."""
    recipes = [json.loads(path.read_text(encoding="utf-8")) for path in given.files]
    if given.case:
        seed, _, number = given.case.partition(":")
        recipes.append(grammar.recipe(int(seed), int(number)))
        print(json.dumps(recipes[-1], indent=1))
    found: list[judge.Finding] = []
    with runner.bench() as bench:
        if given.show:
            _shown(bench)
        for recipe in recipes:
            found += bench.run(recipe)
        least = smaller(bench, recipes[-1], found[0]) if found and given.finds else {}
    if least:
        keep(given.finds, least, found[0].signature)
    for each in found:
        print(f"== {each.signature}\n{each.detail}")
    return int(bool(found))


def _shown(bench: runner.Bench) -> None:
    call = bench.call

    def shown(words: list[str], how: dict[str, Any]) -> runner.Ended:
        ended = call(words, how)
        text = (ended.out + ended.err).decode("utf-8", "replace")
        print(f"$ {' '.join(words)!a}\n{ascii(text)[:3000]}\n-> {ended.code}, {ended.mib:.0f} MiB, {ended.cpu:.2f} s")
        return ended

    bench.call = shown  # type: ignore[assignment, method-assign]


def smaller(bench: runner.Bench, recipe: dict[str, Any], finding: judge.Finding) -> dict[str, Any]:
    """Return a recipe with as little as possible that is still found."""
    best = recipe
    for key in ("calls", "edits", "files"):
        for position in reversed(range(len(best.get(key, ())))):
            tried = copy.deepcopy(best)
            del tried[key][position]
            if tried["calls"] and any(each.signature == finding.signature for each in bench.run(tried)):
                best = tried
    return best


def keep(folder: Path, recipe: dict[str, Any], signature: str) -> None:
    """Write a recipe that is found, with what it is found for."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(each if each.isalnum() else "-" for each in signature)[:100].strip("-")
    text = json.dumps({**recipe, "found": signature}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def parallel(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run cases in several processes; yield what each of them has to say."""
    pipes = []
    for worker in range(given.workers):
        reading, writing = os.pipe()
        if not os.fork():
            os.close(reading)
            try:
                with os.fdopen(writing, "w") as out:
                    json.dump(work(given, worker), out)
            except BaseException:  # noqa: BLE001 - a fault of ours, shown; the others go on
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append(reading)
    for reading in pipes:
        with os.fdopen(reading) as file:
            text = file.read()
        yield json.loads(text) if text else {"died": True}
        os.wait()


def work(given: argparse.Namespace, worker: int) -> dict[str, Any]:
    """Run every n-th case."""
    deadline = time.monotonic() + given.seconds if given.seconds else float("inf")
    most = given.cases or (10**9 if given.seconds else 0 if given.corpus else 200)
    found: dict[str, dict[str, Any]] = {}
    cases = 0
    with runner.bench() as bench:
        for name, recipe in recipes(given, worker, most):
            if time.monotonic() > deadline:
                break
            cases += 1
            for each in bench.run(recipe):
                known = found.setdefault(
                    each.signature, {"first": name, "count": 0, "detail": each.detail, "kind": each.kind}
                )
                known["count"] += 1
                if known["count"] == 1:
                    known["recipe"] = smaller(bench, recipe, each) if given.finds else recipe
        return {"cases": cases, "ran": bench.ran, "codes": bench.codes, "found": found, "locked": bench.locked}


def recipes(given: argparse.Namespace, worker: int, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the recipes of a worker: its part of the corpus, then its cases."""
    if given.corpus:
        for path in sorted(CORPUS.glob("*.json"))[worker :: given.workers]:
            yield path.name, json.loads(path.read_text(encoding="utf-8"))
    for number in range(given.first + worker, given.first + most, given.workers):
        yield f"{given.seed}:{number}", grammar.recipe(given.seed, number)


def report(results: list[dict[str, Any]], seconds: float, given: argparse.Namespace) -> int:
    """Print what was run and found."""
    died = [each for each in results if "died" in each]
    results = [each for each in results if "died" not in each]
    ran: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    found: dict[str, dict[str, Any]] = {}
    for each in results:
        ran.update(each["ran"])
        codes.update(each["codes"])
        for signature, known in each["found"].items():
            merged = found.setdefault(signature, {**known, "count": 0})
            merged["count"] += known["count"]
    for signature, known in sorted(found.items(), key=lambda item: -item[1]["count"]):
        print(f"== {known['count']} x {signature} (first: {known['first']})\n{known['detail'][-1500:]}")
        if given.finds:
            keep(given.finds, known["recipe"], signature)
    print(f"exit codes: {', '.join(f'{code}: {count}' for code, count in codes.most_common())}")
    cases = sum(each["cases"] for each in results)
    print(f"calls: {', '.join(f'{verb} {count}' for verb, count in sorted(ran.items()))}")
    locked = "read-only" if all(each["locked"] for each in results) else "NOT read-only"
    print(f"seed {given.seed}: {cases} cases, {sum(ran.values())} calls, {seconds:.0f} s; the machine was {locked}")
    kinds = Counter(known["kind"] for known in found.values())
    print(f"found: {', '.join(f'{kind} {count}' for kind, count in kinds.items()) or 'nothing'}")
    return int(bool(found or died))


if __name__ == "__main__":
    sys.exit(main())
