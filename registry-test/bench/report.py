"""Results as tables and as a plot. Needs the standard library alone: a test compares the documents with the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import plot
from measuring import Figures, figures

RESULTS: Final = "results.json"
MARKDOWN: Final = "results.md"
PLOT: Final = "results.svg"
BEGIN: Final = "<!-- measurements: written by registry-test/bench/run.py --documents -->"
END: Final = "<!-- end of measurements -->"
AGAIN: Final = "make bench"
COLUMNS: Final = (
    ("ours", "oci-binpkg"),
    ("buildah", "buildah"),
    ("buildah-layers", "buildah, layer per package"),
    ("buildah-images", "buildah, image per package"),
    ("podman", "podman"),
    ("docker", "docker"),
    ("docker-layers", "docker, layer per package"),
    ("skopeo", "skopeo + tar"),
    ("pigz", "tar | pigz"),
    ("limit", "limit"),
)
TRANSFERS: Final = ("push-", "install-")
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a job with its figures; `ratio` is its time over ours, None for ours."""

    key: str
    title: str
    role: str
    note: str
    extrapolated: bool
    found: Figures
    ratio: float | None

    @property
    def beats_us(self) -> bool:
        """Tell whether a peer was faster."""
        return self.role == "peer" and self.ratio is not None and self.ratio < 1


def read(folder: Path) -> Document:
    """Return the results in a folder."""
    document: Document = json.loads((folder / RESULTS).read_text())
    return document


def write(results: Document, folder: Path) -> None:
    """Write results, table and plot into a folder."""
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
    (folder / MARKDOWN).write_text(markdown(results))
    (folder / PLOT).write_text(svg(results))


def rows(job: Document) -> list[Row]:
    """Return the lines of a job; our first one is what the others are compared with."""
    summed = [(line, figures(line["samples"], line["factor"])) for line in job["lines"]]
    base = next(found.seconds for line, found in summed if line["role"] == "ours")
    return [
        Row(
            line["key"],
            line["title"],
            line["role"],
            line["note"],
            line["factor"] > 1,
            found,
            None if line["role"] == "ours" else found.seconds / base,
        )
        for line, found in summed
    ]


def markdown(results: Document) -> str:
    """Return all that was measured, a table for each job."""
    parts = ["# Measurements", *_about(results), *_corpora(results)]
    for job in results["jobs"]:
        parts += [f"## {job['title']}", "\n".join(_job_table(job, results)), *_notes(job)]
    return "\n\n".join(parts) + "\n"


def _about(results: Document) -> Iterator[str]:
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    yield f"Measured on {results['date']}: {machine}. Repeat it with `{AGAIN}`."
    yield (
        f"Medians of {_rounds(results)}; in a round every line of a job is run once, one after the other. The "
        "registry is on the same machine and empty before each push; nothing is cached but the files in the kernel's "
        "memory. Ratio: the time of the line over ours, so more than 1 is slower than we are; what is faster is **bold**. "
        "Memory: the largest process, and all of a daemon's. Requests: as the registry logged them; CPU s: what they cost "
        "it, on both cores together."
    )


def _rounds(results: Document) -> str:
    counts = sorted({job["rounds"] for job in results["jobs"]})
    return f"{' or '.join(map(str, counts))} {'round' if counts == [1] else 'rounds'}"


def _corpora(results: Document) -> Iterator[str]:
    if not results["corpora"]:
        return
    lines = ["| corpus | packages | files | MB of files | MB of tars | gzip -6 of these |", "|---|--:|--:|--:|--:|--:|"]
    for facts in results["corpora"].values():
        numbers = (facts["packages"], facts["files"])
        sizes = (facts["bytes"], facts["tar"], facts["gzip6"])
        cells = (facts["title"], *(f"{each:,}" for each in numbers), *(f"{each / 1e6:,.1f}" for each in sizes))
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)


def _job_table(job: Document, results: Document) -> Iterator[str]:
    yield "| | s | min - max | ratio | memory, MiB | requests | registry, CPU s | MB sent | of gzip -6 |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    gzip6 = results["corpora"].get(job["corpus"], {}).get("gzip6")
    for row in rows(job):
        found = row.found
        share = f"{found.size / gzip6:.2f}" if found.size and gzip6 else ""
        cells = (
            _escaped(row.title) + (" (extrapolated)" if row.extrapolated else ""),
            _seconds(found.seconds),
            f"{_seconds(found.shortest)} - {_seconds(found.longest)}",
            _ratio(row),
            *_means(row),
            _seconds(found.server) if found.server is not None else "",
            f"{found.size / 1e6:,.1f}" if found.size else "",
            share,
        )
        yield f"| {' | '.join(cells)} |"


def _notes(job: Document) -> Iterator[str]:
    notes = []
    for row in rows(job):
        several = ", ".join(f"{name} {_seconds(taken)} s" for name, taken in row.found.parts.items())
        said = "; ".join(each for each in (row.note, several if len(row.found.parts) > 1 else "") if each)
        if said:
            notes.append(f"- {row.title}: {said}")
    if notes:
        yield "\n".join(notes)


def _escaped(title: str) -> str:
    return title.replace("|", "\\|")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    shown = f"{row.ratio:.2f}"
    return f"**{shown}**" if row.beats_us else shown


