"""The report on measurements: what it calculates, and that the documents show what was measured."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "registry-test" / "bench"
sys.path.insert(0, str(BENCH))

import report  # noqa: E402 - found by the line above


def line(key, role, *seconds, factor=1, **more):
    samples = [{"seconds": each, "peak": 10.0, "requests": 4, "size": 500_000, **more} for each in seconds]
    return {"key": key, "title": key, "role": role, "note": "", "factor": factor, "samples": samples}


def results(*lines, key="push-a-gzip"):
    job = {"key": key, "corpus": "a", "title": "Push it", "rounds": 3, "lines": list(lines)}
    corpora = {"a": {"title": "few", "packages": 2, "files": 3, "bytes": 900, "tar": 1000, "gzip6": 1_000_000}}
    return {"machine": {"CPU": "a fast one"}, "date": "2026-01-02", "corpora": corpora, "jobs": [job]}


@pytest.mark.parametrize(("file", "made"), [("README.md", report.headlines), ("docs/performance.md", report.core)])
def test_the_documents_show_the_results(file, made) -> None:
    text = (ROOT / file).read_text()
    shown = text[text.index(report.BEGIN) + len(report.BEGIN) : text.index(report.END)].strip()
    assert shown == made(report.read(BENCH / "results")), "run `registry-test/bench/run.py --documents`"


def test_the_plot_of_the_documents_is_that_of_the_results() -> None:
    assert (ROOT / "docs" / "images" / "performance.svg").read_text() == report.svg(report.read(BENCH / "results"))


def test_each_headline_is_our_time_beside_that_of_another_tool() -> None:
    text = report.headlines(results(line("ours", "ours", 2.0), line("docker", "peer", 9.0)))
    assert text.splitlines()[2:] == ["| Push it | 2.00 s | docker | 9.00 s |"]


@pytest.mark.parametrize(("file", "made"), [(report.MARKDOWN, report.markdown), (report.PLOT, report.svg)])
def test_table_and_plot_are_those_of_the_results(file, made) -> None:
    assert (BENCH / "results" / file).read_text() == made(report.read(BENCH / "results"))


def test_a_line_is_its_median_and_its_range_beside_ours() -> None:
    text = report.markdown(
        results(line("ours", "ours", 2.0, 1.0, 3.0, server=3.0), line("docker", "peer", 9.0, 4.0, 5.0, server=3.0))
    )
    assert "| ours | 2.00 | 1.00 - 3.00 |  | 10 | 4 | 3.00 | 0.5 | 0.50 |" in text
    assert "| docker | 5.00 | 4.00 - 9.00 | 2.50 | 10 | 4 | 3.00 | 0.5 | 0.50 |" in text


def test_a_peer_that_beats_us_is_shown_and_named() -> None:
    text = report.core(results(line("ours", "ours", 2.0), line("podman", "peer", 1.0), line("limit", "limit", 0.5)))
    assert "| Push it | 2.00 | **1.00 (0.50)** | 0.50 (0.25) | 10 | 4 |" in text
    assert "Others are faster here: push it (podman)." in text


def test_what_the_registry_computed_is_told() -> None:
    text = report.core(results(line("ours", "ours", 2.0, server=1.25)))
    assert "Seconds that the registry itself computed for our pushes: 1.25 (push it)." in text


def test_what_was_multiplied_is_marked_everywhere() -> None:
    measured = results(line("ours", "ours", 2.0), line("buildah-images", "peer", 0.5, factor=100))
    assert "~50.0 (25.00)" in report.core(measured)
    assert "| buildah-images (extrapolated) | 50.0 |" in report.markdown(measured)
    assert "~50.0 s" in report.svg(measured)


def test_machine_date_and_the_way_to_repeat_it_are_told() -> None:
    text = report.core(results(line("ours", "ours", 2.0)))
    assert re.search(r"Measured on 2026-01-02: CPU a fast one\..*`make bench`", text)


def test_the_plot_is_an_image_with_a_bar_for_each_line() -> None:
    drawn = ET.fromstring(report.svg(results(line("ours", "ours", 2.0), line("docker & co", "peer", 4.0))))
    bars = [float(each.get("width", "0")) for each in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == [220.0, 440.0]


def test_a_bar_that_was_not_measured_does_not_make_the_others_small() -> None:
    lines = line("ours", "ours", 2.0), line("images", "peer", 4.0, factor=100)
    drawn = ET.fromstring(report.svg(results(*lines)))
    bars = [float(each.get("width", "0")) for each in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == [440.0, 440.0]


def test_a_document_keeps_what_is_around_the_table(tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nof yesterday\n{report.END}\nafter\n")
    for _ in range(2):
        report.into_document(readme, report.core(results(line("ours", "ours", 2.0))))
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n\n!")
    assert text.endswith(f"\n\n{report.END}\nafter\n")
    assert "of yesterday" not in text
