"""The script of the documents against a real registry, and the same registry after a script that was stopped."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from oci_binpkg import Cancel, CancelledError, Client, events
from tests.docs.world import fill_store
from tests.support.reader_script import run_script
from tests.support.real.registry import RealRegistry

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def store(workroot: Path) -> str:
    fill_store(workroot / "opt")
    return str(workroot / "opt")


def tags(registry: RealRegistry, name: str) -> set[str]:
    with urllib.request.urlopen(f"http://{registry.host}/v2/{name}/tags/list") as answer:
        return set(json.load(answer)["tags"])


def test_the_script_as_it_is_written(plain_registry: RealRegistry, store: str, tmp_path: Path) -> None:
    cache = f"oci://{plain_registry.host}/script"
    Client().push(cache, store, "zlib")  # the script looks for it
    names, printed = run_script(cache=cache, store=store, root=str(tmp_path / "apps"))
    assert names["report"].exit_code == 0  # type: ignore[attr-defined]
    assert printed.startswith("zlib ")
    assert any(tag.startswith("greet-2.0-") for tag in tags(plain_registry, "script"))
    assert [path.name.split("-")[0] for path in (tmp_path / "apps").glob("linux-*/greet-*")] == ["greet"]
    assert all(each.is_good for each in Client().verify_store(tmp_path / "apps"))


def test_a_script_that_is_stopped_and_run_again(plain_registry: RealRegistry, store: str) -> None:
    cache, cancel = f"oci://{plain_registry.host}/stopped", Cancel()

    def observe(event: events.Event) -> None:
        if isinstance(event, events.PackageFinished):
            cancel.cancel()

    with pytest.raises(CancelledError):
        Client(observer=observe, cancel=cancel).push(cache, store, ["greet@2.0"], update_index=True, jobs=1)
    report = Client().push(cache, store, ["greet@2.0"], update_index=True)
    assert report.exit_code == 0
    assert {result.outcome.value for result in report.packages} == {"pushed", "skipped"}
    assert {package.name for package in Client().find(cache=cache)} >= {"greet"}