def core(results: Document) -> str:
    """Return what docs/performance.md shows."""
    transfers = ([job for job in results["jobs"] if job["key"].startswith(kind)] for kind in TRANSFERS)
    others = [job for job in results["jobs"] if not job["key"].startswith(TRANSFERS)]
    parts = ["![Seconds for each job, ours and others'](images/performance.svg)"]
    parts += ["\n".join(_wide_table(jobs)) for jobs in transfers if jobs]
    if others:
        parts.append("\n".join(_small_table(others)))
    parts += [said for said in (_losses(results), _served(results), _shares(results)) if said]
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    parts.append(
        f"Medians of {_rounds(results)} in seconds, in brackets the time over ours (less than 1 is faster than we "
        f"are: bold). Everything is cold, with a registry on the same machine. The limit is the compression (or "
        "decompression) alone, in memory and on all cores, and reading (or writing) the same files. Extrapolated: ~. "
        f"Measured on {results['date']}: {machine}. `{AGAIN}` repeats it; memory, requests, sizes and what each line "
        "does are in `registry-test/bench/results/results.md`."
    )
    return "\n\n".join(parts)


def _wide_table(jobs: Sequence[Document]) -> Iterator[str]:
    tables = [(job, {row.key: row for row in rows(job)}) for job in jobs]
    columns = [(key, title) for key, title in COLUMNS if any(key in table for _, table in tables)]
    yield f"| | {' | '.join(_escaped(title) for _, title in columns)} | our memory, MiB | our requests |"
    yield f"|---|{'--:|' * len(columns)}--:|--:|"
    for job, table in tables:
        cells = [*(_cell(table.get(key)) for key, _ in columns), *_means(table["ours"])]
        yield f"| {job['title']} | {' | '.join(cells)} |"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.ratio is None:
        return _seconds(row.found.seconds)
    shown = f"{'~' if row.extrapolated else ''}{_seconds(row.found.seconds)} ({row.ratio:.2f})"
    return f"**{shown}**" if row.beats_us else shown


def _small_table(jobs: Sequence[Document]) -> Iterator[str]:
    yield "| | | s | ratio | memory, MiB | requests |"
    yield "|---|---|--:|--:|--:|--:|"
    for job in jobs:
        for number, row in enumerate(rows(job)):
            found = row.found
            title = job["title"] if number == 0 else ""
            cells = (title, _escaped(row.title), _seconds(found.seconds), _ratio(row), *_means(row))
            yield f"| {' | '.join(cells)} |"


def _means(row: Row) -> tuple[str, str]:
    """Return memory and requests, as far as they are known."""
    peak, requests = row.found.peak, row.found.requests
    return (f"{peak:,.0f}" if peak is not None else "", f"{requests:,.0f}" if requests is not None else "")


def _shares(results: Document) -> str:
    """Say how large the layers are that we send, beside gzip -6 of the same tars."""
    said = []
    for job in results["jobs"]:
        gzip6 = results["corpora"].get(job["corpus"], {}).get("gzip6")
        size = rows(job)[0].found.size
        if gzip6 and size:
            said.append(f"{size / gzip6:.2f} ({job['title'].lower()})")
    return f"The layers that we send, relative to `gzip -6` of the same tars: {', '.join(said)}." if said else ""


def _served(results: Document) -> str:
    """Say what of the time of our pushes is the registry's own: no client can be faster than that."""
    said = []
    for job in results["jobs"]:
        server = rows(job)[0].found.server
        if job["key"].startswith("push-") and server is not None:
            said.append(f"{_seconds(server)} ({job['title'].lower()})")
    return f"Seconds that the registry itself computed for our pushes: {', '.join(said)}." if said else ""


def _losses(results: Document) -> str:
    lost = [f"{job['title'].lower()} ({row.title})" for job in results["jobs"] for row in rows(job) if row.beats_us]
    return f"Others are faster here: {'; '.join(lost)}." if lost else "Nobody was faster in any of these."


def svg(results: Document) -> str:
    """Return the plot: seconds of the transfers."""
    groups = [
        plot.Group(
            job["title"],
            tuple(
                plot.Bar(row.title, row.found.seconds, row.role, _bar_label(row), not row.extrapolated)
                for row in rows(job)
            ),
        )
        for job in results["jobs"]
        if job["key"].startswith(TRANSFERS)
    ]
    return plot.draw(groups)


def _bar_label(row: Row) -> str:
    shown = f"{'~' if row.extrapolated else ''}{_seconds(row.found.seconds)} s"
    return shown if row.ratio is None else f"{shown}  ({row.ratio:.2f})"


HEADLINES: Final = (("push-a-gzip", "docker"), ("push-b-gzip", "podman"), ("install-b", "docker"))
"""The jobs of the README, each with the other tool that most readers have."""


def headlines(results: Document) -> str:
    """Return what the README shows: few numbers, each beside another tool's."""
    jobs = {job["key"]: job for job in results["jobs"]}
    lines = ["| | oci-binpkg | | |", "|---|--:|---|--:|"]
    for key, peer in HEADLINES:
        if key in jobs:
            table = {row.key: row for row in rows(jobs[key])}
            ours, other = table["ours"].found.seconds, table[peer].found.seconds
            lines.append(f"| {jobs[key]['title']} | {_seconds(ours)} s | {peer} | {_seconds(other)} s |")
    return "\n".join(lines)


def into_document(document: Path, text: str) -> None:
    """Replace what stands between the two markers. Raises `ValueError` where they are missing."""
    found = document.read_text()
    start, end = found.index(BEGIN) + len(BEGIN), found.index(END)
    document.write_text(f"{found[:start]}\n\n{text}\n\n{found[end:]}")


def into_documents(root: Path, results: Document) -> None:
    """Put the results into the README and the pages of a checkout."""
    into_document(root / "README.md", headlines(results))
    into_document(root / "docs" / "performance.md", core(results))
    (root / "docs" / "images" / "performance.svg").write_text(svg(results))
