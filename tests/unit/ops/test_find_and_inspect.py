"""What find, show and inspect say of a cache that Spack made, held against its data; and of what is damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.cache.oci import OciCache
from oci_binpkg.errors import AmbiguousQueryError, ContentError, NoMatchError, NotFoundError
from oci_binpkg.events import Warned
from oci_binpkg.model.content import OCI_MANIFEST, Blob
from oci_binpkg.model.query import Query
from oci_binpkg.ops.find import find_cached, find_installed, show
from oci_binpkg.ops.inspect import inspect_cache, inspect_image
from oci_binpkg.store.copy import copy
from oci_binpkg.store.layout import LayoutStore
from tests.support.memory_store import MemoryStore
from tests.support.spack_trees import Sketch, spack_tree

LAYOUT = Path(__file__).parents[3] / "fixtures" / "golden" / "oci-layout"
LIB_13 = "sha256:fbc07eb904d89280a5e0f25c2c025c06d37b77f38d8773fe244ba8ad2c841d27"


def golden() -> OciCache:
    return OciCache(LayoutStore(str(LAYOUT)), pause=lambda _: None)


def copied(*leave_out: str) -> OciCache:
    target = MemoryStore("copy")
    source = LayoutStore(str(LAYOUT))
    for tag in source.tags():
        if tag not in leave_out:
            copy(source, target, tag)
    return OciCache(target, pause=lambda _: None)


def queries(*texts: str) -> list[Query]:
    return [Query.parse(text) for text in texts]


def found(cache, *texts, observer=lambda _: None) -> list[str]:
    return [f"{f.spec.name}@{f.spec.version}" for f in find_cached(cache, queries(*texts), observer)]


def test_find_lists_the_five_packages_in_version_order():
    assert found(golden()) == ["greet@2.0", "greet@2.1", "greetcfg@0.9", "greetlib@1.2.0", "greetlib@1.3.0"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("greet", ["greet@2.0", "greet@2.1"]),
        ("greet@2.1", ["greet@2.1"]),
        ("greetlib+shout", ["greetlib@1.3.0"]),
        ("greetlib ~shout", ["greetlib@1.2.0"]),
        ("greet ^greetlib@1.2", ["greet@2.0"]),
        ("/ta3mesk", ["greetcfg@0.9"]),
        ("greetlib@1.3: os=debian12 target=x86_64 %gcc@12", ["greetlib@1.3.0"]),
    ],
)
def test_queries_select_golden_packages(query, expected):
    assert found(golden(), query) == expected


def test_several_queries_add_up():
    assert found(golden(), "greet@2.0", "greetcfg") == ["greet@2.0", "greetcfg@0.9"]


def test_without_an_index_the_packages_themselves_are_read():
    events: list[Any] = []
    cache = copied("index.spack")
    assert found(cache, observer=events.append) == found(golden())
    assert "no index" in next(event.text for event in events if isinstance(event, Warned))


def test_a_damaged_package_is_reported_and_passed_over():
    cache = copied("index.spack")
    both = cache.store.resolve("both")
    cache.store.tag(Blob(both, lambda: cache.store.open(both)), "greet-2.0-6fytamqgzio2shuhlaie55hiv2m2stdw.spack")
    events: list[Any] = []
    assert "greet@2.0" not in found(cache, observer=events.append)
    assert any("passed over" in event.text for event in events if isinstance(event, Warned))


def test_nothing_found_names_near_names():
    with pytest.raises(NoMatchError, match="greet"):
        show(golden(), Query.parse("grete"))


def test_show_wants_exactly_one():
    with pytest.raises(AmbiguousQueryError, match="greet@2"):
        show(golden(), Query.parse("greet"))


def test_show_tells_what_the_golden_data_says():
    shown = show(golden(), Query.parse("greetlib@1.3.0"))
    document = json.loads(json.dumps(shown.to_json()))
    assert document["layer"] == LIB_13
    assert document["size"] == 11972
    assert document["diff_id"].startswith("sha256:c28bd6e7")
    assert document["digest"].startswith("sha256:24d266ad")
    assert document["spec"] == "greetlib@=1.3.0+shout build_system=generic platform=linux os=debian12 target=x86_64"
    assert {dep["name"]: dep["types"] for dep in document["dependencies"]} == {
        "compiler-wrapper": ["build"],
        "gcc": ["build"],
        "gcc-runtime": ["link"],
        "glibc": ["link"],
    }


def test_inspecting_the_cache_lists_every_tag_with_its_kind():
    info = inspect_cache(golden())
    kinds = {tag.tag.split("-")[0]: tag.kind for tag in info.tags}
    assert kinds == {
        "both": "image",
        "greet": "package",
        "greetcfg": "package",
        "greetlib": "package",
        "index.spack": "index",
    }
    assert info.size == 11622 + 3179 + 7438 + 11972 + 7437 + 7422
    assert json.dumps(info.to_json())


def test_inspecting_both_names_its_packages_by_their_layers():
    (image,) = inspect_image(golden(), "both")
    assert [layer.package for layer in image.layers] == ["greet-2.1", "greet-2.0"]
    assert (image.size, image.missing, image.package) == (7437 + 7438, "", "")
    assert json.loads(json.dumps(image.to_json()))["platform"] == "linux/amd64"


def test_inspecting_a_package_tells_its_layers_in_order():
    (image,) = inspect_image(golden(), "greet-2.1-pciyz3mcnwsea3kxfvomliqdagbtq7g5.spack")
    assert [layer.package for layer in image.layers] == ["greetlib-1.3.0", "greetcfg-0.9", "greet-2.1"]
    assert image.package.startswith("greet@=2.1 ")


def test_the_index_is_no_image():
    with pytest.raises(ContentError, match="no image"):
        inspect_image(golden(), "index.spack")


def test_an_empty_cache_is_not_found():
    with pytest.raises(NotFoundError, match="no tags"):
        inspect_cache(OciCache(MemoryStore(), pause=lambda _: None))


def test_a_damaged_tag_is_shown_as_such():
    cache = copied()
    cache.store.tag(Blob.from_bytes(b'{"schemaVersion": 2, "config": {}}', OCI_MANIFEST), "broken")
    events: list[Any] = []
    kinds = {tag.tag: tag.kind for tag in inspect_cache(cache, events.append).tags}
    assert kinds["broken"] == "damaged"
    assert events


def test_find_installed_tells_explicit_from_needed(tmp_path):
    tree = spack_tree(
        tmp_path,
        [Sketch("glibc", external="/usr"), Sketch("zlib", explicit=False), Sketch("app", depends=["zlib", "glibc"])],
    )
    rows = {f.spec.name: f for f in find_installed(tree.installs(), [])}
    assert {name: f.state for name, f in rows.items()} == {"app": "explicit", "zlib": "implicit"}
    assert rows["app"].to_json()["prefix"] == str(tree.prefix("app"))
    assert [f.spec.name for f in find_installed(tree.installs(), queries("^zlib"))] == ["app"]
