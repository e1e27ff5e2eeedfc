"""Bytes that are too many for memory are the same bytes, and leave nothing behind."""

import errno
import gc
import os
import tempfile

import pytest

from oci_binpkg.errors import LocalDiskError
from oci_binpkg.index.spool import Spool
from oci_binpkg.model.content import Digest

DATA = os.urandom(50_000)


def pieces():
    return [DATA[start : start + 7000] for start in range(0, len(DATA), 7000)]


def filled(in_memory: int) -> Spool:
    spool = Spool(in_memory=in_memory)
    for piece in pieces():
        spool.write(piece)
    return spool


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("in_memory", [0, 10_000, 49_999, 50_000])
def test_it_is_read_at_any_place_and_as_a_blob_again_and_again(folder, in_memory):
    spool = filled(in_memory)
    assert (spool.size, spool.digest) == (len(DATA), Digest.of(DATA))
    assert spool.read(12_345, 100) == DATA[12_345:12_445]
    assert spool.read(49_990, 100) == DATA[49_990:]
    blob = spool.blob("text/plain")
    assert [blob.read(), blob.read()] == [DATA, DATA]


def test_nothing_is_left_behind(folder):
    gc.collect()
    before = open_files()
    spool = filled(0)
    assert open_files() == before + 1
    assert os.listdir(folder) == []
    del spool
    assert open_files() == before


def test_little_stays_in_memory(folder):
    before = open_files()
    spool = Spool.of(DATA)
    assert open_files() == before
    assert spool.read(0, len(DATA)) == DATA


def test_a_disk_without_room_is_told(folder, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(LocalDiskError, match="No space left") as caught:
        filled(0)
    assert str(folder) in caught.value.message
    assert "TMPDIR" in caught.value.hint
