"""OCI image layouts on disk: what others wrote, what we write, and what can be wrong with both."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oci_binpkg.errors import ContentError, LocalDiskError, NotFoundError, UsageError
from oci_binpkg.model.content import OCI_INDEX, OCI_MANIFEST, Blob, Descriptor, Digest
from oci_binpkg.store import layout as layout_module
from oci_binpkg.store.layout import LayoutStore
from oci_binpkg.store.layout_index import REF_NAME, LayoutIndex
from oci_binpkg.store.protocol import Store
from oci_binpkg.times import Time
from tests.support.blobs import file_blob
from tests.support.stores import put_image, small_image

GOLDEN = Path(__file__).parents[3] / "fixtures" / "golden" / "oci-layout"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def store(path: Path) -> Store:
    return LayoutStore(str(path))


def index_at(path: Path) -> dict[str, Any]:
    document = json.loads((path / "index.json").read_bytes())
    assert isinstance(document, dict)
    return document


def change_index(path: Path, **members: Any) -> None:
    (path / "index.json").write_text(json.dumps(index_at(path) | members))


def blob_file(path: Path, digest: Digest) -> Path:
    return path / "blobs" / digest.algorithm / digest.hex


# what others wrote


def test_reads_a_layout_made_by_spack() -> None:
    store = LayoutStore(str(GOLDEN))
    tags = list(store.tags())
    assert tags == sorted(tags)
    assert "index.spack" in tags
    for tag in tags:
        descriptor = store.resolve(tag)
        assert descriptor.media_type == OCI_MANIFEST
        assert store.exists(descriptor)
        with store.open(descriptor) as stream:
            assert json.loads(stream.read())["schemaVersion"] == 2


def test_reads_entries_without_names_and_repeated_ones(store: Store, path: Path) -> None:
    named, nameless = small_image("named").manifest, small_image("nameless").manifest
    store.put(nameless)
    store.tag(named, "1.0")
    (entry,) = index_at(path)["manifests"]
    other = {"mediaType": OCI_MANIFEST, "digest": str(nameless.descriptor.digest), "size": nameless.descriptor.size}
    odd = {"annotations": {REF_NAME: 7}}
    change_index(path, manifests=[other, entry, entry, other, {"mediaType": "x/y", "annotations": None}, odd])
    assert list(store.tags()) == ["1.0"]
    assert store.resolve("1.0") == named.descriptor
    assert store.resolve(str(nameless.descriptor.digest)) == nameless.descriptor


def test_a_name_that_stands_for_two_manifests_is_ambiguous(store: Store, path: Path) -> None:
    store.tag(small_image("a").manifest, "a")
    store.tag(small_image("b").manifest, "b")
    entries = index_at(path)["manifests"]
    for entry in entries:
        entry["annotations"] = {REF_NAME: "same"}
    change_index(path, manifests=entries)
    with pytest.raises(ContentError, match="'same' stands for 2 manifests"):
        store.resolve("same")
    store.tag(small_image("b").manifest, "same")
    assert store.resolve("same") == small_image("b").manifest.descriptor


@pytest.mark.parametrize(
    "annotations",
    [
        {"org.opencontainers.image.ref.name": "docker.io/library/debian:latest"},
        {"io.containerd.image.name": "docker.io/library/debian:latest"},
        {"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "latest"},
        {},
        None,
    ],
)
def test_layouts_of_other_tools_have_full_names_or_none(
    store: Store, path: Path, annotations: dict[str, str] | None
) -> None:
    image = small_image()
    put_image(store, image, "prod")
    (entry,) = index_at(path)["manifests"]
    del entry["annotations"]
    change_index(path, manifests=[entry | ({} if annotations is None else {"annotations": annotations})])
    assert store.resolve("latest") == image.manifest.descriptor
    for tag in ("12", "atest", "index.spack"):
        with pytest.raises(NotFoundError):
            store.resolve(tag)


def test_of_several_images_without_a_name_none_is_meant(store: Store, path: Path) -> None:
    for name in ("a", "b"):
        put_image(store, small_image(name), name)
    entries = index_at(path)["manifests"]
    change_index(path, manifests=[{key: entry[key] for key in ("mediaType", "digest", "size")} for entry in entries])
    with pytest.raises(ContentError, match="stands for 2 manifests"):
        store.resolve("latest")


def test_a_name_that_is_no_tag_can_be_read(store: Store, path: Path) -> None:
    store.tag(small_image().manifest, "x")
    (entry,) = index_at(path)["manifests"]
    change_index(path, manifests=[entry | {"annotations": {REF_NAME: "registry.example/app:1.0"}}])
    assert list(store.tags()) == ["registry.example/app:1.0"]
    assert store.resolve("registry.example/app:1.0") == small_image().manifest.descriptor


def test_what_others_put_into_the_index_survives(store: Store, path: Path) -> None:
    store.tag(small_image("mine").manifest, "b")
    foreign = {"mediaType": "x/y", "digest": "blake3:00", "size": 1, "odd": [1, 2], "annotations": {"k": "v"}}
    (entry,) = index_at(path)["manifests"]
    entry["annotations"]["note"] = "keep"
    change_index(path, manifests=[foreign, entry], annotations={"by": "somebody"}, unknown={"a": 1})
    store.tag(small_image("other").manifest, "a")
    store.tag(small_image("mine").manifest, "b")
    found = index_at(path)
    assert found["annotations"] == {"by": "somebody"}
    assert found["unknown"] == {"a": 1}
    assert [e["annotations"].get(REF_NAME) for e in found["manifests"]] == ["a", "b", None]
    assert found["manifests"][1]["annotations"] == {REF_NAME: "b", "note": "keep"}
    assert found["manifests"][2] == foreign
    store.remove("a")
    assert index_at(path)["manifests"] == found["manifests"][1:]


def test_what_others_wrote_keeps_its_very_text(store: Store, path: Path) -> None:
    """Also white space, escapes, numbers that no double holds, and entries that look like ours in other places."""
    store.tag(small_image("mine").manifest, "b")
    (entry,) = index_at(path)["manifests"]
    plain = json.dumps(entry, separators=(",", ":"))
    odd = '{ "size": 1, "digest":"blake3:00","x":12345678901234567890.50, "annotations": {"note": "\\u00e9\\/"} }'
    named = plain.replace('"b"', '"\\u0063"').replace("}}", '},"platform":{"os":"linux",  "architecture":"arm64"}}')
    extra = f'"unknown" : [{plain},{plain}],  "big": 12345678901234567890'
    text = f'{{"schemaVersion": 2, {extra}, "manifests": [{odd},\n{plain},{named}], "annotations": {{}} }}\n'
    (path / "index.json").write_text(text)
    assert list(store.tags()) == ["b", "c"]
    store.tag(small_image("other").manifest, "a")
    written = (path / "index.json").read_text()
    for piece in (odd, plain, named, f"[{plain},{plain}]", '"big":12345678901234567890'):
        assert piece in written
    (mine,) = [e for e in index_at(path)["manifests"] if e.get("annotations", {}).get(REF_NAME) == "a"]
    assert index_at(path) == json.loads(text) | {"manifests": [mine, entry, json.loads(named), json.loads(odd)]}


@pytest.mark.parametrize("between", ["", " ", "\n   "])
def test_an_entry_that_is_damaged_among_many_good_ones_is_noticed(store: Store, path: Path, between: str) -> None:
    for name in ("a", "b", "c"):
        store.tag(small_image(name).manifest, name)
    text = (path / "index.json").read_text()
    damages = {
        '"size":': '"size":1,"size":',
        '"annotations":{': '"annotations":{"x":1e999,',
        '"mediaType"': '"\\ud800":1,"mediaType"',
        '},{"mediaType"': '}{"mediaType"',
        '[{"mediaType"': '[1{"mediaType"',
        '"digest":"': '"digest":"\x01',
    }
    for good, bad in damages.items():
        at = text.index(good, 60)
        (path / "index.json").write_text(text[:at] + bad + between + text[at + len(good) :])
        with pytest.raises(ContentError, match=r"index\.json: "):
            LayoutStore(str(path)).tags()


def test_what_another_process_changes_is_seen(path: Path) -> None:
    """Also a change of the same length, in the same file, within the resolution of its time."""
    now = 0.0
    one = LayoutStore(str(path), time=Time(now=lambda: now))
    for name in ("a", "b"):
        one.tag(small_image(name).manifest, name)
    file = path / "index.json"
    text, time = file.read_text(), 1_000_000_000
    swapped = text.replace('name":"a"', 'name":"c"')
    for now, content in ((1.0, text), (1.0, swapped), (2.5, text)):  # noqa: B007 - the clock reads it
        file.write_text(content)
        os.utime(file, ns=(time, time))
        assert list(one.tags()) == (["b", "c"] if content == swapped else ["a", "b"])
    now = 1e9
    assert list(one.tags()) == ["a", "b"]
    LayoutStore(str(path)).tag(small_image("d").manifest, "d")
    assert list(one.tags()) == ["a", "b", "d"]
    one.tag(small_image("e").manifest, "e")
    assert list(LayoutStore(str(path)).tags()) == ["a", "b", "d", "e"]


def test_an_index_that_did_not_change_is_not_taken_apart_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LayoutStore(str(path)).tag(small_image().manifest, "1.0")
    os.utime(path / "index.json", (1, 1))
    store = LayoutStore(str(path))
    store.resolve("1.0")
    monkeypatch.setattr(LayoutIndex, "parse", None)
    for _ in range(3):
        assert store.resolve("1.0") == small_image().manifest.descriptor


# many tags at once


def test_tags_of_a_batch_are_written_together_and_seen_before(path: Path) -> None:
    moments = [0.0]
    store = LayoutStore(str(path), time=Time(clock=lambda: moments[0]))
    writes: list[int] = []
    with store.batch():
        for number in range(100):
            moments[0] += 0.02
            store.tag(small_image(str(number)).manifest, f"tag-{number:02}")
            assert store.resolve(f"tag-{number:02}") == small_image(str(number)).manifest.descriptor
            assert len(list(store.tags())) == number + 1
            writes.append(len(index_at(path)["manifests"]))
    assert sorted(set(writes)) == [1, 26, 51, 76]
    assert len(index_at(path)["manifests"]) == 100
    store.tag(small_image("more").manifest, "more")
    assert len(index_at(path)["manifests"]) == 101


def test_threads_of_a_batch_do_not_wait_for_one_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LayoutStore(str(path), time=Time(clock=lambda: 0.0))
    begun, done = threading.Event(), threading.Event()
    written, chunks = [], LayoutIndex.chunks

    def slow(index: LayoutIndex) -> Iterator[bytes]:
        written.append(len(list(index.names)))
        begun.set()
        assert done.wait(60)
        yield from chunks(index)

    store.put(Blob.from_bytes(b"x"))
    monkeypatch.setattr(LayoutIndex, "chunks", slow)
    with ThreadPoolExecutor(1) as other, store.batch():
        first = other.submit(store.tag, small_image("first").manifest, "first")
        assert begun.wait(60)
        for number in range(5):
            store.tag(small_image(str(number)).manifest, str(number))
        done.set()
        first.result()
    assert written == [1, 6]
    assert len(list(LayoutStore(str(path)).tags())) == 6


@pytest.mark.parametrize("reason", [KeyboardInterrupt, LocalDiskError])
def test_a_batch_that_fails_writes_what_was_tagged(path: Path, reason: type[BaseException]) -> None:
    store = LayoutStore(str(path), time=Time(clock=lambda: 0.0))
    with pytest.raises(reason), store.batch():  # noqa: PT012
        for name in ("a", "b", "c"):
            store.tag(small_image(name).manifest, name)
        raise reason("stop")
    assert list(LayoutStore(str(path)).tags()) == ["a", "b", "c"]


def test_a_batch_whose_tags_cannot_be_written_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LayoutStore(str(path), time=Time(clock=lambda: 0.0))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(LocalDiskError, match=r"index\.json: full"), store.batch():  # noqa: PT012
        store.tag(small_image("a").manifest, "a")
        store.tag(small_image("b").manifest, "b")
        monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.undo()
    assert list(LayoutStore(str(path)).tags()) == ["a"]


def test_a_name_of_a_batch_can_be_removed(path: Path) -> None:
    store = LayoutStore(str(path), time=Time(clock=lambda: 0.0))
    with store.batch():
        for name in ("a", "b", "c"):
            store.tag(small_image(name).manifest, name)
        store.remove("b")
    assert list(LayoutStore(str(path)).tags()) == ["a", "c"]


def test_a_wrong_size_in_an_entry_is_mended_by_tagging(store: Store, path: Path) -> None:
    store.tag(small_image().manifest, "a")
    (entry,) = index_at(path)["manifests"]
    change_index(path, manifests=[entry | {"size": 1}])
    store.tag(small_image().manifest, "a")
    assert store.resolve("a") == small_image().manifest.descriptor


# what we write


def test_writes_a_layout_of_the_specification(store: Store, path: Path) -> None:
    put_image(store, small_image(), "1.0")
    assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    descriptor = small_image().manifest.descriptor
    assert index_at(path) == {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor.to_json() | {"annotations": {REF_NAME: "1.0"}}],
    }
    assert {p.name for p in path.iterdir()} == {"oci-layout", "index.json", "index.json.lock", "blobs"}
    assert len(list((path / "blobs" / "sha256").iterdir())) == 4


def test_the_order_of_writing_leaves_no_trace(tmp_path: Path) -> None:
    results = []
    for order in (("a", "b", "c"), ("c", "b", "a")):
        path = tmp_path / "".join(order)
        for tag in order:
            LayoutStore(str(path)).tag(small_image(tag).manifest, tag)
        results.append((path / "index.json").read_bytes())
    assert results[0] == results[1]


def test_files_are_as_public_as_the_umask_allows(store: Store, path: Path) -> None:
    blob = Blob.from_bytes(b"x")
    before = os.umask(0o022)
    try:
        store.put(blob)
    finally:
        os.umask(before)
    assert blob_file(path, blob.descriptor.digest).stat().st_mode & 0o777 == 0o644


def test_an_empty_directory_is_a_store_without_tags(store: Store, path: Path) -> None:
    path.mkdir()
    assert list(store.tags()) == []
    store.tag(small_image().manifest, "1.0")
    assert list(LayoutStore(str(path)).tags()) == ["1.0"]


def test_several_processes_tag_at_once_and_no_entry_is_lost(path: Path) -> None:
    program = (
        "import sys\n"
        "from oci_binpkg.store.layout import LayoutStore\n"
        "from tests.support.stores import small_image\n"
        "for n in range(12):\n"
        "    LayoutStore(sys.argv[1]).tag(small_image(sys.argv[2]).manifest, f'{sys.argv[2]}-{n}')\n"
    )
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=root) for name in ("one", "two", "three")
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert set(LayoutStore(str(path)).tags()) == {f"{name}-{n}" for name in ("one", "two", "three") for n in range(12)}


@pytest.mark.covers("R22")
def test_a_failed_write_leaves_nothing(store: Store, path: Path) -> None:
    descriptor = Blob.from_bytes(b"right").descriptor
    with pytest.raises(ContentError, match="put into oci-layout:"):
        store.put(Blob(descriptor, lambda: io.BytesIO(b"wrong")))
    assert list((path / "blobs" / "sha256").iterdir()) == []


def test_an_interrupted_write_leaves_nothing(store: Store, path: Path) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put(Blob(Blob.from_bytes(b"x").descriptor, interrupted))
    assert list((path / "blobs" / "sha256").iterdir()) == []


def test_a_source_that_cannot_be_read_is_named(store: Store, tmp_path: Path) -> None:
    blob = file_blob(str(tmp_path / "gone"), Blob.from_bytes(b"x").descriptor)
    with pytest.raises(LocalDiskError, match=f"{tmp_path / 'gone'}"):
        store.put(blob)


# what can be wrong


@pytest.mark.covers("B43")
@pytest.mark.parametrize("damaged", [b"", b"some", b"some bytes and more"])
def test_a_file_of_wrong_size_is_replaced(store: Store, path: Path, damaged: bytes) -> None:
    blob = Blob.from_bytes(b"some bytes")
    store.put(blob)
    blob_file(path, blob.descriptor.digest).write_bytes(damaged)
    assert not store.exists(blob.descriptor)
    assert store.put(blob) is True
    with store.open(blob.descriptor) as stream:
        assert stream.read() == b"some bytes"


@pytest.mark.covers("B43")
def test_a_link_is_read_if_its_bytes_are_right_and_replaced_by_writing(
    store: Store, path: Path, tmp_path: Path
) -> None:
    blob = Blob.from_bytes(b"some bytes")
    store.put(blob)
    file = blob_file(path, blob.descriptor.digest)
    outside = tmp_path / "outside"
    outside.write_bytes(b"some bytes")
    file.unlink()
    file.symlink_to(outside)
    with store.open(blob.descriptor) as stream:
        assert stream.read() == b"some bytes"
    outside.write_bytes(b"other byte")
    with pytest.raises(ContentError, match="has digest"), store.open(blob.descriptor) as stream:
        stream.read()
    outside.write_bytes(b"longer than before")
    assert store.put(blob) is True
    assert not file.is_symlink()
    assert outside.read_bytes() == b"longer than before"


@pytest.mark.covers("B43")
def test_a_dangling_link_is_absent_and_a_loop_is_an_error(store: Store, path: Path) -> None:
    blob = Blob.from_bytes(b"some bytes")
    store.put(blob)
    file = blob_file(path, blob.descriptor.digest)
    file.unlink()
    file.symlink_to("nowhere")
    assert not store.exists(blob.descriptor)
    with pytest.raises(NotFoundError), store.open(blob.descriptor):
        pass
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(LocalDiskError, match=file.name), store.open(blob.descriptor):
        pass
    with pytest.raises(LocalDiskError, match=file.name):
        store.exists(blob.descriptor)


@pytest.mark.covers("B43")
def test_a_directory_or_fifo_in_the_place_of_a_blob(store: Store, path: Path) -> None:
    blob = Blob.from_bytes(b"some bytes")
    store.put(blob)
    file = blob_file(path, blob.descriptor.digest)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ContentError, match="is not a file"), store.open(blob.descriptor):
        pass
    file.unlink()
    file.mkdir()
    assert not store.exists(blob.descriptor)
    with pytest.raises(ContentError, match="is not a file"), store.open(blob.descriptor):
        pass
    with pytest.raises(LocalDiskError, match=file.name) as caught:
        store.put(blob)
    assert "remove it" in caught.value.hint
    assert list(file.parent.iterdir()) == [file]


def test_a_layout_whose_maker_was_killed_before_the_marker_is_empty_and_completed(store: Store, path: Path) -> None:
    put_image(store, small_image(), "1.0")
    (path / "oci-layout").unlink()
    with pytest.raises(NotFoundError, match="is not an OCI image layout"):
        LayoutStore(str(path)).tags()
    change_index(path, manifests=[])
    assert list(LayoutStore(str(path)).tags()) == []
    put_image(LayoutStore(str(path)), small_image(), "2.0")
    assert list(LayoutStore(str(path)).tags()) == ["2.0"]


def test_what_killed_writers_left_is_removed_after_a_day(path: Path) -> None:
    put_image(LayoutStore(str(path)), small_image(), "1.0")
    left = [path / ".tmp-1", path / "blobs/sha256/.tmp-2"]
    for file in left:
        file.write_bytes(b"half")
    written = left[0].stat().st_mtime
    list(LayoutStore(str(path), time=Time(now=lambda: written + 90_000)).tags())
    put_image(LayoutStore(str(path), time=Time(now=lambda: written + 80_000)), small_image(), "2.0")
    assert all(file.exists() for file in left)
    put_image(LayoutStore(str(path), time=Time(now=lambda: written + 90_000)), small_image(), "3.0")
    assert not any(file.exists() for file in left)
    assert list(LayoutStore(str(path)).tags()) == ["1.0", "2.0", "3.0"]


@pytest.mark.parametrize("content", ["file", "absent", "other"])
def test_reading_what_is_no_layout_says_so(path: Path, content: str) -> None:
    if content == "file":
        path.write_text("not a directory")
    elif content == "other":
        path.mkdir()
        (path / "photo.jpg").write_text("")
    store = LayoutStore(str(path))
    with pytest.raises(NotFoundError, match="is not an OCI image layout") as caught:
        store.resolve("1.0")
    assert "oci-layout" in caught.value.hint
    with pytest.raises(NotFoundError):
        store.remove("1.0")
    assert not store.exists(Blob.from_bytes(b"x").descriptor)


def test_listing_what_is_no_layout_says_so(store: Store, path: Path) -> None:
    path.mkdir()
    (path / "photo.jpg").write_text("")
    with pytest.raises(NotFoundError, match="is not an OCI image layout"):
        store.tags()


def test_does_not_write_among_other_things(store: Store, path: Path) -> None:
    path.mkdir()
    (path / "photo.jpg").write_text("")
    with pytest.raises(UsageError, match="photo"):
        store.put(Blob.from_bytes(b"x"))
    assert [p.name for p in path.iterdir()] == ["photo.jpg"]


def test_does_not_write_where_a_file_is(store: Store, path: Path) -> None:
    path.write_text("")
    with pytest.raises(LocalDiskError, match=str(path)):
        store.put(Blob.from_bytes(b"x"))


def test_a_half_made_layout_is_completed(store: Store, path: Path) -> None:
    store.tag(small_image().manifest, "1.0")
    (path / "oci-layout").unlink()
    fresh = LayoutStore(str(path))
    fresh.put(Blob.from_bytes(b"x"))
    assert list(fresh.tags()) == ["1.0"]


def test_an_unknown_tag_lists_those_there_are(store: Store) -> None:
    store.tag(small_image().manifest, "tag-0")
    with pytest.raises(NotFoundError) as caught:
        store.resolve("none")
    assert caught.value.hint == "it has 'tag-0'"
    for n in range(1, 8):
        store.tag(small_image().manifest, f"tag-{n}")
    with pytest.raises(NotFoundError) as caught:
        store.remove("none")
    assert caught.value.hint.endswith("'tag-4' and 3 more")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oci-layout", "", "not valid JSON"),
        ("oci-layout", "{}", "imageLayoutVersion"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', "only 1.x"),
        ("oci-layout", '{"imageLayoutVersion": 1}', "only 1.x"),
        ("index.json", "{", "not valid JSON"),
        ("index.json", '{"schemaVersion": 1, "manifests": []}', "schemaVersion '1'"),
        ("index.json", '{"schemaVersion": true, "manifests": []}', "schemaVersion"),
        ("index.json", '{"schemaVersion": 2}', "manifests: a list is expected"),
        ("index.json", '{"schemaVersion": 2, "manifests": [1]}', "objects are expected"),
        ("index.json", '{"schemaVersion": 2, "schemaVersion": 2, "manifests": []}', "twice"),
    ],
)
@pytest.mark.covers("B01", "B06")
def test_broken_documents_are_named(store: Store, path: Path, name: str, content: str, message: str) -> None:
    store.tag(small_image().manifest, "1.0")
    (path / name).write_text(content)
    with pytest.raises(ContentError, match=message) as caught:
        LayoutStore(str(path)).resolve("1.0")
    assert str(path / name) in caught.value.message
    with pytest.raises(ContentError):
        LayoutStore(str(path)).tag(small_image("other").manifest, "2.0")
    assert (path / name).read_text() == content


def test_a_layout_without_an_index_is_incomplete(store: Store, path: Path) -> None:
    store.tag(small_image().manifest, "1.0")
    (path / "index.json").unlink()
    with pytest.raises(ContentError, match=r"has no index\.json"):
        store.resolve("1.0")


@pytest.mark.covers("B07")
def test_a_broken_entry_is_reported_when_it_is_asked_for(store: Store, path: Path) -> None:
    store.tag(small_image().manifest, "good")
    (entry,) = index_at(path)["manifests"]
    bad = entry | {"digest": "sha256:../../x", "annotations": {REF_NAME: "bad"}}
    change_index(path, manifests=[entry, bad])
    assert list(store.tags()) == ["bad", "good"]
    assert store.resolve("good") == small_image().manifest.descriptor
    with pytest.raises(ContentError, match=r"'bad'\.digest: not a digest"):
        store.resolve("bad")


def test_a_document_that_is_too_large_is_not_read(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.tag(small_image().manifest, "1.0")
    monkeypatch.setattr(layout_module, "_MAX_DOCUMENT", 40)
    with pytest.raises(ContentError, match="larger than 40 bytes"):
        store.resolve("1.0")


def test_a_large_blob_is_not_taken_for_a_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.tag(small_image().manifest, "1.0")
    blob = Blob.from_bytes(b"x" * 100)
    store.put(blob)
    monkeypatch.setattr(layout_module, "MAX_MANIFEST_BYTES", 99)
    with pytest.raises(NotFoundError, match="is not a manifest"):
        store.resolve(str(blob.descriptor.digest))


@pytest.mark.covers("F46")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_is_named(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    blob = Blob.from_bytes(b"some bytes")
    put_image(store, small_image(), "1.0")
    before = index_at(path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(LocalDiskError, match=blob.descriptor.digest.hex) as caught:
        store.put(blob)
    assert os.strerror(code) in caught.value.message
    assert bool(caught.value.hint) == (code != errno.EIO)
    with pytest.raises(LocalDiskError, match=r"index\.json"):
        store.tag(small_image().manifest, "2.0")
    monkeypatch.undo()
    assert index_at(path) == before
    assert not [p for p in path.rglob("*") if p.name.startswith(".tmp-")]


def test_a_descriptor_with_platform_and_annotations_can_be_tagged(store: Store, path: Path) -> None:
    found = small_image().manifest
    described = Descriptor(
        found.descriptor.media_type, found.descriptor.digest, found.descriptor.size, None, {REF_NAME: "old", "k": "v"}
    )
    store.tag(Blob(described, found.open), "new")
    assert index_at(path)["manifests"][0]["annotations"] == {REF_NAME: "new", "k": "v"}
    assert store.resolve("new") == found.descriptor
