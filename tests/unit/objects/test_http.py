"""Objects on a web server: versions, bodies that break off, and no writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_binpkg.errors import ContentError, NetworkError, NotFoundError, ServerError, UnsupportedError
from oci_binpkg.objects.protocol import exists
from oci_binpkg.objects.web import HttpObjects
from tests.support.mirrors import MirrorServer

LARGE = os.urandom(1_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MirrorServer]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "small").write_bytes(b"some bytes")
    (tmp_path / "folder" / "large").write_bytes(LARGE)
    with MirrorServer(tmp_path) as server:
        yield server


@pytest.fixture
def objects(server: MirrorServer) -> Iterator[HttpObjects]:
    with server.objects("folder") as objects:
        yield objects


def test_reads_and_knows_versions(server: MirrorServer, objects: HttpObjects) -> None:
    assert objects.name == f"{server.url}/folder"
    found = objects.read("small")
    assert found is not None
    assert found.data == b"some bytes"
    assert objects.read("small", known_etag=found.etag) is None
    (server.directory / "folder" / "small").write_bytes(b"others")
    assert objects.read("small", known_etag=found.etag).data == b"others"
    assert [status for _, _, status in server.log] == [200, 304, 200]


@pytest.mark.parametrize(
    ("changed", "trusted"),
    [("09:59:30", True), ("09:59:58", True), ("09:59:59", False), ("10:00:00", False), ("nonsense", True)],
)
def test_an_etag_made_of_time_and_size_counts_only_when_its_second_is_over(
    server: MirrorServer, objects: HttpObjects, changed: str, trusted: bool
) -> None:
    server.headers = {
        "Date": "Sun, 22 Nov 2026 10:00:00 GMT",
        "Last-Modified": f"Sun, 22 Nov 2026 {changed} GMT",
    }
    found = objects.read("small")
    assert found is not None
    assert bool(found.etag) is trusted


def test_a_server_without_versions_is_read_all_the_same(server: MirrorServer, objects: HttpObjects) -> None:
    server.versions = False
    found = objects.read("small")
    assert found is not None
    assert found.etag == ""
    assert objects.read("small", known_etag="").data == b"some bytes"


def test_sizes(server: MirrorServer, objects: HttpObjects) -> None:
    assert objects.size("large") == len(LARGE)
    assert exists(objects, "large", size=len(LARGE))
    assert not exists(objects, "large", size=5)
    assert not exists(objects, "absent")
    server.lengths = False
    with pytest.raises(ServerError, match="does not send the size"):
        objects.size("large")


def test_what_is_absent_is_not_found(objects: HttpObjects) -> None:
    with pytest.raises(NotFoundError):
        objects.read("absent")
    with pytest.raises(NotFoundError), objects.open("absent"):
        pass


def test_a_document_above_the_limit_is_refused(objects: HttpObjects) -> None:
    with pytest.raises(ContentError, match="larger than 9 bytes"):
        objects.read("small", limit=9)


def test_a_document_that_breaks_off_is_never_taken_for_whole(server: MirrorServer, objects: HttpObjects) -> None:
    server.cuts["folder/small"] = [4]
    assert objects.read("small").data == b"some bytes"
    server.cuts["folder/small"] = [0] * 20
    with pytest.raises(NetworkError):
        objects.read("small")


def test_names_with_odd_characters_are_escaped(server: MirrorServer, objects: HttpObjects) -> None:
    with pytest.raises(NotFoundError):
        objects.read("g++ 1?x#y")
    assert server.log[-1][1] == "folder/g%2B%2B%201%3Fx%23y"


def test_no_path_leads_out(objects: HttpObjects) -> None:
    with pytest.raises(ContentError, match="not a path"):
        objects.read("../small")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("versions", [True, False])
def test_a_download_goes_on_where_it_broke_off(
    server: MirrorServer, objects: HttpObjects, ranges: bool, versions: bool
) -> None:
    server.ranges, server.versions = ranges, versions
    server.cuts["folder/large"] = [300_000, 400_000, 500_000]
    with objects.open("large") as stream:
        assert stream.read() == LARGE
    assert [status for _, _, status in server.log] == [200] + [206 if ranges else 200] * (len(server.log) - 1)
    assert len(server.log) > 2


def test_a_download_without_a_length_ends_where_the_server_ends(server: MirrorServer, objects: HttpObjects) -> None:
    server.lengths = False
    with objects.open("large") as stream:
        assert stream.read() == LARGE


def test_a_download_that_makes_no_progress_is_given_up(server: MirrorServer, objects: HttpObjects) -> None:
    server.cuts["folder/large"] = [0] * 20
    with objects.open("large") as stream, pytest.raises(NetworkError):
        stream.read()
    assert len(server.log) == 6


def test_an_object_that_changes_under_a_download_is_an_error(server: MirrorServer, objects: HttpObjects) -> None:
    server.cuts["folder/large"] = [300_000]
    server.on_cut = lambda: (server.directory / "folder" / "large").write_bytes(LARGE[::-1]) and None  # type: ignore[assignment]
    with objects.open("large") as stream, pytest.raises(ContentError, match="was replaced while it was read"):
        stream.read()


def test_nothing_is_written_listed_or_removed(objects: HttpObjects) -> None:
    with pytest.raises(UnsupportedError, match="only read") as caught:
        objects.write("a", b"x")
    assert "file://" in caught.value.hint
    with pytest.raises(UnsupportedError, match="only read"):
        objects.remove("small")
    with pytest.raises(UnsupportedError, match="cannot list"):
        objects.list("folder")
